"""What the tasks of GLUE share: tables without quoting, one label or number a record, a submission of index and prediction.

The idx is the file's own `index` or `id`, else the number of the row. Test files have no labels.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import LabelTask, Prediction, Task
from morocco_lib.tasks.tables import Submission, Table

OF_SUMS = {"accuracy": metrics.accuracy_of, "mcc": metrics.mcc_of, "f1": lambda sums: metrics.f1_of(sums)[:, 1]}


def table(**columns: str) -> Table:
    """Return a table whose columns have the names of the fields, but for those named here as field=column."""
    known = ("question", "question1", "question2", "sentence", "sentence1", "sentence2", "label")
    return Table(columns={name: name for name in known} | {column: name for name, column in columns.items()})


def submission(name: str) -> tuple[Submission]:
    """Return the table that the leaderboard takes under this name."""
    return (Submission(f"{name}.tsv", ("index", "prediction")),)


class GlueTask(LabelTask):
    """What the tasks with labels share; two sentences and the labels 0 and 1, unless it says otherwise. F1 is of label 1."""

    benchmark = "GLUE"
    labels = (0, 1)
    spellings: ClassVar[dict] = {'"0"': 0, '"1"': 1}
    fields: ClassVar[dict[str, type]] = {"sentence1": str, "sentence2": str}
    files: ClassVar[dict[str, str]] = {"train": "train.tsv", "val": "dev.tsv", "test": "test.tsv"}
    table = table()

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        sums = self.confusion(gold, predictions).sum(axis=0, keepdims=True)
        return {name: OF_SUMS[name](sums).item() for name in self.metric_names}

    def units(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> tuple[Any, Callable]:
        cells, functions = self.confusion(gold, predictions), [OF_SUMS[name] for name in self.metric_names]
        return cells, lambda sums: sum(of(sums) for of in functions) / len(functions)

    def interval(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> metrics.Interval:
        of_a_share = self.metric_names == ("accuracy",)
        return super().interval(gold, predictions) if of_a_share else Task.interval(self, gold, predictions)


class EntailmentTask(GlueTask):
    """Does the second text follow from the first?"""

    labels = ("entailment", "not_entailment")
    spellings: ClassVar[dict] = {}
