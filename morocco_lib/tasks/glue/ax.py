"""AX: the linguistic diagnostic of GLUE, answered by models trained on MNLI; it counts in no average.

`diagnostic.tsv` has no labels; `diagnostic-full.tsv` has them, and names the phenomena that a pair shows, several joined by
";". A pair counts in the score of each of its phenomena. Source: GLUE; 1104 pairs.
"""

from typing import ClassVar

from morocco_lib.tasks.diagnostic import GROUPS, DiagnosticTask
from morocco_lib.tasks.glue._glue import submission, table
from morocco_lib.tasks.glue.mnli import MNLI

COLUMNS = ("Lexical Semantics", "Predicate-Argument Structure", "Logic", "Knowledge")  # of the groups


class AX(DiagnosticTask, MNLI):
    name = "ax"
    title = "AX"
    trained_on = "mnli"
    counts_as = ""
    metric_names = ("mcc",)
    hidden = ("label", *GROUPS)
    sizes: ClassVar[dict[str, int]] = {"diagnostic": 1104, "diagnostic-full": 1104}
    files: ClassVar[dict[str, str]] = {"val": "diagnostic-full.tsv", "test": "diagnostic.tsv"}
    table = table(sentence1="Premise", sentence2="Hypothesis", label="Label", **dict(zip(GROUPS, COLUMNS, strict=True)))
    submissions = submission("AX")

    def phenomena(self, value: str) -> list[str]:
        return [name.strip() for name in value.split(";") if name.strip()]


TASK = AX()
