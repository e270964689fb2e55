"""Synthetic GAP records: who did what to whom, and a pronoun; the word before it tells whom it means, or a third person is named."""

import random

from morocco_lib.data.synthetic._templates import draw_labels, draw_new, load

SIZES = {"train": 1500, "val": 300, "test": 300}
_DATA = load("gap")


def _draw(rng: random.Random, label: str) -> tuple:
    """Return the fields of a record."""
    gender = rng.choice(sorted(_DATA["names"]))
    a, b = (name + rng.choice(_DATA["surnames"]) for name in rng.sample(_DATA["names"][gender], 2))
    when, verb, where, link, tail = (
        rng.choice(words)
        for words in (_DATA["when"], _DATA["verbs"], _DATA["where"], _DATA["links"][label], _DATA["tails"])
    )
    third = f". {rng.choice(_DATA['roles'][gender])}" if label == "NEITHER" else ""
    to_a, pronoun = f"{when} ", _DATA["pronouns"][gender]
    to_b = f"{to_a}{a} {verb} "
    to_pronoun = f"{to_b}{b} {where}{third}{link} "
    return f"{to_pronoun}{pronoun} {tail}.", pronoun, len(to_pronoun), a, len(to_a), b, len(to_b)


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, str]]:
    """Return records with their true labels; texts are distinct within the split, a fifth of the pronouns mean neither name."""
    rng, seen = random.Random(f"gap/{split}/{seed}"), set()
    records, neither = [], size // 5
    counts = {"A": (size - neither) // 2, "B": (size - neither + 1) // 2, "NEITHER": neither}
    for number, (true_label, label) in enumerate(draw_labels(rng, counts)):
        drawn = draw_new(lambda true_label=true_label: _draw(rng, true_label), seen)
        names = ("Text", "Pronoun", "Pronoun-offset", "A", "A-offset", "B", "B-offset")
        record = {"idx": f"{split}-{number + 1}", **dict(zip(names, drawn, strict=True))}
        records.append((record if split == "test" else record | {"label": label}, true_label))
    return records
