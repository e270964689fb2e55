"""RCB: does a sentence entail, contradict or leave open what its embedded clause says?

Two train records have the key misspelt `no_negation` instead of `negation`: verb, negation and genre are never needed.
Source: Russian SuperGLUE v1.1, train 438, val 220, test 438 records; test has no labels.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import LabelTask, Prediction, Task


class RCB(LabelTask):
    name = "rcb"
    title = "RCB"
    benchmark = "Russian SuperGLUE"
    labels = ("entailment", "contradiction", "neutral")
    sizes: ClassVar[dict[str, int]] = {"train": 438, "val": 220, "test": 438}
    fields: ClassVar[dict[str, type]] = {"premise": str, "hypothesis": str}
    metric_names = ("f1", "accuracy")

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        sums = self.confusion(gold, predictions).sum(axis=0, keepdims=True)
        return {"f1": metrics.macro_f1_of(sums).item(), "accuracy": metrics.accuracy_of(sums).item()}

    interval = Task.interval  # of no share

    def units(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> tuple[Any, Callable]:
        cells = self.confusion(gold, predictions)
        return cells, lambda sums: (metrics.macro_f1_of(sums) + metrics.accuracy_of(sums)) / 2


TASK = RCB()
