"""What diagnostics share: fields that name the phenomena a record shows, and a correlation for each of them."""

from collections.abc import Sequence

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import LabelTask, Prediction
from morocco_lib.tasks.checked import shown
from morocco_lib.tasks.jsonl import Record

GROUPS = {  # field -> key in the metrics
    "lexical-semantics": "lex_sem",
    "predicate-argument-structure": "pr_ar_str",
    "logic": "logic",
    "knowledge": "knowledge",
}


class DiagnosticTask(LabelTask):
    def phenomena(self, value: str) -> list[str]:
        """Return the phenomena that a field names."""
        return [value] if value else []

    def validate(self, record: Record) -> None:
        super().validate(record)
        for field in GROUPS:
            if not isinstance(record.get(field) or "", str):
                raise ValueError(f"{field!r} is {shown(record, field)}; it names phenomena, joined by ;")

    def gold(self, record: Record) -> Prediction | None:
        answer = super().gold(record)
        return answer and answer | {field: record[field] for field in GROUPS if record.get(field)}

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return the metrics of all records, and the correlation of those that show a phenomenon of each group, and each one."""
        places: dict[str, list[int]] = {}
        for place, one in enumerate(gold):
            for field, group in GROUPS.items():
                names = [f"{group}__{name}" for name in self.phenomena(one.get(field, ""))]
                for key in dict.fromkeys([group, *names] if names else []):
                    places.setdefault(key, []).append(place)
        cells = self.confusion(gold, predictions)
        of = {key: metrics.mcc_of(cells[at].sum(axis=0, keepdims=True)).item() for key, at in sorted(places.items())}
        return super().score(gold, predictions) | of
