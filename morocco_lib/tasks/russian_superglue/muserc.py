"""MuSeRC: several answers to several questions about a passage; each answer is right or wrong on its own.

A record is a passage. idx of questions and answers run over the whole file; key order varies; labels are absent in
test. Source: Russian SuperGLUE v1.1, train 500, val 100, test 322 passages.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from morocco_lib.tasks.base import Task
from morocco_lib.tasks.checked import AnswerError, Checked, Prediction, shown
from morocco_lib.tasks.form import AnswerKind, TextPair
from morocco_lib.tasks.jsonl import Record
from morocco_lib.tasks.recombine import Opening

CHOSEN = 2  # answers of a question the original's baseline calls right
STRIDE = 10_000  # fed passages get idx of questions and answers of their own from here on


class MuSeRC(Task):
    name = "muserc"
    title = "MuSeRC"
    benchmark = "Russian SuperGLUE"
    labels = (0, 1)
    sizes: ClassVar[dict[str, int]] = {"train": 500, "val": 100, "test": 322}
    fields: ClassVar[dict[str, type]] = {"passage": dict}
    metric_names = ("ans_f1", "em")
    answer_kind = AnswerKind.EACH_OF
    spans = 2  # the question and the answer

    def validate(self, record: Record) -> None:
        super().validate(record)
        passage = record["passage"]
        if type(passage.get("text")) is not str or type(passage.get("questions")) is not list:
            raise ValueError("a MuSeRC passage has text (str) and questions (list)")
        if not passage["questions"]:
            raise ValueError("the passage has no question to answer")
        for question in passage["questions"]:
            answers = question.get("answers") if isinstance(question, dict) else None
            if type(answers) is not list or type(question.get("question")) is not str:
                raise ValueError("a MuSeRC question has question (str), answers (list) and idx (int)")
            if not answers:
                raise ValueError("a question has no answer to label")
            for part in (question, *answers):
                if type(part) is not dict or type(part.get("idx")) is not int:
                    raise ValueError("every MuSeRC question and answer has an integer idx")
            for answer in answers:
                if type(answer.get("text")) is not str:
                    raise ValueError(f"an answer's 'text' is {shown(answer, 'text')}; it is str")
                if "label" in answer and (type(answer["label"]) is not int or answer["label"] not in self.labels):
                    raise ValueError(f"an answer's 'label' is {shown(answer, 'label')}; it is 0 or 1")
        if len({"label" in a for a in _answers(record)}) > 1:
            raise ValueError("some answers of the passage have a label and some have none")

    def strip_labels(self, record: Record) -> Record:
        return _map_answers(record, lambda answer: {k: v for k, v in answer.items() if k != "label"})

    def recombine(self, record: Record, other: Record, opening: Opening) -> Record:
        questions = [{**q, "question": opening(q["question"])[0]} for q in record["passage"]["questions"]]
        passage = {**record["passage"], "text": opening(other["passage"]["text"])[0], "questions": questions}
        return {**record, "passage": passage}

    def skeleton(self, record: Record) -> Record:
        return _nested(record, lambda answer: {"idx": answer["idx"]})

    def reindex(self, record: Record, position: int) -> Record:
        places = iter(range(position * STRIDE, (position + 1) * STRIDE))
        questions = [
            {
                **question,
                "idx": position * STRIDE + number,
                "answers": [{**answer, "idx": next(places)} for answer in question["answers"]],
            }
            for number, question in enumerate(record["passage"]["questions"])
        ]
        return {**record, "idx": position, "passage": {**record["passage"], "questions": questions}}

    def restore(self, prediction: Prediction, record: Record) -> Prediction:
        return self.prediction(record, self.labels_in(prediction))

    def gold(self, record: Record) -> Prediction | None:
        if any("label" not in a for a in _answers(record)):
            return None
        return _nested(record, lambda answer: {"idx": answer["idx"], "label": answer["label"]})

    def format(self, prediction: Prediction) -> str:
        return json.dumps(_nested(prediction, lambda a: {"idx": a["idx"], "label": a["label"]}), ensure_ascii=False)

    def read_answer(self, prediction: Prediction, record: Record, checked: Checked) -> Prediction:
        """Return the answers in the record's own order; those left out or unknown are refused by name."""
        try:
            pairs = [
                ((question["idx"], answer["idx"]), answer.get("label"))
                for question in prediction["passage"]["questions"]
                for answer in question["answers"]
            ]
            counts, given = Counter(pair for pair, _ in pairs), dict(pairs)
        except (KeyError, TypeError, AttributeError):
            seen = f"passage is {shown(prediction, 'passage')}"
            form = '{"idx", "passage": {"questions": [{"idx", "answers": [{"idx", "label"}]}]}}'
            raise AnswerError("label", seen, f"print {form}") from None
        for pair, _ in pairs:
            if any(type(idx) is not int for idx in pair):
                raise AnswerError("idx", f"question, answer {pair} are not integers", "echo idx as they came")
        wanted = [(q["idx"], a["idx"]) for q in record["passage"]["questions"] for a in q["answers"]]
        if unknown := sorted(counts.keys() - set(wanted), key=str):
            raise AnswerError(
                "unknown-idx", f"question, answer {unknown[0]} are not in the record", "echo idx as they came"
            )
        if missing := sorted(set(wanted) - counts.keys()):
            raise AnswerError("missing-idx", f"question, answer {missing[0]} have no label", "label every answer")
        if twice := [pair for pair, n in counts.items() if n > 1]:
            raise AnswerError(
                "duplicate-idx", f"question, answer {twice[0]} stand {counts[twice[0]]} times", "label each once"
            )
        for (_, idx), label in pairs:
            if type(label) is not int or label not in self.labels:
                raise AnswerError("label", f"answer {idx} has the label {json.dumps(label)}", "use 0 or 1")
        return self.prediction(record, [given[pair] for pair in wanted])

    def statistics(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> list[list[int]]:
        """Return for each passage: answers rightly and wrongly called right, right ones missed, questions, exact ones."""
        rows = []
        for g, p in zip(gold, predictions, strict=True):
            row = [0, 0, 0, 0, 0]
            for asked, answered in zip(g["passage"]["questions"], p["passage"]["questions"], strict=True):
                pairs = [(a["label"], b["label"]) for a, b in zip(asked["answers"], answered["answers"], strict=True)]
                row[0] += pairs.count((1, 1))
                row[1] += pairs.count((0, 1))
                row[2] += pairs.count((1, 0))
                row[3] += 1
                row[4] += all(a == b for a, b in pairs)
            rows.append(row)
        return rows

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return F1 of class 1 over all answers pooled, and the share of questions with every answer right."""
        both, extra, missed, questions, exact = map(sum, zip(*self.statistics(gold, predictions), strict=True))
        return {"ans_f1": 2 * both / (2 * both + extra + missed) if both else 0.0, "em": exact / questions}

    def units(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> tuple[Any, Callable]:
        def value(sums):
            f1 = 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1] + sums[:, 2]).clip(min=1)
            return (f1 + sums[:, 4] / sums[:, 3].clip(min=1)) / 2

        return self.statistics(gold, predictions), value

    def labels_in(self, answer: Prediction) -> list:
        return [a["label"] for a in _answers(answer)]

    def constant(self, state: dict[str, Any], record: Record) -> Prediction:
        return _nested(record, lambda answer: {"idx": answer["idx"], "label": state["label"]})

    def parts(self, record: Record) -> list[TextPair]:
        """Return the passage with each question and answer, both marked."""
        parts = []
        for question in record["passage"]["questions"]:
            for answer in question["answers"]:
                asked = f"{question['question']} {answer['text']}"
                marks = (1, 0, len(question["question"])), (1, len(asked) - len(answer["text"]), len(asked))
                parts.append(TextPair(record["passage"]["text"], asked, marks))
        return parts

    def targets(self, record: Record) -> list[int]:
        return self.labels_in(self.gold(record))

    def prediction(self, record: Record, chosen: Sequence[int]) -> Prediction:
        right = iter(chosen)
        return _nested(record, lambda answer: {"idx": answer["idx"], "label": next(right)})

    def bow_text(self, record: Record) -> str:
        parts = [record["passage"]["text"]]
        for question in record["passage"]["questions"]:
            parts += [question["question"], *(answer["text"] for answer in question["answers"])]
        return " ".join(parts)

    def groups(self, record: Record) -> list[tuple[str, list[str]]]:
        text = record["passage"]["text"]
        return [
            (text, [f"{question['question']} {answer['text']}" for answer in question["answers"]])
            for question in record["passage"]["questions"]
        ]

    def pick(self, record: Record, ranking: list[list[int]]) -> Prediction:
        return self.prediction(record, [int(k in ranks[:CHOSEN]) for ranks in ranking for k in range(len(ranks))])


def _answers(record: Record) -> list[dict]:
    return [answer for question in record["passage"]["questions"] for answer in question["answers"]]


def _map_answers(record: Record, change) -> Record:
    passage = record["passage"]
    questions = [{**q, "answers": [change(answer) for answer in q["answers"]]} for q in passage["questions"]]
    return {**record, "passage": {**passage, "questions": questions}}


def _nested(record: Record, change) -> Record:
    questions = [
        {"idx": q["idx"], "answers": [change(answer) for answer in q["answers"]]}
        for q in record["passage"]["questions"]
    ]
    return {"idx": record["idx"], "passage": {"questions": questions}}


TASK = MuSeRC()
