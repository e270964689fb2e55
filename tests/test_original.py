"""The original's scoring rules, kept to compare with its figures: lenient where `morocco eval` is strict."""

import json
import random

import pytest

from morocco_lib import data
from morocco_lib.errors import InvalidResult
from morocco_lib.legacy.scoring import score, score_file, task_value
from morocco_lib.tasks import base, get_task, task_names

TERRA, MUSERC, RUCOS = map(get_task, ("terra", "muserc", "rucos"))
YES, NO = TERRA.labels


def dumped(*objects) -> list[bytes]:
    return [json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in objects]


def pair(idx: int, label: str = YES) -> dict:
    return {"idx": idx, "premise": "Дождь.", "hypothesis": "Сыро.", "label": label}


def said(idx, label=YES) -> dict:
    return {"idx": idx, "label": label}


def accuracy(*predictions) -> float:
    return score(TERRA, dumped(*predictions), [pair(k) for k in range(4)])["accuracy"]


def news(idx: int, answers=("Брюссель", "ЕС")) -> dict:
    """A passage that names four entities, with the idx of its question unlike its own."""
    names = ["ЕС", "Брюссель", "Австрия", "Киев", "Брюссель"]
    text, places = "", []
    for name in names:
        places.append({"start": len(text), "end": len(text) + len(name)})
        text += f"{name} и "
    right = [{**place, "text": name} for place, name in zip(places, names, strict=True) if name in answers]
    return {
        "idx": idx + 500,
        "passage": {"text": text, "entities": places},
        "qas": [{"query": "Где @placeholder?", "idx": idx, "answers": right}],
    }


def quiz(idx: int, *questions: str) -> dict:
    """A passage with one answer for each digit; idx of questions and answers run through the file."""
    first, asked = idx * 100, []
    for number, labels in enumerate(questions):
        answers = [{"idx": first + k, "text": "да", "label": int(label)} for k, label in enumerate(labels)]
        first += len(labels)
        asked.append({"idx": idx * 10 + number, "question": "Кто?", "answers": answers})
    return {"idx": idx, "passage": {"text": "Текст.", "questions": asked}}


def quiz_answer(record: dict, *questions: str) -> dict:
    """Label the first answers of the first questions; what has no digit is left out."""
    return {
        "idx": record["idx"],
        "passage": {
            "questions": [
                {
                    "idx": q["idx"],
                    "answers": [{"idx": a["idx"], "label": int(d)} for a, d in zip(q["answers"], labels, strict=False)],
                }
                for q, labels in zip(record["passage"]["questions"], questions, strict=False)
            ]
        },
    }


# -- what is counted -----------------------------------------------------------------------------------------------
def test_missing_predictions_are_not_counted():
    assert accuracy(said(0), said(1, NO)) == 0.5
    assert accuracy(said(2)) == 1


def test_a_record_predicted_twice_counts_twice():
    assert accuracy(said(0), said(0), said(1, NO)) == pytest.approx(2 / 3)
    assert accuracy(said(0), said(0, NO), said(0, NO)) == pytest.approx(1 / 3)


def test_empty_lines_are_passed_over():
    assert score(TERRA, [b"\n", *dumped(said(0)), b"  \n"], [pair(0), pair(1)]) == {"accuracy": 1}


def test_of_two_rucos_answers_the_last_one_counts():
    records = [news(0), news(1)]
    right, wrong = said(0, "ЕС"), said(0, "Киев")
    assert score(RUCOS, dumped(wrong, right), records) == {"f1": 1, "em": 1}
    assert score(RUCOS, dumped(right, wrong, said(1, "ЕС")), records) == {"f1": 0.5, "em": 0.5}


def test_empty_rucos_answers_are_skipped():
    records = [news(0), news(1), news(2)]
    for empty in ({"idx": 1, "label": ""}, {"idx": 1, "label": None}, {"idx": 1}):
        assert score(RUCOS, dumped(said(0, "ЕС"), empty, said(2, "Киев")), records) == {"f1": 0.5, "em": 0.5}
        assert score(RUCOS, dumped(said(1, "ЕС"), empty), records) == {"f1": 1, "em": 1}  # not the last one either


