"""Labels of synthetic records, some of them wrong on purpose."""

import random
from collections.abc import Hashable, Mapping


def draw_labels(rng: random.Random, counts: Mapping[Hashable, int], share: float) -> list[tuple]:
    """Return a shuffled list of (true label, published label); `share` of the published ones are wrong.

    Args:
        rng: Source of chance.
        counts: Label -> number of records.
        share: Share of wrong labels; they are drawn evenly over the classes, to keep the balance.
    """
    labels, pairs = list(counts), []
    wrong = round(sum(counts.values()) * share)
    for place, label in enumerate(labels):
        others = [other for other in labels if other != label]
        flips = wrong // len(labels) + (place < wrong % len(labels))
        pairs += [(label, rng.choice(others) if at < flips else label) for at in range(counts[label])]
    rng.shuffle(pairs)
    return pairs
