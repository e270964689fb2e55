"""The original's scoring rules, kept to compare with its numbers: lenient where `morocco eval` is strict."""

import json
import random

import pytest

from morocco_lib import data
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.legacy.scoring import score, score_file
from morocco_lib.tasks import get_task
from morocco_lib.tasks.checking import check_file

TERRA, MUSERC, RUCOS, RCB = map(get_task, ("terra", "muserc", "rucos", "rcb"))
YES, NO = TERRA.labels


def dumped(*objects) -> list[bytes]:
    return [json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in objects]


def pair(idx):
    return {"idx": idx, "premise": "Дождь.", "hypothesis": "Сыро.", "label": YES}


def label(idx, label=YES):
    return {"idx": idx, "label": label}


def accuracy(*predictions):
    return score(TERRA, dumped(*predictions), [pair(k) for k in range(4)])["accuracy"]


def news(idx, *answers):
    """A passage that names four entities; the idx of its question is not its own."""
    text, entities = "", []
    for name in ("ЕС", "Брюссель", "Австрия", "Киев", "Брюссель"):
        entities.append({"start": len(text), "end": len(text) + len(name), "text": name})
        text += f"{name} и "
    right = [entity for entity in entities if entity["text"] in (answers or ("Брюссель", "ЕС"))]
    question = {"query": "Где @placeholder?", "idx": idx, "answers": right}
    return {"idx": idx + 500, "passage": {"text": text, "entities": entities}, "qas": [question]}


def quiz(idx, *questions):
    """A passage with one answer for each digit; idx of answers run through the file."""
    first, asked = idx * 100, []
    for number, labels in enumerate(questions):
        answers = [{"idx": first + k, "text": "да", "label": int(digit)} for k, digit in enumerate(labels)]
        first += len(labels)
        asked.append({"idx": idx * 10 + number, "question": "Кто?", "answers": answers})
    return {"idx": idx, "passage": {"text": "Текст.", "questions": asked}}


def quiz_answer(record, *questions):
    """Label the first answers of the first questions; what has no digit is missing."""
    given = []
    for question, labels in zip(record["passage"]["questions"], questions, strict=False):
        answers = zip(question["answers"], labels, strict=False)
        given.append({"idx": question["idx"], "answers": [{"idx": a["idx"], "label": int(d)} for a, d in answers]})
    return {"idx": record["idx"], "passage": {"questions": given}}


# -- what is counted -----------------------------------------------------------------------------------------------
def test_missing_predictions_and_empty_lines_are_not_counted():
    assert accuracy(label(0), label(1, NO)) == 0.5
    assert score(TERRA, [b"\n", *dumped(label(0)), b"  \n"], [pair(0), pair(1)]) == {"accuracy": 1}


def test_a_record_predicted_twice_counts_twice():
    assert accuracy(label(0), label(0, NO), label(0, NO)) == pytest.approx(1 / 3)


def test_of_two_rucos_answers_the_last_one_counts():
    records = [news(0), news(1)]
    right, wrong = label(0, "ЕС"), label(0, "Киев")
    assert score(RUCOS, dumped(wrong, right), records) == {"f1": 1, "em": 1}
    assert score(RUCOS, dumped(right, wrong, label(1, "ЕС")), records) == {"f1": 0.5, "em": 0.5}


@pytest.mark.parametrize("empty", [{"idx": 1, "label": ""}, {"idx": 1, "label": None}, {"idx": 1}])
def test_empty_rucos_answers_are_skipped(empty):
    assert score(RUCOS, dumped(label(1, "ЕС"), empty, label(2, "Киев")), [news(1), news(2)]) == {"f1": 0.5, "em": 0.5}


def rucos_f1(answer, *right):
    return score(RUCOS, dumped(label(0, answer)), [news(0, *right)])["f1"]


@pytest.mark.parametrize("tail", [" ", "».", "!?\n", "\u00a0"])
def test_trailing_characters_are_removed_and_leading_ones_are_not(tail):
    assert (rucos_f1(f"Брюссель{tail}"), rucos_f1(f"{tail}Брюссель")) == (1, 0)


@pytest.mark.parametrize("answer", ["Москва", "брюссель", "Брюсселе", "...", 5])
def test_an_answer_that_names_no_entity_becomes_the_alphabetically_first(answer):
    assert (rucos_f1(answer, "Австрия"), rucos_f1(answer, "Брюссель", "ЕС", "Киев")) == (1, 0)