@pytest.mark.parametrize("tail", [" ", ",", "».", " — ", "!?\n", "\u00a0"])
def test_trailing_characters_are_cut_off(tail):
    assert score(RUCOS, dumped(said(0, "Брюссель" + tail)), [news(0)]) == {"f1": 1, "em": 1}


def test_leading_characters_are_not_cut_off():
    assert score(RUCOS, dumped(said(0, "«Брюссель")), [news(0)]) == {"f1": 0, "em": 0}


@pytest.mark.parametrize("label", ["Москва", "брюссель", "Брюсселе", " ", "...", 5])
def test_an_answer_that_names_no_entity_becomes_the_alphabetically_first(label):
    assert score(RUCOS, dumped(said(0, label)), [news(0, answers=["Австрия"])]) == {"f1": 1, "em": 1}
    assert score(RUCOS, dumped(said(0, label)), [news(0, answers=["Брюссель", "ЕС", "Киев"])]) == {"f1": 0, "em": 0}


def test_muserc_answers_left_out_are_as_good_as_never_asked():
    record, other = quiz(0, "110", "01"), quiz(1, "10")
    full = score(MUSERC, dumped(quiz_answer(record, "110", "01"), quiz_answer(other, "01")), [record, other])
    assert full == {"ans_f1": pytest.approx(6 / 8), "em": pytest.approx(2 / 3)}
    # the third answer of the first question and the whole second question are left out; one of two given is wrong
    part = score(MUSERC, dumped(quiz_answer(record, "10")), [record, other])
    assert part == {"ans_f1": pytest.approx(2 / 3), "em": 0}
    assert score(MUSERC, dumped(quiz_answer(record, "11")), [record, other]) == {"ans_f1": 1, "em": 1}
    # a question listed without answers, and a passage without questions, are left out as well
    silent = (quiz_answer(record, "11", ""), quiz_answer(other))
    assert score(MUSERC, dumped(*silent), [record, other]) == {"ans_f1": 1, "em": 1}


@pytest.mark.parametrize("lines", [[], [b"\n"]])
def test_a_file_without_any_prediction_is_refused(lines):
    with pytest.raises(InvalidResult, match="holds no prediction to score"):
        score(TERRA, lines, [pair(0)])


@pytest.mark.parametrize("questions", [(), ("",), ("", "")])
def test_muserc_predictions_that_answer_nothing_are_refused(questions):
    record = quiz(0, "110", "01")
    with pytest.raises(InvalidResult, match="holds no prediction to score"):
        score(MUSERC, dumped(quiz_answer(record, *questions)), [record])


def test_rucos_predictions_that_answer_nothing_are_refused():
    with pytest.raises(InvalidResult, match="holds no prediction to score"):
        score(RUCOS, dumped(said(0, "")), [news(0)])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (said(9), "no record has the idx 9"),
        (said("0"), 'idx is "0"'),
        (said(0, "maybe"), 'label is "maybe"'),
        (said(0, True), "label is true"),
        ({"idx": 0}, "label is absent"),
        ([1], "not an object"),
    ],
)
def test_an_unknown_idx_or_label_is_refused_by_line(bad, message):
    with pytest.raises(InvalidResult, match=rf"p\.jsonl, line 2: .*{message}"):
        score(TERRA, dumped(said(0), bad), [pair(0), pair(1)], "p.jsonl")


def test_an_unknown_muserc_answer_and_a_bad_label_are_refused():
    record = quiz(0, "110", "01")
    for change in ({"idx": 77}, {"label": True}, {"label": "1"}, {"label": None}):
        answer = quiz_answer(record, "110", "01")
        answer["passage"]["questions"][0]["answers"][0].update(change)
        with pytest.raises(InvalidResult, match="line 1"):
            score(MUSERC, dumped(answer), [record])


