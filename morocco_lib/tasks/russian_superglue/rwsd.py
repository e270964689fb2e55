"""RWSD: the Winograd schema. Does the second span (a pronoun, often with its verb) refer to the first?

Span indices count whitespace-separated words; the words of span2 need not stand together in the text, so the code takes
as many words as the span has from its index on. Submissions spell "True" and "False" with a capital, in this task only.
Source: Russian SuperGLUE v1.1, train 606, val 204, test 154 records; test has no labels.
"""

from collections.abc import Sequence
from typing import ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import LabelTask, shown
from morocco_lib.tasks.form import TextPair
from morocco_lib.tasks.jsonl import Record
from morocco_lib.tasks.recombine import Opening
from morocco_lib.tasks.spans import Span, bare, words_at

TARGET = {"span1_text": str, "span1_index": int, "span2_text": str, "span2_index": int}


class RWSD(LabelTask):
    name = "rwsd"
    title = "RWSD"
    benchmark = "Russian SuperGLUE"
    labels = ("False", "True")
    spellings: ClassVar[dict] = {"true": "True", "false": "False", '"true"': "True", '"false"': "False"}
    sizes: ClassVar[dict[str, int]] = {"train": 606, "val": 204, "test": 154}
    fields: ClassVar[dict[str, type]] = {"text": str, "target": dict}
    metric_names, scored = ("acc",), ("acc", "f1")
    of_sums: ClassVar[dict] = {"f1": lambda sums: metrics.f1_of(sums)[:, 1]}  # of True
    spans = 2

    def validate(self, record: Record) -> None:
        super().validate(record)
        for key, kind in TARGET.items():
            if type(record["target"].get(key)) is not kind:
                raise ValueError(f"target's {key!r} is {shown(record['target'], key)}; it is {kind.__name__}")

    def recombine(self, record: Record, other: Record, opening: Opening) -> Record:
        """Return the record with another first span: as many words from the place of that of `other`."""
        target, text = record["target"], record["text"]
        begins = [span.start if span else 0 for span in self.word_spans(record)]
        text, _ = opening(text, before=min(begins))
        words, moved = text.split(), len(text.split()) - len(record["text"].split())
        count = len(target["span1_text"].split())
        place = other["target"]["span1_index"] % max(1, len(words) - count + 1)
        spans = {"span1_text": " ".join(words[place : place + count]), "span1_index": place}
        return record | {"text": text, "target": target | spans | {"span2_index": target["span2_index"] + moved}}

    def bow_text(self, record: Record) -> str:
        return " ".join((record["text"], record["target"]["span1_text"], record["target"]["span2_text"]))

    def word_spans(self, record: Record) -> tuple[Span | None, Span | None]:
        """Return the places of both spans: as many words as the span's text has, from its index on."""
        target = record["target"]
        return tuple(
            words_at(record["text"], target[f"span{n}_index"], len(target[f"span{n}_text"].split())) for n in "12"
        )

    def parts(self, record: Record) -> list[TextPair]:
        return [TextPair(record["text"], marks=tuple((0, *(span or (0, 0))) for span in self.word_spans(record)))]

    def unaligned(self, records: Sequence[Record]) -> int:
        """Return how many spans are not, but for case and punctuation, the words at their index."""
        missed = 0
        for record in records:
            for n, span in zip("12", self.word_spans(record), strict=True):
                there = record["text"][span.start : span.end] if span else ""
                missed += bare(there) != bare(record["target"][f"span{n}_text"])
        return missed


TASK = RWSD()
