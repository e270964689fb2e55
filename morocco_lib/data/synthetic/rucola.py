"""Synthetic RuCoLA records: who did what, when and where; a violation is a wrong ending, a wrong case, or a thing that acts."""

import random

from morocco_lib.data.synthetic._templates import draw_labels, draw_new, load

SIZES = {"train": 1500, "val": 300, "test": 300}
KINDS = ("Morphology", "Syntax", "Semantics")
ENDINGS = {"m": "", "f": "а", "p": "и"}
_DATA = load("rucola")


def _draw(rng: random.Random, kind: str | None) -> str:
    (who, gender), verb = rng.choice(_DATA["things" if kind == "Semantics" else "people"]), rng.choice(_DATA["verbs"])
    right, wrong = rng.choice(_DATA["objects"])
    ending = rng.choice([e for g, e in ENDINGS.items() if g != gender]) if kind == "Morphology" else ENDINGS[gender]
    thing = wrong if kind == "Syntax" else right
    when, where, how = (rng.choice(_DATA[name]) for name in ("when", "where", "with"))
    return f"{when} {who} {where} {verb}{ending} {thing} {how}."


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, int]]:
    """Return records with their true labels; sentences are distinct within the split, two thirds of them acceptable."""
    rng, seen = random.Random(f"rucola/{split}/{seed}"), set()
    records = []
    for idx, (true_label, label) in enumerate(draw_labels(rng, {1: size - size // 3, 0: size // 3})):
        kind = None if true_label else KINDS[idx % len(KINDS)]
        sentence = draw_new(lambda kind=kind: _draw(rng, kind), seen)
        known = {} if split == "test" else {"label": label, "error_type": "0" if label else kind or KINDS[0]}
        records.append(({"idx": idx, "sentence": sentence, **known}, true_label))
    return records
