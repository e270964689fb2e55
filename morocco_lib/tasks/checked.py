"""Checking predictions: the rules, what was found, and how a user reads it."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from morocco_lib.errors import InvalidResult

Prediction = dict[str, Any]
Idx = int | str
SHOWN_PROBLEMS = 5  # of each rule; all are counted


@dataclass(frozen=True)
class Problem:
    """One thing wrong with predictions: where, which rule, what was seen, what to do."""

    file: str
    line: int | None
    idx: Idx | None
    rule: str
    seen: str
    remedy: str

    def __str__(self) -> str:
        where = (
            self.file
            + (f", line {self.line}" if self.line else "")
            + (f", idx {self.idx!r:.60}" if self.idx is not None else "")
        )
        return f"{where}: {self.rule}: {self.seen}; {RULES[self.rule]}; {self.remedy}"


@dataclass
class Checked:
    """What `Task.check` found: the answers by idx, and every problem.

    `predictions` holds None where a record was answered, but wrongly. `problems` holds the first five of each rule,
    `counts` counts them all. `noncanonical` counts what was accepted though not spelt as a submission spells it.
    """

    expected: int
    read: int = 0
    predictions: dict[Idx, Prediction | None] = field(default_factory=dict, repr=False)
    noncanonical: Counter = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        return not self.counts

    def add(self, problem: Problem) -> None:
        self.counts[problem.rule] += 1
        if self.counts[problem.rule] <= SHOWN_PROBLEMS:
            self.problems.append(problem)

    def error(self) -> InvalidResult:
        """Return the problems as the error a user sees."""
        counts = ", ".join(f"{n} x {rule}" for rule, n in sorted(self.counts.items()))
        lines = [f"read {self.read} predictions for {self.expected} records: {counts}"]
        lines += [f"  {p}" for p in self.problems]
        if hidden := self.counts.total() - len(self.problems):
            lines.append(f"  ... and {hidden} more")
        return InvalidResult("\n".join(lines))


RULES = {
    "broken-line": "every line is one JSON object in UTF-8",
    "broken-table": "a table has the columns of a submission, in UTF-8",
    "idx": "a prediction has the idx of a record, in the record's own type",
    "unknown-idx": "a prediction answers a record that was given",
    "duplicate-idx": "a record is answered once",
    "missing-idx": "every record is answered",
    "probabilities": "each label has a probability, at least one of them above 0",
    "label": "a label is one of the task's labels, spelt as in the records",
    "number": "the answer is a finite number, and no text",
}


class AnswerError(ValueError):
    """A prediction that does not answer its record: which rule, what was seen, what to do."""

    def __init__(self, rule: str, seen: str, remedy: str):
        super().__init__(seen)
        self.rule, self.seen, self.remedy = rule, seen, remedy


def shown(record: Mapping, key: str) -> str:
    """Return a value as a message shows it: its JSON, cut, and its type."""
    if key not in record:
        return "absent"
    return f"{json.dumps(record[key], ensure_ascii=False)[:60]} ({type(record[key]).__name__})"
