"""DaNetQA: a yes/no question about a passage.

Records carry a JSON boolean; submissions print "true" or "false", the original's TF-IDF prints booleans. idx of train
skips 1065. Source: Russian SuperGLUE v1.1, train 1749, val 821, test 805 records; test has no labels.
"""

from typing import ClassVar

from morocco_lib.tasks.base import LabelTask
from morocco_lib.tasks.jsonl import Record

TRUE_FALSE = {"true": "true", "false": "false", '"True"': "true", '"False"': "false"}  # JSON text -> label


class DaNetQA(LabelTask):
    name = "danetqa"
    title = "DaNetQA"
    benchmark = "Russian SuperGLUE"
    labels = ("false", "true")
    spellings: ClassVar[dict] = TRUE_FALSE
    sizes: ClassVar[dict[str, int]] = {"train": 1749, "val": 821, "test": 805}
    fields: ClassVar[dict[str, type]] = {"question": str, "passage": str}
    texts = ("passage", "question")

    def bag_text(self, record: Record) -> str:
        return record["question"]  # the original's baseline never reads the passage


TASK = DaNetQA()
