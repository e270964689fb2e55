"""LiDiRus: the linguistic diagnostic of entailment, answered by models trained on TERRa.

One labelled file. idx is a decimal string; published predictions also print integers. Zero or more of four columns say
which phenomena a record shows; a value that joins several with ";" is one category of its own. Upstream drops one
arbitrary category of each group (its vocabulary has no padding); here all are scored.
Source: Russian SuperGLUE v1.1, 1104 records.
"""

from typing import ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import Checked, Idx, Prediction
from morocco_lib.tasks.diagnostic import DiagnosticTask


class LiDiRus(DiagnosticTask):
    name = "lidirus"
    title = "LiDiRus"
    benchmark = "Russian SuperGLUE"
    labels = ("entailment", "not_entailment")
    fields: ClassVar[dict[str, type]] = {"sentence1": str, "sentence2": str}
    sizes: ClassVar[dict[str, int]] = {"LiDiRus": 1104}
    files: ClassVar[dict[str, str]] = {"val": "LiDiRus.jsonl", "test": "LiDiRus.jsonl"}
    idx_type = str
    trained_on = "terra"
    metric_names, scored = ("all_mcc",), ("all_mcc", "accuracy")
    of_sums: ClassVar[dict] = {"all_mcc": metrics.mcc_of}

    def read_idx(self, prediction: Prediction, checked: Checked) -> Idx:
        if type(prediction.get("idx")) is int:
            checked.noncanonical["idx"] += 1
            return str(prediction["idx"])
        return super().read_idx(prediction, checked)


TASK = LiDiRus()
