"""TERRa: textual entailment recognition for Russian. Does the premise entail the hypothesis?

Official files have CRLF line ends and integer idx; premises contain doubled quotes left over from CSV, which are part
of the text. Source: Russian SuperGLUE v1.1, train 2616, val 307, test 3198 records; test has no labels.
"""

from typing import ClassVar

from morocco_lib.tasks.base import LabelTask


class TERRa(LabelTask):
    name = "terra"
    title = "TERRa"
    benchmark = "Russian SuperGLUE"
    labels = ("entailment", "not_entailment")
    sizes: ClassVar[dict[str, int]] = {"train": 2616, "val": 307, "test": 3198}
    fields: ClassVar = {"premise": str, "hypothesis": str}


TASK = TERRa()
