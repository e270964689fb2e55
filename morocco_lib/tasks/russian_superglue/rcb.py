"""RCB: does a sentence entail, contradict or leave open what its embedded clause says?

Two train records have the key misspelt `no_negation` instead of `negation`: verb, negation and genre are never needed.
Source: Russian SuperGLUE v1.1, train 438, val 220, test 438 records; test has no labels.
"""

from typing import ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import LabelTask


class RCB(LabelTask):
    name = "rcb"
    title = "RCB"
    benchmark = "Russian SuperGLUE"
    labels = ("entailment", "contradiction", "neutral")
    sizes: ClassVar[dict[str, int]] = {"train": 438, "val": 220, "test": 438}
    fields: ClassVar[dict[str, type]] = {"premise": str, "hypothesis": str}
    metric_names = ("f1", "accuracy")
    of_sums: ClassVar[dict] = {"f1": metrics.macro_f1_of}


TASK = RCB()
