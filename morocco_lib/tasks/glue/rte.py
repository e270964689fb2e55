"""RTE: does a sentence follow from a piece of news? Source: GLUE (RTE 1, 2, 3 and 5); train 2490, dev 277, test 3000 pairs."""

from typing import ClassVar

from morocco_lib.tasks.glue._glue import EntailmentTask, submission


class RTE(EntailmentTask):
    name = "rte"
    title = "RTE"
    sizes: ClassVar[dict[str, int]] = {"train": 2490, "dev": 277, "test": 3000}
    submissions = submission("RTE")


TASK = RTE()
