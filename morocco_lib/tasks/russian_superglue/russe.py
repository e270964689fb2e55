"""RUSSE: is a marked word used in the same sense in two sentences?

Offset conventions differ between splits: in train and val `end` is usually one too many and may lie beyond the
sentence, in test it is the place of the last letter. `word_spans` finds the word that covers `start` whatever `end`
says. Sentences of test hold no-break spaces. Source: Russian SuperGLUE v1.1, train 19845, val 8505, test 18892 records.
"""

from collections.abc import Sequence
from typing import ClassVar

from morocco_lib.tasks.base import LabelTask
from morocco_lib.tasks.form import TextPair
from morocco_lib.tasks.jsonl import Record
from morocco_lib.tasks.recombine import Opening
from morocco_lib.tasks.russian_superglue.danetqa import TRUE_FALSE
from morocco_lib.tasks.spans import Span, word_at


class RUSSE(LabelTask):
    name = "russe"
    title = "RUSSE"
    benchmark = "Russian SuperGLUE"
    labels = ("false", "true")
    spellings: ClassVar[dict] = TRUE_FALSE
    hidden = ("label", "gold_sense1", "gold_sense2")
    sizes: ClassVar[dict[str, int]] = {"train": 19845, "val": 8505, "test": 18892}
    fields: ClassVar[dict[str, type]] = {
        "word": str, "sentence1": str, "sentence2": str, "start1": int, "end1": int, "start2": int, "end2": int,
    }  # fmt: skip
    texts = ("sentence1", "sentence2")
    spans = 2

    def kin(self, record: Record) -> str:
        return record["word"]

    def recombine(self, record: Record, other: Record, opening: Opening) -> Record:
        made = record | {name: other[name] for name in ("sentence1", "start1", "end1")}
        for n in "12":
            text, moved = opening(made[f"sentence{n}"], before=made[f"start{n}"])
            made |= {f"sentence{n}": text, f"start{n}": made[f"start{n}"] + moved, f"end{n}": made[f"end{n}"] + moved}
        return made

    def bow_text(self, record: Record) -> str:
        return " ".join((record["sentence1"], record["sentence2"], record["word"]))

    def word_spans(self, record: Record) -> tuple[Span | None, Span | None]:
        """Return the places of the marked word in both sentences, None where no word stands there or it is no form of it."""
        return tuple(word_at(record[f"sentence{n}"], record[f"start{n}"], record["word"]) for n in "12")

    def parts(self, record: Record) -> list[TextPair]:
        places = [(record[f"start{n}"], record[f"end{n}"]) for n in "12"]
        marks = [(k, *(span or places[k])) for k, span in enumerate(self.word_spans(record))]
        return [TextPair(record["sentence1"], record["sentence2"], tuple(marks))]

    def unaligned(self, records: Sequence[Record]) -> int:
        return sum(span is None for record in records for span in self.word_spans(record))


TASK = RUSSE()