@pytest.mark.parametrize(
    ("given", "ans_f1", "em"),
    [
        ((("110", "01"), ("01",)), 6 / 8, 2 / 3),
        ((("10",),), 2 / 3, 0),  # the third answer and the second question are missing; one of two given is wrong
        ((("11", ""), ()), 1, 1),  # a question without answers, and a passage without questions
    ],
)
def test_missing_muserc_answers_do_not_count(given, ans_f1, em):
    records = [quiz(0, "110", "01"), quiz(1, "10")]
    predictions = [quiz_answer(record, *answers) for record, answers in zip(records, given, strict=False)]
    assert score(MUSERC, dumped(*predictions), records) == pytest.approx({"ans_f1": ans_f1, "em": em})


# -- what is refused -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("task", "record", "lines"),
    [
        (TERRA, pair(0), [b"\n"]),
        (RUCOS, news(0), dumped(label(0, ""))),
        (MUSERC, quiz(0, "110"), dumped(quiz_answer(quiz(0, "110"), ""))),
    ],
)
def test_predictions_that_answer_nothing_are_refused(task, record, lines):
    with pytest.raises(InvalidResult, match="holds no prediction to score"):
        score(task, lines, [record])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (label(9), "no record has the idx 9"),
        (label(0, "maybe"), 'label is "maybe"'),
        ([1], "not an object"),
    ],
)
def test_an_unknown_idx_or_label_is_refused_by_line(bad, message):
    with pytest.raises(InvalidResult, match=rf"p\.jsonl, line 2: .*{message}"):
        score(TERRA, dumped(label(0), bad), [pair(0)], "p.jsonl")


@pytest.mark.parametrize("change", [{"idx": 77}, {"label": "1"}, {"label": None}])
def test_an_unknown_muserc_answer_and_a_bad_label_are_refused(change):
    record = quiz(0, "110", "01")
    answer = quiz_answer(record, "110", "01")
    answer["passage"]["questions"][0]["answers"][0].update(change)
    with pytest.raises(InvalidResult, match="line 1"):
        score(MUSERC, dumped(answer), [record])


# -- beside the strict rules ---------------------------------------------------------------------------------------
def some_answer(task, record, rng):
    if task is RUCOS:
        return label(task.key(record), rng.choice([name for name in task.entities(record) if name[-1].isalnum()]))
    if task is MUSERC:
        digits = ["".join(rng.choice("01") for _ in q["answers"]) for q in record["passage"]["questions"]]
        return quiz_answer(record, *digits)
    return label(record["idx"], rng.choice(task.labels))


@pytest.mark.parametrize("task", [RCB, MUSERC, RUCOS], ids=lambda task: task.name)
def test_on_complete_and_valid_predictions_both_ways_agree(real_data, tmp_path, task):
    rng, folder = random.Random(2), real_data / "rsg"
    sample = folder / "RuCoS/train_sample.jsonl" if task is RUCOS else data.find_split(folder, task, "val")
    records = task.read(sample)
    path = tmp_path / "preds.jsonl"
    path.write_text("\n".join(task.format(some_answer(task, record, rng)) for record in records), encoding="utf-8")
    checked = check_file(task, path, records)
    strict = task.score([task.gold(r) for r in records], [checked.predictions[task.key(r)] for r in records])
    lenient = score_file(task, path, records)
    assert checked.ok and lenient == pytest.approx(strict, abs=1e-12)


@pytest.mark.parametrize("name", ["stsb", "gap", "cola"])
def test_of_a_task_that_the_original_does_not_have_nothing_is_scored(name):
    with pytest.raises(UsageError, match="the original has no"):
        score(get_task(name), dumped({"idx": 0, "label": "NaN"}), [])


def test_eval_original_scores_what_eval_refuses(main, tmp_path):
    gold, predictions = tmp_path / "gold.jsonl", tmp_path / "preds.jsonl"
    gold.write_bytes(b"".join(dumped(pair(0), pair(1), pair(2))))
    predictions.write_bytes(b"".join(dumped(label(0), label(0), label(1, NO))))
    strict, lenient = (main("eval", "terra", predictions, gold, *more) for more in ([], ["--original"]))
    assert (strict.returncode, strict.stdout) == (1, "") and "predictions for" in strict.stderr
    assert (lenient.returncode, lenient.stderr) == (0, "")
    assert lenient.stdout.count("\n") == 1 and json.loads(lenient.stdout) == pytest.approx({"accuracy": 2 / 3})
