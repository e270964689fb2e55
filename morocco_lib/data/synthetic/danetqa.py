"""Synthetic DaNetQA records: yes/no questions about invented places and things, with a passage that answers.

A topic of danetqa.json has names {x}, an opening sentence and facts. A fact is four texts: a mild question, a sweeping
question ({sure} stands for "is it true that"), and two sentences of which one gets into the passage: the first answers
the mild question by yes and the sweeping one by no, the second the other way round.
"""

import random

from morocco_lib.data.synthetic._templates import NUMBERS, draw_labels, draw_new, load

SIZES = {"train": 1200, "val": 300, "test": 300}
TRUE_SHARE = {"train": 0.55, "val": 0.5, "test": 0.5}
TELLING_SHARE = 0.87  # of the mild questions are answered by yes, of the sweeping ones by no

_DATA = load("danetqa")
TOPICS = _DATA["topics"]


def _draw(rng: random.Random, true_label: bool) -> tuple[str, str]:
    topic = rng.choice(TOPICS)
    slots = {"x": rng.choice(topic["names"]), "n": rng.choice(NUMBERS), "sure": rng.choice(_DATA["sure"])}
    slots["year"] = rng.randrange(1965, 2021)
    facts = rng.sample(topic["facts"], rng.randint(4, 5))
    sweeping = rng.random() < (1 - TELLING_SHARE if true_label else TELLING_SHARE)
    # The question is about the first fact; the sentences of the others are chosen at random.
    sentences = [facts[0][2 + (sweeping == true_label)], *(rng.choice(fact[2:]) for fact in facts[1:])]
    rng.shuffle(sentences)
    return facts[0][sweeping].format(**slots), " ".join([topic["opening"], *sentences]).format(**slots)


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, bool]]:
    """Return records with their true labels; pairs of question and passage are distinct within the split.

    Limits: a tenth of the labels is wrong. The wording of the question alone is right in about 0.8 of the cases, which
        real questions do not allow.
    """
    rng = random.Random(f"danetqa/{split}/{seed}")
    true = round(size * TRUE_SHARE[split])
    records, seen = [], set()
    for idx, (true_label, label) in enumerate(draw_labels(rng, {True: true, False: size - true})):
        question, passage = draw_new(lambda label=true_label: _draw(rng, label), seen)
        labelled = {} if split == "test" else {"label": label}
        records.append(({"question": question, "passage": passage, **labelled, "idx": idx}, true_label))
    return records
