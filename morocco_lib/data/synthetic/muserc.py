"""Synthetic MuSeRC records: passages with numbered sentences, questions on them, and answers right or wrong.

Each person {p} of a passage does one thing {v} to two objects {x} and {y} at one {place} on one {day}, told in one
sentence. Right answers take the facts of the person asked about. Wrong ones take the same kind of facts of the others,
which only the sentence that matches the question tells apart, or other facts of that sentence, which the question did
not ask for: a day where it asked for a place. The words of all of them occur in the passage. In muserc.json a verb is a
pair, so that some questions paraphrase their sentence, and {f} in an answer is a fact of the kind asked for.
"""

import random
from collections.abc import Iterable

from morocco_lib.data.synthetic._templates import AGREEMENT, NOISE_SHARE, capital, load

SIZES = {"train": 150, "val": 50, "test": 50}

_DATA = load("muserc")
_KINDS = _DATA["kinds"]
GENDERS = {name: gender for gender, names in _DATA["persons"].items() for name in names}


def _agree(verb: str, gender: str) -> str:
    """Put a past tense (first word of the phrase) into the gender."""
    first, *rest = verb.split(" ")
    return " ".join([first + AGREEMENT[gender]["a"], *rest])


def _facts(rng: random.Random) -> list[dict]:
    """Draw what each of four or five people did; no two share a person, a verb, a thing, a place or a day."""
    count = rng.choice((4, 5))
    tables = [list(GENDERS), _DATA["verbs"], _DATA["places"], _DATA["days"]]
    things = rng.sample(_DATA["things"], 2 * count)
    rows = zip(*(rng.sample(table, count) for table in tables), things[::2], things[1::2], strict=True)
    return [dict(zip(("p", "verb", "place", "day", "x", "y"), row, strict=True)) for row in rows]


def _passage(rng: random.Random, facts: list[dict]) -> str:
    middle = [
        rng.choice(_DATA["sentences"]).format(**fact, v=_agree(fact["verb"][0], GENDERS[fact["p"]])) for fact in facts
    ] + rng.sample(_DATA["fillers"], rng.choice((1, 2)))
    rng.shuffle(middle)
    first = f"В {rng.choice(_DATA['cities'])} прошла {rng.choice(_DATA['events'])}."
    sentences = [first, *middle, rng.choice(_DATA["endings"])]
    text = " ".join(f"({number}) {capital(sentence)}" for number, sentence in enumerate(sentences, 1))
    return f'"{text}"' if rng.random() < 0.3 else text  # many official passages are quoted too


def _question(rng: random.Random, facts: list[dict], asked: dict, topic: str) -> tuple[str, list[tuple[str, int]]]:
    """Return a question on one person's facts, and its answers with their true labels."""
    gender, verb = GENDERS[asked["p"]], rng.choice(asked["verb"])
    slots = {**asked, "q": rng.choice((asked["x"], asked["y"])), "v": _agree(verb, gender), "v_m": verb}

    def answers_from(facts: list[dict], kinds: Iterable[str]) -> list[str]:
        return [
            capital(form.format(**slots, f=value, f_a=AGREEMENT[GENDERS.get(value, "m")]["a"]))
            for fact in facts
            for kind in kinds
            for value in ([fact["x"], fact["y"]] if kind == "thing" else [fact[kind]])
            for form in _KINDS[kind]["answers"]
            if fact is not asked or kind == topic or "{p}" not in form  # such a form names the fact asked for as well
        ]

    elsewhere = answers_from([fact for fact in facts if fact is not asked], [topic])
    not_asked_for = answers_from([asked], [other for other in _KINDS if other != topic])
    answers = [(text, 1) for text in rng.sample(answers_from([asked], [topic]), rng.choice((1, 1, 2)))]
    answers += [(text, 0) for text in rng.sample(elsewhere, rng.choice((0, 1, 1)))]
    answers += [(text, 0) for text in rng.sample(not_asked_for, rng.choice((2, 3, 4)))]
    rng.shuffle(answers)
    return rng.choice(_KINDS[topic]["questions"]).format(**slots), answers


def _published(rng: random.Random, truth: list[list[int]]) -> list[list[int]]:
    """Flip a tenth of the labels, but leave at least one right answer to every question."""
    labels = [list(question) for question in truth]
    places = [(i, j) for i, question in enumerate(labels) for j in range(len(question))]
    flips = round(len(places) * NOISE_SHARE)
    for i, j in rng.sample(places, len(places)):
        if flips and sum(labels[i]) - labels[i][j] >= 1:
            labels[i][j] = 1 - labels[i][j]
            flips -= 1
    return labels


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, list[list[int]]]]:
    """Return passages of three to five questions with three to seven answers, and the answers' true labels by question.

    Limits: a tenth of the answer labels is wrong. Most wrong answers are told by their kind, so three quarters of F1a
        need no sentence found; the others need one, where the real task asks to combine several.
    """
    rng = random.Random(f"muserc/{split}/{seed}")
    passages = []
    for _ in range(size):
        facts = _facts(rng)
        topics = rng.sample([(fact, kind) for fact in facts for kind in _KINDS], rng.choice((3, 4, 5)))
        passages.append((_passage(rng, facts), [_question(rng, facts, fact, kind) for fact, kind in topics]))
    truth = [[label for _, label in answers] for _, questions in passages for _, answers in questions]
    labels = _published(rng, truth)
    pairs, question_idx, answer_idx = [], 0, 0
    for idx, (text, questions) in enumerate(passages):
        first = question_idx
        rows = []
        for question, answers in questions:
            listed = []
            for (answer, _), label in zip(answers, labels[question_idx], strict=True):
                row = {"idx": answer_idx, "text": answer}
                listed.append(row if split == "test" else {**row, "label": label})
                answer_idx += 1
            rows.append({"question": question, "answers": listed, "idx": question_idx})
            question_idx += 1
        pairs.append(({"idx": idx, "passage": {"text": text, "questions": rows}}, truth[first:question_idx]))
    return pairs
