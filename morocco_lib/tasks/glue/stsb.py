"""STS-B: how alike are two sentences, from 0 to 5? Answered with a number.

Source: GLUE; train 5749, dev 1500, test 1379 pairs.
"""

from typing import ClassVar

from morocco_lib.tasks.glue._glue import GlueTask, submission, table
from morocco_lib.tasks.number import NumberTask


class STSB(NumberTask):
    name = "stsb"
    title = "STS-B"
    benchmark = GlueTask.benchmark
    scale = (0, 5)
    fields: ClassVar[dict[str, type]] = {"sentence1": str, "sentence2": str}
    sizes: ClassVar[dict[str, int]] = {"train": 5749, "dev": 1500, "test": 1379}
    files = GlueTask.files
    table = table(label="score")
    submissions = submission("STS-B")


TASK = STSB()
