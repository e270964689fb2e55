"""AX: the linguistic diagnostic of GLUE, answered by models trained on MNLI; it counts in no average.

`diagnostic.tsv` has no labels; `diagnostic-full.tsv` has them, and names the phenomena that a pair shows, several joined by
";". A pair counts in the score of each of its phenomena. Source: GLUE; 1104 pairs.
"""

from collections.abc import Sequence
from typing import ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import Prediction
from morocco_lib.tasks.checked import shown
from morocco_lib.tasks.glue._glue import submission, table
from morocco_lib.tasks.glue.mnli import MNLI
from morocco_lib.tasks.jsonl import Record

GROUPS = {  # field -> (key in the metrics, column)
    "lexical-semantics": ("lex_sem", "Lexical Semantics"),
    "predicate-argument-structure": ("pr_ar_str", "Predicate-Argument Structure"),
    "logic": ("logic", "Logic"),
    "knowledge": ("knowledge", "Knowledge"),
}


class AX(MNLI):
    name = "ax"
    title = "AX"
    trained_on = "mnli"
    counts_as = ""
    metric_names = ("mcc",)
    hidden = ("label", *GROUPS)
    sizes: ClassVar[dict[str, int]] = {"diagnostic": 1104, "diagnostic-full": 1104}
    files: ClassVar[dict[str, str]] = {"val": "diagnostic-full.tsv", "test": "diagnostic.tsv"}
    table = table(
        sentence1="Premise", sentence2="Hypothesis", label="Label", **{field: column for field, (_, column) in GROUPS.items()}
    )  # fmt: skip
    submissions = submission("AX")

    def validate(self, record: Record) -> None:
        super().validate(record)
        for field in GROUPS:
            if not isinstance(record.get(field) or "", str):
                raise ValueError(f"{field!r} is {shown(record, field)}; it names phenomena, joined by ;")

    def gold(self, record: Record) -> Prediction | None:
        answer = super().gold(record)
        return answer and answer | {field: record[field] for field in GROUPS if record.get(field)}

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return the correlation of all pairs, and of those that show a phenomenon of each group, and each phenomenon."""
        shown_by: dict[str, list[int]] = {}
        for place, one in enumerate(gold):
            for field, (group, _) in GROUPS.items():
                phenomena = [f"{group}__{name.strip()}" for name in one.get(field, "").split(";") if name.strip()]
                for key in dict.fromkeys([group, *phenomena] if phenomena else []):
                    shown_by.setdefault(key, []).append(place)
        cells = self.confusion(gold, predictions)
        of = {
            key: metrics.mcc_of(cells[places].sum(axis=0, keepdims=True)).item()
            for key, places in sorted(shown_by.items())
        }
        return super().score(gold, predictions) | of


TASK = AX()
