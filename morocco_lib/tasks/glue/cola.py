"""CoLA: is a sentence acceptable English? train and dev have no header and a column with the mark of the original, which gives the answer away.

Source: GLUE; train 8551, dev 1043, test 1063 sentences.
"""

from dataclasses import replace
from typing import ClassVar

from morocco_lib.tasks.glue._glue import GlueTask, submission


class CoLA(GlueTask):
    name = "cola"
    title = "CoLA"
    metric_names = ("mcc",)
    fields: ClassVar[dict[str, type]] = {"sentence": str}
    sizes: ClassVar[dict[str, int]] = {"train": 8551, "dev": 1043, "test": 1063}
    table = replace(GlueTask.table, headless=("source", "label", "mark", "sentence"))
    submissions = submission("CoLA")


TASK = CoLA()
