"""Synthetic LiDiRus records: labelled pairs in the manner of the synthetic TERRa, with linguistic categories.

The scenes are TERRa's, because LiDiRus is meant for models trained on TERRa; lidirus.json maps the kind of a hypothesis
to the official categories of each group (a semicolon joins two categories into one value, as officially).
"""

import random

from morocco_lib.data.synthetic._templates import draw_labels, draw_new, fill, load
from morocco_lib.data.synthetic.terra import LABELS, SCENES, draw_slots

SIZES = {"LiDiRus": 400}
ENTAILMENT_SHARE = 0.42  # as in the official file
UNTAGGED_SHARE = 0.02
GROUPS = ("lexical-semantics", "predicate-argument-structure", "logic", "knowledge")  # in the official order of keys
CATEGORIES = load("lidirus")["categories"]


def _draw(rng: random.Random, true_label: str) -> tuple[str, str, str]:
    """Return premise, hypothesis and its kind."""
    scene, slots = rng.choice(SCENES), draw_slots(rng)
    kind, hypothesis = rng.choice(scene[true_label])
    return fill(rng.choice(scene["premises"]), slots), fill(hypothesis, slots), kind


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, str]]:
    """Return records with their true labels; pairs of sentences are distinct, and the only split has labels.

    Limits: a tenth of the labels is wrong. A model trained on the synthetic TERRa knows the scenes, so it scores far
        above real models on real LiDiRus; the categories are rough.
    """
    rng = random.Random(f"lidirus/{split}/{seed}")
    entailed = round(size * ENTAILMENT_SHARE)
    labels = draw_labels(rng, dict(zip(LABELS, (entailed, size - entailed), strict=True)))
    records, seen = [], set()
    for idx, (true_label, label) in enumerate(labels):
        premise, hypothesis, kind = draw_new(lambda label=true_label: _draw(rng, label), seen)
        tags = {} if rng.random() < UNTAGGED_SHARE else CATEGORIES[kind]
        record = {"idx": str(idx), "label": label, "sentence1": premise, "sentence2": hypothesis}
        records.append(({**record, **{group: tags[group] for group in GROUPS if group in tags}}, true_label))
    return records
