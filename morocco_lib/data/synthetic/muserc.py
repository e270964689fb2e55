"""Synthetic MuSeRC records: passages with numbered sentences, questions on them, and answers right or wrong.

Each person of a passage does one thing to two objects at one place on one day, told in one sentence. Right answers take
the facts of the person asked about. Wrong ones take the same kind of facts of the others, which only the sentence that
matches the question tells apart, or other facts of that sentence, which the question did not ask for: a day where it asked
for a place. The words of all of them occur in the passage.
"""

import random
from collections.abc import Iterable

SIZES = {"train": 150, "val": 50, "test": 50}
NOISE_SHARE = 0.1

_PERSONS = {
    "m": "Игорь; Павел; Олег; Сергей; Андрей; Виктор; Максим; Никита; Егор; Денис; Роман; Федор",
    "f": "Анна; Ольга; Мария; Ирина; Елена; Вера; Татьяна; Дарья; Алиса; Полина; Галина; Юлия",
}
_VERBS = (  # as told and as asked, so that some questions paraphrase their sentence
    "купил, приобрел; починил, отремонтировал; нарисовал, изобразил; отыскал, обнаружил; спрятал, припрятал; "
    "показал гостям, продемонстрировал гостям; сфотографировал, снял на камеру; раздобыл, достал"
)
_THINGS = (
    "самовар; велосипед; гитару; вазу; зонт; чемодан; лампу; куклу; кувшин; корзину; шкатулку; барабан; подсвечник; "
    "сундук; статуэтку; зеркало; кресло; седло; сервиз; скрипку; часы; фонарь; шахматы; глобус"
)
_PLACES = (
    "на рынке; в парке; на даче; в школе; на вокзале; в гараже; в музее; у реки; в саду; на чердаке; в подвале; "
    "в мастерской; на складе; во дворе; в гостинице; у моста"
)
_DAYS = "в понедельник; во вторник; в среду; в четверг; в пятницу; в субботу; в воскресенье"
_CITIES = "Твери; Самаре; Вологде; Перми; Омске; Рязани; Туле; Калуге; Томске; Курске; Казани; Саратове"
_EVENTS = "ярмарка старинных вещей; неделя старины; выставка домашних коллекций; городская игра; встреча реставраторов"

# {p} person, {v} verb, {x} and {y} things, {place}, {day}.
_TOLD = (
    "{day} {p} {v} {place} {x} и {y}.",
    "{p} {v} {x} и {y} {place} {day}.",
    "{place} {day} {p} {v} {x} и {y}.",
    "{day} {place} {p} {v} сначала {x}, а потом {y}.",
)
_FILLERS = (
    "Погода всю неделю стояла теплая.", "Участники вели подробный дневник.", "Никто не жалел о потраченном времени.",
    "Вечером все пили чай и спорили.", "Местная газета напечатала об этом заметку.", "Правила были очень простыми.",
)  # fmt: skip
_LAST = (
    "В конце всем вручили грамоты.", "Через год друзья собираются приехать снова.", "Победителя так и не выбрали.",
)  # fmt: skip
# Kind of fact: ways to ask, and ways to answer with {f}, a fact of that kind. {q} is one of the two things.
_KINDS = {
    "thing": (("Что {v} {p}?", "Что именно {v} {p} {place}?"), ("{f}.", "{p} {v} {f}.", "Среди прочего {f}.")),
    "place": (("Где {p} {v} {q}?", "В каком месте {p} {v} {q}?"), ("{f}.", "{p} {v} {q} {f}.", "Это было {f}.")),
    "day": (("Когда {p} {v} {q}?", "В какой день {p} {v} {q}?"), ("{f}.", "{p} {v} {q} {f}.", "Это было {f}.")),
    "p": (("Кто {v_m} {q}?", "Кто {place} {v_m} {q}?"), ("{f}.", "Это сделал{f_a} {f}.", "{f}, и больше никто.")),
}

