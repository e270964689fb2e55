"""MRPC: do two sentences from the news say the same? The label stands first; single quotation marks are text.

Source: GLUE; train 3668, dev 408, test 1725 pairs.
"""

from typing import ClassVar

from morocco_lib.tasks.glue._glue import GlueTask, submission, table


class MRPC(GlueTask):
    name = "mrpc"
    title = "MRPC"
    metric_names = ("f1", "accuracy")
    sizes: ClassVar[dict[str, int]] = {"train": 3668, "dev": 408, "test": 1725}
    table = table(label="Quality", sentence1="#1 String", sentence2="#2 String")
    submissions = submission("MRPC")


TASK = MRPC()
