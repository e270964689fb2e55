"""The Task protocol, and what tasks with one label a record share."""

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from morocco_lib import metrics
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.tasks.records import Record, open_lines, parse_object, read_objects, split_lines

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
            + (f", idx {self.idx!r}" if self.idx is not None else "")
        )
        return f"{where}: {self.rule}: {self.seen}; {RULES[self.rule]}; {self.remedy}"


@dataclass
class Checked:
    """What `Task.check` found: the valid predictions by idx, and every problem.

    `problems` holds the first five of each rule, `counts` counts them all.
    """

    expected: int
    read: int = 0
    predictions: dict[Idx, Prediction] = field(default_factory=dict)
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
    "idx": "a prediction has the idx of a record, in the record's own type",
    "unknown-idx": "a prediction answers a record that was asked",
    "duplicate-idx": "a record is answered once",
    "missing-idx": "every record is answered",
    "label": "a label is one of the task's labels, spelt as in the records",
}


class Task(Protocol):
    """One benchmark task: its official files, its answers, its score.

    A *prediction* is the object a submission file holds for a record: its idx and the answer. `gold` gives the right
    answer in the same form, so gold and predictions are scored, stored and compared alike.
    """

    name: str  # short id: terra
    title: str  # official folder and submission file name: TERRa
    metric_names: tuple[str, ...]  # names of what `score` returns; the task's value is their mean

    def read(self, path: Path) -> list[Record]:
        """Read and validate one official file; raises UsageError naming file, line and rule."""

    def validate(self, record: Record) -> None:
        """Raise ValueError if a record is not one of this task."""

    def strip_labels(self, record: Record) -> Record:
        """Return the record without anything that gives the answer away, at every depth."""

    def reindex(self, record: Record, position: int) -> Record:
        """Return the record with idx `position`, in the type the task's idx has."""

    def restore(self, prediction: Prediction, record: Record) -> Prediction:
        """Return a prediction made for a reindexed record with the idx of the original record."""

    def gold(self, record: Record) -> Prediction | None:
        """Return the right answer in submission form, None for a record without label."""

    def parse(self, line: bytes) -> Prediction:
        """Parse one line of a submission; raises ValueError."""

    def format(self, prediction: Prediction) -> str:
        """Return the line of a submission, without line end."""

    def check(self, lines: Iterable[bytes], records: Mapping[Idx, Record], file: str) -> Checked:
        """Hold predictions against the records they answer; never raises for bad predictions."""

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return the task's metrics; both sequences are in the same order."""

    def interval(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> metrics.Interval:
        """Return the 95 % interval of the task's value over records drawn anew."""

    def majority(self, gold: Sequence[Prediction]) -> Prediction:
        """Return the answer (without idx) that would score best if given to every record."""

    def bag_text(self, record: Record) -> str:
        """Return the text a bag-of-words model reads, as the original's TF-IDF baseline joins it."""


def task_value(task: Task, scores: Mapping[str, float]) -> float:
    """Return the one number of a task: its single metric or the plain mean of its pair."""
    return sum(scores[name] for name in task.metric_names) / len(task.metric_names)


class LabelTask:
    """What tasks with one label and one integer idx a record share."""

    name: ClassVar[str]
    title: ClassVar[str]
    labels: ClassVar[tuple[str, ...]]
    fields: ClassVar[dict[str, type]]  # what a record must have, apart from idx and label
    hidden: ClassVar[tuple[str, ...]] = ("label",)  # keys that give the answer away
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)

    def read(self, path: Path) -> list[Record]:
        records, first_line = [], {}
        for number, record in read_objects(Path(path)):
            try:
                self.validate(record)
            except ValueError as error:
                raise UsageError(f"{path}, line {number}: {error}", remedy=f"give a {self.title} file") from None
            idx = record["idx"]
            if idx in first_line:
                raise UsageError(
                    f"{path}, line {number}: idx {idx!r} stood in line {first_line[idx]} already",
                    rule="idx is unique in a file",
                )
            first_line[idx] = number
            records.append(record)
        if not records:
            raise UsageError(f"{path} holds no record", remedy=f"give a {self.title} file")
        return records

    def validate(self, record: Record) -> None:
        for key, kind in self.fields.items():
            if type(record.get(key)) is not kind:
                raise ValueError(
                    f"{key!r} is {_shown(record, key)}; "
                    f"a {self.title} record has {', '.join(self.fields)} ({kind.__name__}) and idx (int)"
                )
        if type(record.get("idx")) is not int:
            raise ValueError(f"'idx' is {_shown(record, 'idx')}; a {self.title} record has an integer idx")
        if "label" in record and record["label"] not in self.labels:
            raise ValueError(f"'label' is {_shown(record, 'label')}; labels: {', '.join(self.labels)}")

    def strip_labels(self, record: Record) -> Record:
        return {key: value for key, value in record.items() if key not in self.hidden}

    def reindex(self, record: Record, position: int) -> Record:
        return {**record, "idx": position}

    def restore(self, prediction: Prediction, record: Record) -> Prediction:
        return {**prediction, "idx": record["idx"]}

    def gold(self, record: Record) -> Prediction | None:
        return {"idx": record["idx"], "label": record["label"]} if "label" in record else None

    def parse(self, line: bytes) -> Prediction:
        return parse_object(line)

    def format(self, prediction: Prediction) -> str:
        return json.dumps({"idx": prediction["idx"], "label": prediction["label"]}, ensure_ascii=False)

    def check(self, lines: Iterable[bytes], records: Mapping[Idx, Record], file: str) -> Checked:
        checked = Checked(expected=len(records))
        for number, line in split_lines(lines):
            checked.read += 1

            def problem(rule, seen, remedy, idx=None, number=number):
                checked.add(Problem(file, number, idx, rule, seen, remedy))

            try:
                prediction = self.parse(line)
            except ValueError as error:
                problem("broken-line", f"{error}: {line[:60]!r}", "print one JSON object a record and nothing else")
                continue
            idx = prediction.get("idx")
            if type(idx) is not int:
                problem("idx", f"idx is {_shown(prediction, 'idx')}", "echo the record's idx as it came")
            elif idx not in records:
                problem("unknown-idx", "no record has this idx", "predict the records that were given", idx)
            elif idx in checked.predictions:
                problem("duplicate-idx", "answered before", "print one line a record", idx)
            elif type(prediction.get("label")) is not str or prediction["label"] not in self.labels:
                problem("label", f"label is {_shown(prediction, 'label')}", f"use one of {', '.join(self.labels)}", idx)
                checked.predictions[idx] = None  # answered, though wrongly: not missing as well
            else:
                checked.predictions[idx] = {"idx": idx, "label": prediction["label"]}
        for idx in records:
            if idx not in checked.predictions:
                checked.add(Problem(file, None, idx, "missing-idx", "no prediction", "predict every record"))
        return checked

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        return {"accuracy": metrics.accuracy([g["label"] for g in gold], [p["label"] for p in predictions])}

    def interval(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> metrics.Interval:
        right = sum(g["label"] == p["label"] for g, p in zip(gold, predictions, strict=True))
        return metrics.wilson_interval(right, len(gold))

    def majority(self, gold: Sequence[Prediction]) -> Prediction:
        counts = Counter(g["label"] for g in gold)
        return {"label": max(self.labels, key=lambda label: counts[label])}


def check_file(task: Task, path: Path, records: Sequence[Record]) -> Checked:
    """Check a file of predictions against its records; raises UsageError if it cannot be read."""
    try:
        with open_lines(Path(path)) as lines:
            return task.check(lines, {record["idx"]: record for record in records}, str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot read {path}: {error}", remedy="give the path of a JSONL file") from None


def _shown(record: Mapping, key: str) -> str:
    if key not in record:
        return "absent"
    return f"{json.dumps(record[key], ensure_ascii=False)[:60]} ({type(record[key]).__name__})"
