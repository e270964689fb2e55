"""Synthetic RWSD records: a sentence with two people and a pronoun, and whether the pronoun means the given one.

The link between the clauses decides: after "потому что" the pronoun means the person to whom something was done, after
"хотя" the one who did it. Every text comes twice, with either person as the candidate and thus with both labels, and
every beginning comes with both kinds of link, so neither the words nor the candidate's case form alone tell the answer.

A scene of rwsd.json has V, what one did to the other (@ stands for the other); O, clauses about the one it was done to;
S, clauses about the one who did it. The verb of a clause, between asterisks, goes into span2 together with the pronoun.
"""

import random
import re

from morocco_lib.data.synthetic._templates import AGREEMENT, capital, draw_flipped, load

SIZES = {"train": 800, "val": 200, "test": 200}
_KEY_ORDERS = {  # of the official files
    "train": ("span1_text", "span2_text", "span1_index", "span2_index"),
    "val": ("span2_index", "span1_index", "span1_text", "span2_text"),
    "test": ("span1_text", "span1_index", "span2_text", "span2_index"),
}

_DATA = load("rwsd")


def _index(text: str, span: str) -> int:
    """Return the position of the span's first word among the whitespace-separated words of the text."""
    return len(re.split(rf"(?<!\w){re.escape(span)}(?!\w)", text, maxsplit=1)[0].split())


def _draw(rng: random.Random) -> list[tuple[str, tuple[str, int], tuple[str, int], bool]]:
    """Draw a schema: one beginning with two endings, each asked of both people, as (text, span1, span2, label)."""
    scene, gender = rng.choice(_DATA["scenes"]), rng.choice("mf")
    (subject, _), (_, other) = rng.sample(_DATA["people"][gender], 2)
    first = f"{rng.choice(_DATA['openings'])}{subject} " + rng.choice(scene["V"]).replace("@", other)
    if first.startswith(subject):
        subject = capital(subject)
    drawn = []
    for side in "SO":  # the pronoun means the one who acts (S), the one acted upon (O)
        clause, verb, rest = rng.choice(scene[side]).split("*")
        text = (first + rng.choice(_DATA["links"][side]) + clause + verb + rest + ".").format(**AGREEMENT[gender])
        text = capital(text)
        # Officially, too, the pronoun's span is not always contiguous; a "не" stays with its verb.
        middle = "" if rng.random() < 0.15 and "не" not in clause.split() else clause
        pronoun = ("{he} " + middle + verb).format(**AGREEMENT[gender])
        span2 = (pronoun, _index(text, pronoun.split()[0]))
        for role, name in (("S", subject), ("O", other)):
            drawn.append((text, (name, _index(text, name)), span2, role == side))
    return drawn


def _record(split: str, idx: int, text: str, span1: tuple[str, int], span2: tuple[str, int], label: bool) -> dict:
    target = {"span1_text": span1[0], "span1_index": span1[1], "span2_text": span2[0], "span2_index": span2[1]}
    target = {key: target[key] for key in _KEY_ORDERS[split]}
    if split == "train":
        return {"idx": idx, "target": target, "label": label, "text": text}
    record = {"text": text, "target": target, "idx": idx}
    return record if split == "test" else {**record, "label": label}


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, bool]]:
    """Return records with their true labels; every text occurs twice, once with each label.

    Limits: a tenth of the labels is wrong, so no honest classifier passes about 0.90 accuracy. A few conjunctions
        decide, where real Winograd sentences ask for knowledge of the world.
    """
    rng = random.Random(f"rwsd/{split}/{seed}")
    drawn, seen = [], set()
    while len(drawn) < size:
        schema = _draw(rng)
        texts = {text for text, *_ in schema}
        if not texts & seen:
            seen |= texts
            drawn += schema
    del drawn[size:]
    rng.shuffle(drawn)
    flipped = draw_flipped(rng, [label for *_, label in drawn], (True, False))
    return [
        (_record(split, idx, text, span1, span2, label != (idx in flipped)), label)
        for idx, (text, span1, span2, label) in enumerate(drawn)
    ]
