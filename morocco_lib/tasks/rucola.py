"""RuCoLA: is a Russian sentence acceptable? In-domain dev sentences come from linguistic publications, as the train split.

Official files are CSV; ids restart at 0 in every file, so that a file is scored by itself. `error_type` is 0 for acceptable
sentences, else the kind of violation; it and the source give the answer away. A score has the recall of each kind beside
MCC and accuracy. Source: Mikhailov et al., RuCoLA (EMNLP 2022), train 7869, in-domain dev 983, out-of-domain dev 1804, test
2789 sentences; test has no labels.
"""

from collections.abc import Sequence
from typing import ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import LabelTask, Prediction, shown
from morocco_lib.tasks.jsonl import Record
from morocco_lib.tasks.tables import Submission, Table

ACCEPTABLE = "0"  # the error type of a sentence without one


class RuCoLA(LabelTask):
    name = "rucola"
    title = "RuCoLA"
    labels = (0, 1)
    spellings: ClassVar[dict] = {'"0"': 0, '"1"': 1}
    metric_names, scored = ("mcc",), ("accuracy", "mcc")
    of_sums: ClassVar[dict] = {"mcc": metrics.mcc_of}
    fields: ClassVar[dict[str, type]] = {"sentence": str}
    hidden = ("label", "error_type")
    sizes: ClassVar[dict[str, int]] = {
        "in_domain_train": 7869, "in_domain_dev": 983, "out_of_domain_dev": 1804, "test": 2789,
    }  # fmt: skip
    files: ClassVar[dict[str, str]] = {
        "train": "in_domain_train.csv", "val": "in_domain_dev.csv", "test": "test.csv",
    }  # fmt: skip
    table = Table(
        ",", quoted=True, idx="id",
        columns={"sentence": "sentence", "acceptable": "label", "error_type": "error_type"},
    )  # fmt: skip
    submissions = (Submission("RuCoLA.csv", ("id", "acceptable"), ","),)

    def validate(self, record: Record) -> None:
        super().validate(record)
        if type(record.get("error_type", "")) is not str:
            raise ValueError(f"'error_type' is {shown(record, 'error_type')}; it is str")

    def gold(self, record: Record) -> Prediction | None:
        answer = super().gold(record)
        kind = record.get("error_type", ACCEPTABLE)
        return answer and (answer if kind == ACCEPTABLE else answer | {"error_type": kind})

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        scores, (right, given) = super().score(gold, predictions), self.columns(gold, predictions)
        for kind in sorted({g["error_type"] for g in gold if "error_type" in g}):
            places = [k for k, g in enumerate(gold) if g.get("error_type") == kind]
            scores[f"error_type__{kind}"] = metrics.accuracy([right[k] for k in places], [given[k] for k in places])
        return scores


TASK = RuCoLA()
