"""PARus: which of two alternatives is the cause, or the effect, of the premise?

Source: Russian SuperGLUE v1.1, train 400, val 100, test 500 records; label 0 is choice1; test has no labels.
"""

from typing import ClassVar

from morocco_lib.tasks.base import LabelTask, shown
from morocco_lib.tasks.form import AnswerKind, TextPair
from morocco_lib.tasks.jsonl import Record

# The words of the original's TF-IDF baseline, capitals included.
QUESTIONS = {"cause": "Что было ПРИЧИНОЙ этого?", "effect": "Что случилось в РЕЗУЛЬТАТЕ?"}
# Those of its jiant models.
MODEL_QUESTIONS = {"cause": "Что было причиной этого?", "effect": "Что произошло в результате?"}


class PARus(LabelTask):
    name = "parus"
    title = "PARus"
    benchmark = "Russian SuperGLUE"
    labels = (0, 1)
    sizes: ClassVar[dict[str, int]] = {"train": 400, "val": 100, "test": 500}
    fields: ClassVar[dict[str, type]] = {"premise": str, "choice1": str, "choice2": str, "question": str}
    texts = ("premise", "choice1", "choice2")
    answer_kind = AnswerKind.ONE_OF

    def validate(self, record: Record) -> None:
        super().validate(record)
        if record["question"] not in QUESTIONS:
            raise ValueError(f"'question' is {shown(record, 'question')}; it is cause or effect")

    def parts(self, record: Record) -> list[TextPair]:
        question = MODEL_QUESTIONS[record["question"]]
        return [TextPair(record["premise"], f"{question} {record[name]}") for name in ("choice1", "choice2")]

    def targets(self, record: Record) -> list[int]:
        right = self.gold(record)["label"]
        return [int(label == right) for label in self.labels]

    def bag_text(self, record: Record) -> str:
        return " ".join((record["premise"], QUESTIONS[record["question"]], record["choice1"], record["choice2"]))


TASK = PARus()