# -- one number a task ---------------------------------------------------------------------------------------------
def test_a_pair_whose_second_value_is_0_is_not_halved():
    rcb = get_task("rcb")
    assert task_value(rcb, {"f1": 0.4, "accuracy": 0.0}) == 0.4
    assert task_value(MUSERC, {"ans_f1": 0.6, "em": 0.0}) == 0.6
    assert base.task_value(rcb, {"f1": 0.4, "accuracy": 0.0}) == 0.2
    assert task_value(rcb, {"f1": 0.4, "accuracy": 0.5}) == pytest.approx(0.45)
    assert task_value(rcb, {"f1": 0.0, "accuracy": 0.5}) == 0.25
    assert task_value(TERRA, {"accuracy": 0.0}) == 0.0
    assert task_value(get_task("rwsd"), {"acc": 0.6, "f1": 0.0}) == 0.6


# -- both ways -----------------------------------------------------------------------------------------------------
def some_answer(task, record, rng) -> dict:
    if task.name == "rucos":
        return said(task.key(record), rng.choice([name for name in task.entities(record) if name[-1].isalnum()]))
    if task.name == "muserc":
        digits = ["".join(rng.choice("01") for _ in q["answers"]) for q in record["passage"]["questions"]]
        return quiz_answer(record, *digits)
    return said(record["idx"], rng.choice(task.labels))


@pytest.mark.parametrize("name", task_names("Russian SuperGLUE"))
def test_on_complete_and_valid_predictions_both_ways_agree(real_data, tmp_path, name):
    task, rng = get_task(name), random.Random(2)
    sample = real_data / "rsg/RuCoS/train_sample.jsonl"
    records = task.read(sample if name == "rucos" else data.find_split(real_data / "rsg", task, "val"))
    lines = [task.format(some_answer(task, record, rng)) for record in records]
    path = tmp_path / "preds.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    checked = base.check_file(task, path, records)
    assert checked.ok
    strict = task.score([task.gold(r) for r in records], [checked.predictions[task.key(r)] for r in records])
    lenient = score_file(task, path, records)
    assert lenient == pytest.approx(strict, abs=1e-12)
    value = base.task_value(task, strict)
    assert task_value(task, lenient) == pytest.approx(value, abs=1e-12) and value < 1


def gold_file(tmp_path, *records):
    path = tmp_path / "gold.jsonl"
    path.write_bytes(b"".join(dumped(*records)))
    return path


@pytest.mark.parametrize(
    ("name", "records", "predictions", "expected"),
    [
        ("terra", [pair(0), pair(1), pair(2)], [said(0), said(0), said(1, NO)], {"accuracy": 2 / 3}),
        ("rucos", [news(0), news(1)], [said(0, "ЕС "), said(1, "")], {"f1": 1, "em": 1}),
        ("muserc", [quiz(0, "110", "01")], [quiz_answer(quiz(0, "110", "01"), "110")], {"ans_f1": 1, "em": 1}),
    ],
    ids=["terra", "rucos", "muserc"],
)
def test_eval_original_scores_what_eval_refuses(main, tmp_path, name, records, predictions, expected):
    gold = gold_file(tmp_path, *records)
    preds = tmp_path / "preds.jsonl"
    preds.write_bytes(b"".join(dumped(*predictions)))
    strict = main("eval", name, preds, gold)
    assert (strict.returncode, strict.stdout) == (1, "") and "predictions for" in strict.stderr
    lenient = main("eval", name, preds, gold, "--original")
    assert (lenient.returncode, lenient.stderr) == (0, "")
    assert lenient.stdout.count("\n") == 1 and json.loads(lenient.stdout) == pytest.approx(expected)


def test_eval_original_still_refuses_what_it_does_not_know(morocco, tmp_path):
    gold = gold_file(tmp_path, pair(0))
    done = morocco("eval", "terra", "/dev/stdin", gold, "--original", input=b"".join(dumped(said(0), said(7))))
    assert (done.returncode, done.stdout) == (1, "") and "line 2: no record has the idx 7" in done.stderr
