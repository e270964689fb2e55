"""LiDiRus: the linguistic diagnostic of entailment, answered by models trained on TERRa.

One labelled file. idx is a decimal string; published predictions also print integers. Zero or more of four columns say
which phenomena a record shows; a value that joins several with ";" is one category of its own. Upstream drops one
arbitrary category of each group (its vocabulary has no padding); here all are scored.
Source: Russian SuperGLUE v1.1, 1104 records.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import Checked, Idx, LabelTask, Prediction, Task
from morocco_lib.tasks.checked import shown
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

    def validate(self, record: Record) -> None:
        super().validate(record)
        for column in GROUPS:
            if not isinstance(record.get(column) or "", str):
                raise ValueError(f"{column!r} is {shown(record, column)}; it names phenomena, joined by ;")

    def read_idx(self, prediction: Prediction, checked: Checked) -> Idx:
        if type(prediction.get("idx")) is int:
            checked.noncanonical["idx"] += 1
            return str(prediction["idx"])
        return super().read_idx(prediction, checked)

    def gold(self, record: Record) -> Prediction | None:
        answer = super().gold(record)
        return answer and answer | {column: record[column] for column in GROUPS if record.get(column)}

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        cells = self.confusion(gold, predictions)

        def mcc(places: Sequence[int]) -> float:
            return metrics.mcc_of(cells[places].sum(axis=0, keepdims=True)).item()

        scores = {"all_mcc": mcc(range(len(gold))), "accuracy": metrics.accuracy(*self.columns(gold, predictions))}
        for column, group in GROUPS.items():
            tagged = [k for k, g in enumerate(gold) if g.get(column)]
            if tagged:
                scores[group] = mcc(tagged)
            for value in sorted({gold[k][column] for k in tagged}):
                scores[f"{group}__{value}"] = mcc([k for k in tagged if gold[k][column] == value])
        return scores

    interval = Task.interval  # of no share

    def units(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> tuple[Any, Callable]:
        return self.confusion(gold, predictions), metrics.mcc_of


TASK = LiDiRus()
