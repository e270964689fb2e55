"""Synthetic RCB records: a speaker knows, believes or invents something; does the clause follow from that?

A verb of rcb.json is (class, negation, lemma, phrase) with {p} for the clause. After a verb of class E the clause is
true, after one of class C it is false, after one of class N nobody knows. Each genre has its own speakers with their
gender, clauses with their contraries, and sentences around them.
"""

import random

from morocco_lib.data.synthetic._templates import AGREEMENT, draw_labels, draw_new, fill, load

SIZES = {"train": 600, "val": 240, "test": 240}
LABELS = ("entailment", "contradiction", "neutral")
PLAIN_SHARE = 0.93  # hypotheses that repeat the clause; the others state its contrary
NEGATIONS = {"no_negation": 86, "negation": 12, "double_negation": 2}  # weights
MISSPELT = 2  # records of the official train split that have the key "no_negation" in place of "negation"

_DATA = load("rcb")
_GENRES = _DATA["genres"]
_KEYS = ("hypothesis", "verb", "negation", "genre")


def _draw(rng: random.Random, true_label: str) -> tuple[str, ...]:
    """Return the premise and the values of _KEYS."""
    plain = rng.random() < PLAIN_SHARE
    verb_class = {"entailment": "CE"[plain], "contradiction": "EC"[plain], "neutral": "N"}[true_label]
    negation = rng.choices(list(NEGATIONS), NEGATIONS.values())[0]
    *_, verb, phrase = rng.choice([verb for verb in _DATA["verbs"] if verb[:2] == [verb_class, negation]])
    genre = rng.choice(list(_GENRES))
    (speaker, gender), (clause, contrary) = (rng.choice(_GENRES[genre][key]) for key in ("speakers", "clauses"))
    sentences = [f"{rng.choice(_DATA['times'])}{speaker} {phrase}"]
    sentences += rng.sample(_GENRES[genre]["sentences"], rng.randint(1, 3))
    rng.shuffle(sentences)
    premise = fill(". ".join(sentences) + ".", {"p": clause, **AGREEMENT[gender]})
    return premise, fill(clause if plain else contrary, {}) + ".", verb, negation, genre


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, str]]:
    """Return distinct records with their true labels; train has two records with a misspelt key, as officially.

    Limits: a tenth of the labels is wrong, and the verb reveals most of the others.
    """
    rng = random.Random(f"rcb/{split}/{seed}")
    counts = {label: size // 3 + (place < size % 3) for place, label in enumerate(LABELS)}
    misspelt = set(rng.sample(range(size), min(MISSPELT, size))) if split == "train" else set()
    records, seen = [], set()
    for idx, (true_label, label) in enumerate(draw_labels(rng, counts)):
        premise, *values = draw_new(lambda label=true_label: _draw(rng, label), seen)
        record = {"premise": premise, **({} if split == "test" else {"label": label})}
        for key, value in zip(_KEYS, values, strict=True):
            record["no_negation" if key == "negation" and idx in misspelt else key] = value
        records.append(({**record, "idx": idx}, true_label))
    return records