GENDERS = {name: gender for gender, names in _PERSONS.items() for name in names.split("; ")}
VERBS = [pair.split(", ") for pair in _VERBS.split("; ")]


def _agree(verb: str, gender: str) -> str:
    """Put a past tense (first word of the phrase) into the gender."""
    first, *rest = verb.split(" ")
    return " ".join([first + ("а" if gender == "f" else ""), *rest])


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _facts(rng: random.Random) -> list[dict]:
    """Draw what each of four or five people did; no two share a person, a verb, a thing, a place or a day."""
    count = rng.choice((4, 5))
    tables = [list(GENDERS), VERBS, _PLACES.split("; "), _DAYS.split("; ")]
    things = rng.sample(_THINGS.split("; "), 2 * count)
    rows = zip(*(rng.sample(table, count) for table in tables), things[::2], things[1::2], strict=True)
    return [{"p": p, "verb": verb, "place": place, "day": day, "x": x, "y": y} for p, verb, place, day, x, y in rows]


def _values(fact: dict, kind: str) -> list[str]:
    return [fact["x"], fact["y"]] if kind == "thing" else [fact[kind]]


def _passage(rng: random.Random, facts: list[dict]) -> str:
    told = [
        rng.choice(_TOLD).format(**fact, v=_agree(fact["verb"][0], GENDERS[fact["p"]])) for fact in facts
    ] + rng.sample(_FILLERS, rng.choice((1, 2)))
    rng.shuffle(told)
    first = f"В {rng.choice(_CITIES.split('; '))} прошла {rng.choice(_EVENTS.split('; '))}."
    sentences = [first, *told, rng.choice(_LAST)]
    text = " ".join(f"({number}) {_capital(sentence)}" for number, sentence in enumerate(sentences, 1))
    return f'"{text}"' if rng.random() < 0.3 else text  # so do many official passages


def _question(rng: random.Random, facts: list[dict], asked: dict, topic: str) -> tuple[str, list[tuple[str, int]]]:
    """Return a question on one person's facts, and its answers with their true labels."""
    gender, verb = GENDERS[asked["p"]], rng.choice(asked["verb"])
    slots = {**asked, "q": rng.choice((asked["x"], asked["y"])), "v": _agree(verb, gender), "v_m": verb}

    def said(facts: list[dict], kinds: Iterable[str]) -> list[str]:
        return [
            _capital(form.format(**slots, f=value, f_a="а" if GENDERS.get(value) == "f" else ""))
            for fact in facts
            for kind in kinds
            for value in _values(fact, kind)
            for form in _KINDS[kind][1]
            if fact is not asked or kind == topic or "{p}" not in form  # that one names what was asked for as well
        ]

    elsewhere = said([fact for fact in facts if fact is not asked], [topic])
    not_asked_for = said([asked], [other for other in _KINDS if other != topic])
    answers = [(text, 1) for text in rng.sample(said([asked], [topic]), rng.choice((1, 1, 2)))]
    answers += [(text, 0) for text in rng.sample(elsewhere, rng.choice((0, 1, 1)))]
    answers += [(text, 0) for text in rng.sample(not_asked_for, rng.choice((2, 3, 4)))]
    rng.shuffle(answers)
    return rng.choice(_KINDS[topic][0]).format(**slots), answers


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
    """Records as published beside the true labels of the answers of each question (published ones may be flipped)."""
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


def records(split: str, size: int, seed: int) -> list[dict]:
    """Return records in the schema of MuSeRC: which answers to the questions on a passage are right?

    Args:
        split: train, val or test; test has no labels.
        size: Number of passages, each with three to five questions of three to seven answers.
        seed: See `morocco_lib.data.synthetic.records`.
    Limits: a tenth of the answer labels of train and val is flipped. Most wrong answers are told by their kind, so three quarters of
        F1a need no sentence found; the others need one, where the real task asks to combine several.
    """
    return [record for record, _ in records_with_truth(split, size, seed)]
