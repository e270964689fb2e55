"""The form of a task: what a model sees of a record, and what kind of answer it gives. Declared by each task, read by models."""

from dataclasses import dataclass
from enum import StrEnum


class AnswerKind(StrEnum):
    """What the parts of a record are, and so what is answered.

    CLASSES: one part; the answer is one of the task's labels.
    ONE_OF: a part for each option; the answer is the best one.
    EACH_OF: a part for each thing asked; each is right or wrong on its own.
    NUMBER: one part; the answer is a number.
    PROBABILITIES: one part; the answer is a probability for each of the task's labels.
    """

    CLASSES = "classes"
    ONE_OF = "one of"
    EACH_OF = "each of"
    NUMBER = "number"
    PROBABILITIES = "probabilities"


@dataclass(frozen=True, slots=True)
class TextPair:
    """One part of a record: a text or two, before it is tokenised.

    Args:
        first, second: The texts; None for no second.
        marks: (text 0 or 1, start, end) in characters: spans that are pooled beside the whole. Truncated last.
        kept: The same for spans that are not pooled, but may not be truncated either.
    """

    first: str
    second: str | None = None
    marks: tuple[tuple[int, int, int], ...] = ()
    kept: tuple[tuple[int, int, int], ...] = ()
