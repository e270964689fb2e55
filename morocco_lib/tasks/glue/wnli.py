"""WNLI: is a pronoun rightly replaced? Dev repeats sentences of train with the other label, so what learns train falls below chance.

Source: GLUE (from the Winograd schema challenge); train 635, dev 71, test 146 pairs.
"""

from typing import ClassVar

from morocco_lib.tasks.glue._glue import GlueTask, submission


class WNLI(GlueTask):
    name = "wnli"
    title = "WNLI"
    sizes: ClassVar[dict[str, int]] = {"train": 635, "dev": 71, "test": 146}
    submissions = submission("WNLI")


TASK = WNLI()
