"""Synthetic records out of RuCoLA's domain: the same templates with another random stream."""

from morocco_lib.data.synthetic import rucola

SIZES = {"val": 300}


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, int]]:
    """Return what `rucola.records_with_truth` does."""
    return rucola.records_with_truth("ood", size, seed)
