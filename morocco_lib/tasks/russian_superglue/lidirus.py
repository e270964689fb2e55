"""LiDiRus: the linguistic diagnostic of entailment, answered by models trained on TERRa.

One labelled file. idx is a decimal string; published predictions also print integers. Zero or more of four columns say
which phenomena a record shows; a value that joins several with ";" is one category of its own. Upstream drops one
arbitrary category of each group (its vocabulary has no padding); here all are scored.
Source: Russian SuperGLUE v1.1, 1104 records.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import Checked, Idx, LabelTask, Prediction
from morocco_lib.tasks.jsonl import Record

GROUPS = {  # column -> key in the metrics
    "lexical-semantics": "lex_sem",
    "predicate-argument-structure": "pr_ar_str",
    "logic": "logic",
    "knowledge": "knowledge",
}


class LiDiRus(LabelTask):
    name = "lidirus"
    title = "LiDiRus"
    benchmark = "Russian SuperGLUE"
    labels = ("entailment", "not_entailment")
    fields: ClassVar[dict[str, type]] = {"sentence1": str, "sentence2": str}
    sizes: ClassVar[dict[str, int]] = {"LiDiRus": 1104}
    files: ClassVar[dict[str, str]] = {"val": "LiDiRus.jsonl", "test": "LiDiRus.jsonl"}
    idx_type = str
    trained_on = "terra"
    metric_names = ("all_mcc",)

    def read_idx(self, prediction: Prediction, checked: Checked) -> Idx:
        if type(prediction.get("idx")) is int:
            checked.noncanonical["idx"] += 1
            return str(prediction["idx"])
        return super().read_idx(prediction, checked)

    def gold(self, record: Record) -> Prediction | None:
        answer = super().gold(record)
        return answer and answer | {column: record[column] for column in GROUPS if record.get(column)}

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        right, given = self.columns(gold, predictions)
        scores: dict[str, Any] = {"all_mcc": metrics.mcc(right, given), "accuracy": metrics.accuracy(right, given)}
        for column, group in GROUPS.items():
            tagged = [k for k, g in enumerate(gold) if g.get(column)]
            for name, places in [(group, tagged)] + [
                (f"{group}__{value}", [k for k in tagged if gold[k][column] == value])
                for value in sorted({gold[k][column] for k in tagged})
            ]:
                if places:
                    scores[name] = metrics.mcc([right[k] for k in places], [given[k] for k in places])
        return scores

    def interval(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> metrics.Interval:
        cells = metrics.confusion_cells(*self.columns(gold, predictions), self.labels)
        return metrics.bootstrap_interval(cells, metrics.mcc_of)


TASK = LiDiRus()
