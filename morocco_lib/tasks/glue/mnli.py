"""MNLI: does the second sentence follow from the first, contradict it, or neither? Dev and test here are of train's genres.

Official files have 12 columns (train), 16 (dev, with the votes of five annotators) or 10 (test); parses and votes are
dropped. Source: GLUE; train 392702, dev_matched 9815, test_matched 9796 pairs.
"""

from typing import ClassVar

from morocco_lib.tasks.glue._glue import GlueTask, submission, table


class MNLI(GlueTask):
    name = "mnli"
    title = "MNLI"
    labels = ("entailment", "neutral", "contradiction")
    spellings: ClassVar[dict] = {}
    sizes: ClassVar[dict[str, int]] = {"train": 392702, "dev_matched": 9815, "test_matched": 9796}
    files: ClassVar[dict[str, str]] = {"train": "train.tsv", "val": "dev_matched.tsv", "test": "test_matched.tsv"}
    table = table(label="gold_label")
    submissions = submission("MNLI-M")


TASK = MNLI()
