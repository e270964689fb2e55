"""What every task is and does, and what tasks with one label a record share."""

import functools
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import eq
from pathlib import Path
from typing import Any, ClassVar

from morocco_lib.errors import UsageError
from morocco_lib.foreign import parse_object
from morocco_lib.tasks import checking, metrics
from morocco_lib.tasks.checked import AnswerError, Checked, Idx, Prediction, shown
from morocco_lib.tasks.form import AnswerKind, TextPair
from morocco_lib.tasks.jsonl import Record, is_jsonl, read_objects, split_lines
from morocco_lib.tasks.recombine import Opening
from morocco_lib.tasks.tables import Row, Submission, Table


class Task(ABC):
    """One benchmark task: its official files, its form, its answers, its score. To be derived from.

    A *prediction* is the object a submission file holds for a record: its idx and the answer. `gold` gives the right
    answer in the same form (and may add what the score needs), so gold and predictions are stored and compared alike.
    A *skeleton* is a record without its texts: what is needed to check answers and to map them back. A task whose
    TF-IDF baseline compares texts of one record instead of classifying it also has `groups(record)`, which returns
    (context, options) for each thing asked, and `pick(record, ranking)`, which returns the prediction for the options
    ranked from the most similar to their context down, one ranking a group.
    """

    name: ClassVar[str]  # short id: terra
    title: ClassVar[str]  # official folder and submission file name: TERRa
    benchmark: ClassVar[str] = ""  # whose total it counts in; "" for none
    counts_as: ClassVar[str | None] = None  # the task it is one with there, "" for none; itself by default
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)  # of what `score` returns: their mean is the task's value
    labels: ClassVar[tuple] = ()  # the answers there are; empty where an answer is free text
    files: ClassVar[dict[str, str]] = {}  # split -> official file name, where that is not <split>.jsonl
    sizes: ClassVar[dict[str, int]] = {}  # official number of records, by the file's name without its ending
    fields: ClassVar[dict[str, type]]  # what a record must have, apart from idx and label
    texts: ClassVar[
        tuple[str, ...]
    ] = ()  # fields of free text in reading order, where these are not all of `fields` that are str
    hidden: ClassVar[tuple[str, ...]] = ("label",)  # keys that give the answer away
    idx_type: ClassVar[type] = int
    table: ClassVar[Table | None] = None  # the official files, where these are tables; JSON Lines serve as well
    submissions: ClassVar[tuple[Submission, ...]] = ()  # tables that predictions may come in; the first is written
    answer_kind: ClassVar[AnswerKind] = AnswerKind.CLASSES  # what `parts` are
    spans: ClassVar[int] = 0  # marked spans in each of `parts`

    def __repr__(self) -> str:
        return f"get_task({self.name!r})"

    @property
    def trained_on(self) -> str:
        """The task whose records its models are trained on; its own name except for diagnostics."""
        return self.name

    # -- records -------------------------------------------------------------------------------------------------
    def read(self, path: Path) -> list[Record]:
        """Read and validate one official file, a table or JSON Lines; raises UsageError naming file, line and rule."""
        records, first_line = [], {}
        path = Path(path)
        table = None if is_jsonl(path) else self.table
        for number, record in table.rows(path) if table else read_objects(path):
            try:
                record = self.from_row(record, len(records)) if table else record
                self.validate(record)
            except ValueError as error:
                raise UsageError(f"{path}, line {number}: {error}", remedy=f"give a {self.title} file") from None
            idx = self.key(record)
            if idx in first_line:
                raise UsageError(
                    f"{path}, line {number}: idx {idx!r:.60} stood in line {first_line[idx]} already",
                    rule="idx is unique in a file",
                )
            first_line[idx] = number
            records.append(record)
        if not records:
            raise UsageError(f"{path} holds no record", remedy=f"give a {self.title} file")
        return records

    def from_row(self, row: Row, number: int) -> Record:
        """Return the record of a row of an official table, the number-th from 0; raises ValueError."""
        idx = row.get(self.table.idx, number)
        try:
            idx = self.idx_type(idx)
        except ValueError:
            raise ValueError(f"{self.table.idx!r} is {idx!r:.60}; it is a whole number") from None
        fields = {field: row[column] for column, field in self.table.columns.items() if column in row}
        if "label" in fields:
            fields["label"] = self.read_cell(fields["label"])
        return {"idx": idx, **fields}

    def read_cell(self, cell: str) -> Any:
        """Return the label that a cell of a table spells; the cell itself where it spells none."""
        return cell

    def validate(self, record: Record) -> None:
        """Raise ValueError if a record is not one of this task."""
        for key, kind in self.fields.items():
            if type(record.get(key)) is not kind:
                kinds = ", ".join(f"{k} ({t.__name__})" for k, t in self.fields.items())
                raise ValueError(f"{key!r} is {shown(record, key)}; a {self.title} record has {kinds} and idx")
        if type(record.get("idx")) is not self.idx_type:
            raise ValueError(f"'idx' is {shown(record, 'idx')}; a {self.title} idx is {self.idx_type.__name__}")

    def key(self, record: Record) -> Idx:
        """Return the idx that an answer to the record carries."""
        return record["idx"]

    def unaligned(self, records: Sequence[Record]) -> int | None:
        """Return how many marked spans are not where the records say, None for tasks without spans."""
        return None

    def facets(self, record: Record) -> dict[str, str]:
        """Return the groups, by name, in which the errors of a record are counted: {"gender": "feminine"}."""
        return {}

    def strip_labels(self, record: Record) -> Record:
        """Return the record without anything that gives the answer away, at every depth."""
        return {key: value for key, value in record.items() if key not in self.hidden}

    def kin(self, record: Record) -> Any:
        """Return what two records must have in common to be recombined."""
        return None

    def recombine(self, record: Record, other: Record, opening: Opening) -> Record | None:
        """Return a record that asks about the first text of `other` what `record` asks, or None if the task has no way to.

        Its answer has the form of one to `record`. Every text gets other first words from `opening`, so that none is fed
        twice; a task with offsets into its texts moves them in a method of its own.
        """
        names = self.text_fields
        if not names or self.spans:
            return None
        made = {**record, names[0]: other[names[0]]} if len(names) > 1 else dict(record)
        for name in names:
            made[name], _ = opening(made[name])
        return made

    @functools.cached_property
    def text_fields(self) -> tuple[str, ...]:
        """The fields of free text, in the order a model reads them."""
        return self.texts or tuple(name for name, kind in self.fields.items() if kind is str)

    def parts(self, record: Record) -> list[TextPair]:
        """Return what a model sees of a record, labelled or not: a pair, or one for each option or thing asked.

        By default one pair: the first text, and all others joined by spaces as the second.
        """
        first, *others = (record[name] for name in self.text_fields)
        return [TextPair(first, " ".join(others) if others else None)]

    def bow_text(self, record: Record) -> str:
        """Return the text that a bag-of-words model reads, as the original's TF-IDF baseline joins it."""
        return " ".join(record[name] for name in self.text_fields)

    def skeleton(self, record: Record) -> Record:
        """Return the record without texts and labels; `reindex`, `restore`, `key` and `check` work on it alike."""
        return {"idx": record["idx"]}

    def reindex(self, record: Record, position: int) -> Record:
        """Return the record with idx `position`, in the type the task's idx has, at every depth."""
        return {**record, "idx": self.idx_type(position)}

    def restore(self, prediction: Prediction, record: Record) -> Prediction:
        """Return a prediction made for a reindexed record with every idx of the original record."""
        return {**prediction, "idx": self.key(record)}

    def parse(self, line: bytes) -> Prediction:
        """Parse one line of a submission; raises ValueError."""
        return parse_object(line)

    def read_idx(self, prediction: Prediction, checked: Checked) -> Idx:
        """Return the idx of a prediction; raises AnswerError if it is of no accepted type."""
        if type(prediction.get("idx")) is not self.idx_type:
            raise AnswerError("idx", f"idx is {shown(prediction, 'idx')}", "echo the record's idx as it came")
        return prediction["idx"]

    def majority(self, gold: Sequence[Prediction]) -> dict[str, Any]:
        """Return what always giving the most frequent answer needs to know, as JSON: {"label": ...}, or {}."""
        counts = Counter(label for g in gold for label in self.labels_in(g))
        return {"label": max(self.labels, key=lambda label: counts[label])}

    def check(self, lines: Iterable[bytes], records: Mapping[Idx, Record], file: str) -> Checked:
        """Check predictions against the records (or skeletons) they answer; never raises for bad predictions."""
        return checking.check_lines(self, split_lines(lines), records, file)

    def check_table(self, numbered: Iterable[tuple[int, bytes]], records: Mapping[Idx, Record], file: str) -> Checked:
        """Check a submission that is a table, by numbered lines; see `check`."""
        return checking.check_table(self, numbered, records, file)

    def from_submission(self, row: Row) -> Prediction:
        """Return the prediction of a row of a table; raises ValueError."""
        form = next(form for form in self.submissions if row.keys() == set(form.columns))
        idx, *answer = (row[column] for column in form.columns)
        return {"idx": self._idx_of(idx), "label": self.read_cell(answer[0])}

    def _idx_of(self, cell: str) -> Idx:
        return int(cell) if self.idx_type is int and cell.isdecimal() else cell

    def to_submission(self, prediction: Prediction) -> Row:
        """Return the row of the first of `submissions`."""
        idx, answer = self.submissions[0].columns
        return {idx: prediction["idx"], answer: prediction["label"]}

    def same(self, one: Prediction, other: Prediction) -> bool:
        """Tell whether two answers to a record are the same."""
        return one == other

    def format(self, prediction: Prediction) -> str:
        """Return the line of a submission, without line end."""
        return json.dumps({"idx": prediction["idx"], "label": prediction["label"]}, ensure_ascii=False)

    def constant(self, state: dict[str, Any], record: Record) -> Prediction:
        """Return the answer of `majority` to a record or a skeleton."""
        return {"idx": self.key(record), "label": state["label"]}

    # -- what a task without one label a record defines ------------------------------------------------------------
    @abstractmethod
    def gold(self, record: Record) -> Prediction | None:
        """Return the right answer in submission form, None for a record without label."""

    @abstractmethod
    def labels_in(self, answer: Prediction) -> list:
        """Return the labels that a prediction or gold gives, one for each thing asked; empty for free text."""

    @abstractmethod
    def read_answer(self, prediction: Prediction, record: Record, checked: Checked) -> Prediction:
        """Return the prediction as a submission spells it; raises AnswerError if it does not answer the record."""

    @abstractmethod
    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return the task's metrics; both sequences are in the same order."""

    def units(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> tuple[Any, Callable] | None:
        """Return what each unit (a record, a passage) adds to sums, and the task's value of such sums.

        Shapes (units, k), and (draws, k) -> (draws,): see `metrics.bootstrap_interval`. A task that has an `interval` of its
        own may leave it out (None): a report then compares no two models on it.
        """
        return None

    def interval(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> metrics.Interval:
        """Return the 95 % interval of the task's value over records drawn anew."""
        return metrics.bootstrap_interval(*self.units(gold, predictions))

    @abstractmethod
    def targets(self, record: Record) -> list[int]:
        """Return what is right of a labelled record: the place of its label, or 1 and 0 for each of its parts."""

    @abstractmethod
    def prediction(self, record: Record, chosen: Sequence[int]) -> Prediction:
        """Return the prediction for a record.

        Args:
            chosen: By `answer_kind`: [place of the label], [place of the part], 1 and 0 for each part, [the number], or the
                probability of each label.
        """


class LabelTask(Task):
    """What tasks with one label a record share.

    `labels` are spelt as in a submission; `spellings` are other published ones, as JSON text -> label. In records the
    label may stand in any of them.
    """

    spellings: ClassVar[dict[str, Any]] = {}
    scored: ClassVar[tuple[str, ...]] = ()  # what `score` returns, where that is more than `metric_names`
    of_sums: ClassVar[dict[str, Callable]] = {}  # metrics that are not accuracy -> values of sums of confusion tables

    def label_of(self, value: Any) -> Any:
        """Return the label a JSON value spells; raises KeyError for none."""
        for label in self.labels:
            if type(value) is type(label) and value == label:
                return label
        return self.spellings[json.dumps(value, ensure_ascii=False)]

    def validate(self, record: Record) -> None:
        super().validate(record)
        if "label" in record:
            try:
                self.label_of(record["label"])
            except (KeyError, TypeError):
                raise ValueError(f"'label' is {shown(record, 'label')}; labels: {self._labels_text()}") from None

    def read_cell(self, cell: str) -> Any:
        return next((label for label in self.labels if str(label) == cell), cell)

    def _labels_text(self) -> str:
        return ", ".join(json.dumps(label, ensure_ascii=False) for label in self.labels)

    def gold(self, record: Record) -> Prediction | None:
        return {"idx": record["idx"], "label": self.label_of(record["label"])} if "label" in record else None

    def targets(self, record: Record) -> list[int]:
        right = self.gold(record)["label"]
        if self.answer_kind is AnswerKind.ONE_OF:
            return [int(label == right) for label in self.labels]
        return [self.labels.index(right)]

    def prediction(self, record: Record, chosen: Sequence[int]) -> Prediction:
        return {"idx": self.key(record), "label": self.labels[chosen[0]]}

    def read_answer(self, prediction: Prediction, record: Record, checked: Checked) -> Prediction:
        value = prediction.get("label")
        try:
            label = self.label_of(value)
        except KeyError:
            seen = f"label is {shown(prediction, 'label')}"
            raise AnswerError("label", seen, f"use one of {self._labels_text()}") from None
        checked.noncanonical["label"] += type(value) is not type(label) or value != label
        return {"idx": self.key(record), "label": label}

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        names = self.scored or self.metric_names
        if not self.of_sums:  # without numpy
            return {names[0]: metrics.accuracy(*self.columns(gold, predictions))}
        sums = self.confusion(gold, predictions).sum(axis=0, keepdims=True)
        return {name: of(sums).item() for name, of in zip(names, self._functions(names), strict=True)}

    def _functions(self, names: Sequence[str]) -> list[Callable]:
        known = {"accuracy": metrics.accuracy_of, "acc": metrics.accuracy_of, **self.of_sums}
        return [known[name] if self.of_sums else metrics.accuracy_of for name in names]

    @staticmethod
    def columns(gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> tuple[list, list]:
        """Return (right labels, given labels)."""
        return [g["label"] for g in gold], [p["label"] for p in predictions]

    def confusion(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]):
        """Return an array of shape (records, labels x labels); see `metrics.confusion_cells`."""
        return metrics.confusion_cells(*self.columns(gold, predictions), self.labels)

    def units(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> tuple[Any, Callable]:
        values = self._functions(self.metric_names)
        return self.confusion(gold, predictions), lambda sums: sum(of(sums) for of in values) / len(values)

    def interval(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> metrics.Interval:
        if self.of_sums.keys() & set(self.metric_names):  # of no share
            return super().interval(gold, predictions)
        return metrics.wilson_interval(sum(map(eq, *self.columns(gold, predictions))), len(gold))

    def labels_in(self, answer: Prediction) -> list:
        return [answer["label"]]


def task_value(task: Task, scores: Mapping[str, float]) -> float:
    """Return the one number of a task: its single metric or the plain mean of its pair."""
    return sum(scores[name] for name in task.metric_names) / len(task.metric_names)


def deciding_value(task: Task, scores: Mapping[str, float], by: str) -> float:
    """Return the number by which scores of a task are compared: the "first" or "last" of its metrics, or its "mean"."""
    return task_value(task, scores) if by == "mean" else scores[task.metric_names[0 if by == "first" else -1]]
