"""QNLI: does a sentence of Wikipedia answer a question? Source: GLUE (from SQuAD); train 104743, dev 5463, test 5463 pairs."""

from typing import ClassVar

from morocco_lib.tasks.glue._glue import EntailmentTask, submission


class QNLI(EntailmentTask):
    name = "qnli"
    title = "QNLI"
    fields: ClassVar[dict[str, type]] = {"question": str, "sentence": str}
    sizes: ClassVar[dict[str, int]] = {"train": 104743, "dev": 5463, "test": 5463}
    submissions = submission("QNLI")


TASK = QNLI()
