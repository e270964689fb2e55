"""Synthetic PARus records: which of two sentences is the cause, or the effect, of the premise?

A scene of parus.json is (premise, its cause, its effect), and the two choices are always the cause and the effect.
Every filled scene is asked about in up to four ways: for the cause or the effect, with the choices in either order. The
records of a pair that differs in the order only have the same words and opposite labels, so counting words cannot tell
them apart.
"""

import random

from morocco_lib.data.synthetic._templates import AGREEMENT, NOISE_SHARE, draw_new, fill, load

SIZES = {"train": 800, "val": 200, "test": 200}

_DATA = load("parus")


def _draw(rng: random.Random) -> tuple[str, str, str]:
    """Return a filled scene: premise, cause, effect."""
    scene, (who, gender) = rng.choice(_DATA["scenes"]), rng.choice(_DATA["people"])
    slots = {"who": who, **AGREEMENT[gender]}
    premise, cause, effect = (fill(text, slots) + "." for text in (rng.choice(_DATA["times"]) + scene[0], *scene[1:]))
    return premise, cause, effect


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, int]]:
    """Return distinct records with their true labels; an even size has as many zeros as ones.

    Limits: a tenth of the labels is wrong. The few scenes recur in every split, so a model that sees the order of the
        words can memorise them, which real PARus does not allow.
    """
    rng = random.Random(f"parus/{split}/{seed}")
    wrong = round(size * NOISE_SHARE)
    pairs, seen = [], set()  # pairs of records with opposite labels; the last pair of an odd size is truncated
    while 2 * len(pairs) < size:
        premise, cause, effect = draw_new(lambda: _draw(rng), seen)
        questions = ["cause", "effect"]
        rng.shuffle(questions)
        for question in questions[: (size - 2 * len(pairs) + 1) // 2]:
            right, other = (cause, effect) if question == "cause" else (effect, cause)
            pairs.append([(premise, right, other, question, 0), (premise, other, right, question, 1)])
    # Wrong labels come in pairs too, else the noise would be a signal of its own; an odd number leaves a single one.
    chosen = rng.sample(pairs[: size // 2], (wrong + 1) // 2)
    flipped = {row for number, pair in enumerate(chosen) for row in pair[: wrong - 2 * number]}
    rows = [row for pair in pairs for row in pair][:size]
    rng.shuffle(rows)
    records = []
    for idx, row in enumerate(rows):
        *texts, true_label = row
        record = dict(zip(("premise", "choice1", "choice2", "question"), texts, strict=True))
        if split != "test":
            record["label"] = 1 - true_label if row in flipped else true_label
        records.append(({**record, "idx": idx}, true_label))
    return records
