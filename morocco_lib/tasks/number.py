"""What tasks share whose answer to a record is a number."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import Task
from morocco_lib.tasks.checked import AnswerError, Checked, Prediction, shown
from morocco_lib.tasks.form import AnswerKind
from morocco_lib.tasks.jsonl import Record
from morocco_lib.tasks.tables import Row


class NumberTask(Task):
    """A task with one number a record, scored by its correlation with the right one.

    `scale` is where right numbers lie; answers may lie outside. Answers that differ by less than a hundredth of it are the
    same: the last digits of a network's output change with the batch.
    """

    answer_kind = AnswerKind.NUMBER
    metric_names = ("pearson", "spearman")
    scale: ClassVar[tuple[float, float]]
    decimals = 3  # in a submission

    def validate(self, record: Record) -> None:
        super().validate(record)
        low, high = self.scale
        if "label" in record and not (_is_number(record["label"]) and low <= record["label"] <= high):
            raise ValueError(f"'label' is {shown(record, 'label')}; it is a number from {low:g} to {high:g}")

    def read_cell(self, cell: str) -> float | str:
        try:
            return float(cell)
        except ValueError:
            return cell

    def to_submission(self, prediction: Prediction) -> Row:
        return super().to_submission(prediction | {"label": f"{prediction['label']:.{self.decimals}f}"})

    def same(self, one: Prediction, other: Prediction) -> bool:
        low, high = self.scale
        return abs(one["label"] - other["label"]) < (high - low) / 100

    def gold(self, record: Record) -> Prediction | None:
        return {"idx": record["idx"], "label": float(record["label"])} if "label" in record else None

    def targets(self, record: Record) -> list[float]:
        return [self.gold(record)["label"]]

    def prediction(self, record: Record, chosen: Sequence[float]) -> Prediction:
        return {"idx": self.key(record), "label": chosen[0]}

    def read_answer(self, prediction: Prediction, record: Record, checked: Checked) -> Prediction:
        if not _is_number(prediction.get("label")):
            raise AnswerError("number", f"label is {shown(prediction, 'label')}", "print one, as 3.25")
        return {"idx": self.key(record), "label": float(prediction["label"])}

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        sums = self._sums(gold, predictions).sum(axis=0, keepdims=True)
        return {"pearson": metrics.pearson_of(sums[:, :6]).item(), "spearman": metrics.pearson_of(sums[:, 6:]).item()}

    def units(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> tuple[Any, Callable]:
        """See `Task.units`; the ranks of records drawn anew are those they have among all."""
        return self._sums(
            gold, predictions
        ), lambda sums: (metrics.pearson_of(sums[:, :6]) + metrics.pearson_of(sums[:, 6:])) / 2

    @staticmethod
    def _sums(gold: Sequence[Prediction], predictions: Sequence[Prediction]):
        import numpy as np

        right, given = [g["label"] for g in gold], [p["label"] for p in predictions]
        whole, ranked = metrics.moments(right, given), metrics.moments(metrics.ranks(right), metrics.ranks(given))
        return np.concatenate([whole, ranked], axis=1)

    def labels_in(self, answer: Prediction) -> list:
        return []

    def majority(self, gold: Sequence[Prediction]) -> dict[str, Any]:
        """Return the mean, which takes the place of the most frequent answer."""
        return {"label": round(math.fsum(g["label"] for g in gold) / len(gold), self.decimals)}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
