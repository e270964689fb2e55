"""Synthetic LiDiRus records: labelled pairs in the manner of the synthetic TERRa, with linguistic categories.

The scenes are TERRa's, because LiDiRus is meant for models trained on TERRa; the kind of a hypothesis tells which of
the official categories it belongs to. There is one split, and it has labels.
"""

import random

from morocco_lib.data.synthetic._labels import draw_labels
from morocco_lib.data.synthetic.terra import LABELS, SCENES, _fill, _slots

SIZES = {"LiDiRus": 400}
NOISE_SHARE = 0.1
ENTAILMENT_SHARE = 0.42  # as in the official file
UNTAGGED_SHARE = 0.02
GROUPS = ("lexical-semantics", "predicate-argument-structure", "logic", "knowledge")  # in the official order of keys

# Kind of hypothesis -> categories of each group; a semicolon joins two categories into one value, as officially.
_CATEGORIES = {
    "actor": {"predicate-argument-structure": "Core args"},
    "antonym": {"lexical-semantics": "Lexical entailment"},
    "at_least": {"logic": "Intervals/Numbers"},
    "cancelled": {"lexical-semantics": "Factivity", "knowledge": "Common sense"},
    "cause": {"predicate-argument-structure": "Nominalization;Genitives/Partitives"},
    "consequence": {"knowledge": "Common sense"},
    "exaggeration": {"lexical-semantics": "Quantifiers", "logic": "Universal"},
    "generalisation": {"logic": "Upward monotone"},
    "negation": {"logic": "Negation"},
    "never": {"logic": "Universal;Negation"},
    "nobody": {"lexical-semantics": "Quantifiers", "logic": "Existential;Negation"},
    "not_opposite": {"lexical-semantics": "Lexical entailment", "logic": "Negation"},
    "number": {"logic": "Intervals/Numbers;Non-monotone"},
    "paraphrase": {"lexical-semantics": "Lexical entailment", "knowledge": "World knowledge"},
    "place": {"lexical-semantics": "Named entities", "predicate-argument-structure": "Prepositional phrases"},
    "refusal": {"lexical-semantics": "Factivity"},
    "roles": {"predicate-argument-structure": "Core args"},
    "time": {"predicate-argument-structure": "Prepositional phrases", "logic": "Temporal"},
    "unsupported": {"knowledge": "Common sense"},
}


def _draw(rng: random.Random, true_label: str) -> tuple[str, str, str]:
    """Return premise, hypothesis and its kind."""
    scene, slots = rng.choice(SCENES), _slots(rng)
    kind, hypothesis = rng.choice(scene.hypotheses[true_label])
    return _fill(rng.choice(scene.premises), slots), _fill(hypothesis, slots), kind


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, str]]:
    """Records as published beside the label that is true by construction (the published one may be flipped)."""
    rng = random.Random(f"lidirus/{split}/{seed}")
    entailed = round(size * ENTAILMENT_SHARE)
    records, seen = [], set()
    for idx, (true_label, label) in enumerate(
        draw_labels(rng, dict(zip(LABELS, (entailed, size - entailed), strict=True)), NOISE_SHARE)
    ):
        drawn = _draw(rng, true_label)
        while drawn in seen:
            drawn = _draw(rng, true_label)
        seen.add(drawn)
        *sentences, kind = drawn
        tags = {} if rng.random() < UNTAGGED_SHARE else _CATEGORIES[kind]
        record = {"idx": str(idx), "label": label, "sentence1": sentences[0], "sentence2": sentences[1]}
        records.append(({**record, **{group: tags[group] for group in GROUPS if group in tags}}, true_label))
    return records


def records(split: str, size: int, seed: int) -> list[dict]:
    """Return records in the schema of LiDiRus: does the second sentence follow from the first?

    Args:
        split: LiDiRus, the only one; it has labels.
        size: Number of records; pairs of sentences are distinct.
        seed: See `morocco_lib.data.synthetic.records`.
    Limits: a tenth of the labels is flipped. The scenes are those of the synthetic TERRa, so scores of a model trained
        there are far above those of real models on real LiDiRus; the categories are rough.
    """
    return [record for record, _ in records_with_truth(split, size, seed)]
