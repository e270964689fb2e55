"""QQP: do two questions on Quora ask the same?

The official train file has a few rows that tabs or line ends inside a question have broken: rows without six cells are
passed over, in every file. Source: GLUE; train 363846 whole rows, dev 40430, test 390965.
"""

from dataclasses import replace
from typing import ClassVar

from morocco_lib.tasks.glue._glue import GlueTask, submission, table


class QQP(GlueTask):
    name = "qqp"
    title = "QQP"
    metric_names = ("accuracy", "f1")
    fields: ClassVar[dict[str, type]] = {"question1": str, "question2": str}
    sizes: ClassVar[dict[str, int]] = {"train": 363846, "dev": 40430, "test": 390965}
    table = replace(table(label="is_duplicate"), idx="id", whole=False)
    submissions = submission("QQP")


TASK = QQP()
