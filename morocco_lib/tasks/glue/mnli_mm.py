"""MNLI on genres that its train split lacks, answered by models trained on MNLI. Source: GLUE; dev 9832, test 9847 pairs."""

from typing import ClassVar

from morocco_lib.tasks.glue._glue import submission
from morocco_lib.tasks.glue.mnli import MNLI


class MNLIMismatched(MNLI):
    name = "mnli_mm"
    trained_on = "mnli"
    counts_as = "mnli"
    sizes: ClassVar[dict[str, int]] = {"dev_mismatched": 9832, "test_mismatched": 9847}
    files: ClassVar[dict[str, str]] = {"val": "dev_mismatched.tsv", "test": "test_mismatched.tsv"}
    submissions = submission("MNLI-MM")


TASK = MNLIMismatched()
