"""Synthetic records of GLUE: who did what, where, when and how, told in several ways, in English.

`GENERATORS` stands for a module each. A drawing function returns the texts of a record with a true label, in the order of
the task's fields.
"""

import functools
import random
from types import SimpleNamespace
from typing import Any

from morocco_lib.data.synthetic._templates import capital, draw_labels, draw_new, load
from morocco_lib.tasks import get_task

SIZES = {"train": 1500, "val": 300, "test": 300}
FACTS = ("who", "did", "what", "where", "when")
TOLD = (
    "{when} {who} {did[0]} {what} {where}",
    "{who} {did[0]} {what} {where} {when}",
    "it was {who} who {did[0]} {what} {where} {when}",
)
BROKEN = (
    "{when} {who} {what} {did[0]} {where}",
    "{who} have {did[1]} {what} {where} {when}",
    "{where} did {what} {who} {when}",
)
NUMBERS = tuple(map(float, range(len(FACTS) + 1)))
_DATA = load("_glue")

Texts = tuple[str, ...]
Facts = dict[str, Any]


def _facts(rng: random.Random) -> Facts:
    return {name: rng.choice(_DATA[name]) for name in (*FACTS, "how")}


def _other(rng: random.Random, facts: Facts, names: tuple[str, ...]) -> Facts:
    """Return the facts with others in these places."""
    return facts | {name: rng.choice([one for one in _DATA[name] if one != facts[name]]) for name in names}


def _tell(rng: random.Random, facts: Facts, ways: Texts = TOLD) -> str:
    return capital(rng.choice(ways).format(**facts)) + "."


def _acceptable(rng: random.Random, label: int) -> Texts:
    return (_tell(rng, _facts(rng), TOLD if label else BROKEN),)


def _review(rng: random.Random, label: int) -> Texts:
    one, other = rng.sample(_DATA["film"], 2)
    words, aside = rng.sample(_DATA["good" if label else "bad"], 2), rng.choice(_DATA["aside"])
    return (f"the {one} is {words[0]} , {aside} , and the {other} {words[1]} . ",)


def _same(rng: random.Random, label: int) -> Texts:
    facts = _facts(rng)
    other = facts if label else _other(rng, facts, (rng.choice(FACTS),))
    return _tell(rng, facts), _tell(rng, other)


def _same_question(rng: random.Random, label: int) -> Texts:
    facts = _facts(rng)
    other = facts if label else _other(rng, facts, (rng.choice(("who", "did", "what")),))
    ways = ("where did {who} {did[1]} {what}?", "what is the place where {who} {did[0]} {what}?")
    first, second = (capital(way.format(**told)) for way, told in zip(rng.sample(ways, 2), (facts, other), strict=True))
    return f"Tell me {facts['when']}: {first[0].lower()}{first[1:]}", second


def _alike(rng: random.Random, label: float) -> Texts:
    facts = _facts(rng)
    other = _other(rng, facts, tuple(rng.sample(FACTS, len(FACTS) - int(label))))
    return _tell(rng, facts), _tell(rng, other)


def _follows(rng: random.Random, label: str) -> Texts:
    facts = _facts(rng)
    premise = _tell(rng, facts)
    if label == "entailment":
        return premise, capital("{who} {did[0]} {what}.".format(**facts))
    if label == "contradiction" or (label == "not_entailment" and rng.random() < 0.5):
        return premise, capital("{who} did not {did[1]} {what}.".format(**facts))
    return premise, capital("{who} {did[0]} {what} {how}.".format(**facts))


def _phenomena(hypothesis: str) -> Facts:
    """Return what AX says of a pair besides its label."""
    if " did not " in hypothesis:
        return {"logic": "Negation"}
    return {"predicate-argument-structure": "Restrictivity;Intersectivity"}


def _answered(rng: random.Random, label: str) -> Texts:
    facts = _facts(rng)
    ways = (
        TOLD if label == "entailment" else ("{who} {did[0]} {what} {when} {how}", "{when} {who} {did[0]} {what} {how}")
    )
    return capital("where did {who} {did[1]} {what}?".format(**facts)), _tell(rng, facts, ways)


def _pronoun(rng: random.Random, label: int) -> Texts:
    (one, other), (did, why, whose) = rng.sample(_DATA["man"], 2), rng.choice(_DATA["pronoun"])
    right, wrong = (one, other) if whose == "own" else (other, one)
    told = f"{capital(rng.choice(_DATA['when']))} {one} {did} {other} because he {why}."
    return told, f"{right if label else wrong} {why}."


DRAWN = {
    "cola": _acceptable, "sst2": _review, "mrpc": _same, "qqp": _same_question, "stsb": _alike, "mnli": _follows, "mnli_mm": _follows,
    "ax": _follows, "rte": _follows, "qnli": _answered, "wnli": _pronoun,
}  # fmt: skip


def _records_with_truth(name: str, split: str, size: int, seed: int) -> list[tuple[dict, Any]]:
    """Return as many records of each label, each beside its true label; texts are distinct within a split."""
    task, draw = get_task(name), DRAWN[name]
    rng, seen, records = random.Random(f"{name}/{split}/{seed}"), set(), []
    labels = task.labels or NUMBERS
    counts = {label: size // len(labels) + (k < size % len(labels)) for k, label in enumerate(labels)}
    for idx, (true_label, label) in enumerate(draw_labels(rng, counts)):
        texts = draw_new(lambda label=true_label: draw(rng, label), seen)
        record = {"idx": idx, **dict(zip(task.text_fields, texts, strict=True))}
        if split != "test":
            record |= {"label": label, **(_phenomena(texts[1]) if name == "ax" else {})}
        records.append((record, true_label))
    return records


GENERATORS = {
    name: SimpleNamespace(
        SIZES={split: size for split, size in SIZES.items() if split != "train" or name not in ("ax", "mnli_mm")},
        records_with_truth=functools.partial(_records_with_truth, name),
    )
    for name in DRAWN
}
