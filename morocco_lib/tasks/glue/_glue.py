"""What the tasks of GLUE share: tables without quoting, one label or number a record, a submission of index and prediction.

The idx is the file's own `index` or `id`, else the number of the row. Test files have no labels.
"""

from typing import ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import LabelTask
from morocco_lib.tasks.tables import Submission, Table


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
    of_sums: ClassVar[dict] = {"mcc": metrics.mcc_of, "f1": lambda sums: metrics.f1_of(sums)[:, 1]}


class EntailmentTask(GlueTask):
    """Does the second text follow from the first?"""

    labels = ("entailment", "not_entailment")
    spellings: ClassVar[dict] = {}
