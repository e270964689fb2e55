"""Reading a file of predictions, JSON Lines or a table, and holding it against the records it answers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from morocco_lib.tasks.checked import AnswerError, Checked, Idx, Prediction, Problem
from morocco_lib.tasks.jsonl import Record, open_lines, split_lines
from morocco_lib.tasks.tables import Submission

if TYPE_CHECKING:
    from morocco_lib.tasks.base import Task

Lines = Iterable[tuple[int, bytes]]  # line number from 1, line
Records = Mapping[Idx, Record]


def check_file(task: "Task", path: Path, records: Sequence[Record]) -> Checked:
    """Check a file of predictions against its records; raises UsageError if it cannot be read."""
    by_key = {task.key(record): record for record in records}
    with open_lines(Path(path)) as lines:
        if not task.submissions:
            return task.check(lines, by_key, str(path))
        numbered = list(split_lines(lines))
    if not numbered or numbered[0][1].lstrip().startswith(b"{"):
        return task.check((line for _, line in numbered), by_key, str(path))
    return task.check_table(numbered, by_key, str(path))


def submission_text(task: "Task", predictions: Iterable[Prediction]) -> str:
    """Return the contents of the table that the task's leaderboard takes."""
    return task.submissions[0].text(map(task.to_submission, predictions))


def check_lines(task: "Task", numbered: Lines, records: Records, file: str) -> Checked:
    """Check lines of JSON; see `Task.check`."""
    remedy = "print one JSON object a record and nothing else"
    return _judged(task, _parsed(numbered, task.parse), records, file, "broken-line", remedy)


def check_table(task: "Task", numbered: Lines, records: Records, file: str) -> Checked:
    """Check the lines of a table.

    Its rows may be numbered from 0 in the order of the records instead of by their idx, as leaderboards do.
    """
    numbered = [(number, line) for number, line in numbered if line]
    form, header = _form(task, numbered[0][1] if numbered else b"")
    if form is None:
        checked = Checked(expected=len(records))
        seen = f"the first line is {numbered[0][1][:60]!r}" if numbered else "an empty file"
        forms = " or ".join(one.delimiter.join(one.columns) for one in task.submissions)
        checked.add(Problem(file, 1, None, "broken-table", seen, f"write {forms!r}, or JSON Lines"))
        return checked
    rows = list(_parsed(numbered[form.header :], lambda line: task.from_submission(form.row(line, header))))
    answers = [row for _, _, row in rows if isinstance(row, dict)]
    given, keys = [answer["idx"] for answer in answers], list(records)
    by_number = set(given) == set(range(len(keys))) != set(keys)
    for answer in answers if by_number else ():
        answer["idx"] = keys[answer["idx"]]
    remedy = f"every row has {', '.join(form.columns)}"
    checked = _judged(task, rows, records, file, "broken-table", remedy)
    checked.noncanonical["row number for idx"] += by_number * len(records)
    return checked


def _form(task: "Task", line: bytes) -> tuple[Submission | None, list[str]]:
    """Return which table a first line begins, and its columns."""
    for form in task.submissions:
        cells = line.decode(errors="replace").split(form.delimiter)
        if form.fits(cells):
            return form, cells if form.header else list(form.columns)
    return None, []


def _parsed(
    numbered: Lines, parse: Callable[[bytes], Prediction]
) -> Iterator[tuple[int, bytes, Prediction | ValueError]]:
    """Yield (line number, line, prediction or the ValueError of its parsing)."""
    for number, line in numbered:
        try:
            yield number, line, parse(line)
        except ValueError as error:
            yield number, line, error


def _judged(task: "Task", parsed: Iterable, records: Records, file: str, broken: str, remedy: str) -> Checked:
    checked = Checked(expected=len(records))
    for number, line, prediction in parsed:
        checked.read += 1
        idx = None
        if isinstance(prediction, ValueError):
            checked.add(Problem(file, number, None, broken, f"{prediction}: {line[:60]!r}", remedy))
            continue
        try:
            found = task.read_idx(prediction, checked)
            idx = found
            if idx not in records:
                raise AnswerError("unknown-idx", "no record has this idx", "predict the records that were given")
            if idx in checked.predictions:
                raise AnswerError("duplicate-idx", "answered before", "print one line a record")
            checked.predictions[idx] = None  # answered, if wrongly: not missing as well
            checked.predictions[idx] = task.read_answer(prediction, records[idx], checked)
        except AnswerError as error:
            checked.add(Problem(file, number, idx, error.rule, error.seen, error.remedy))
    for idx in records:
        if idx not in checked.predictions:
            checked.add(Problem(file, None, idx, "missing-idx", "no prediction", "predict every record"))
    return checked
