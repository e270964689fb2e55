"""Scores as the original computed them, to compare with what it published.

Records without a prediction are not counted, and a record predicted twice counts twice. Of answers in free text (RuCoS)
the last of a record counts, empty ones are skipped, trailing punctuation and spaces are removed, and one that names no
entity is replaced by the alphabetically first entity. Where each of several answers is labelled (MuSeRC), missing ones
do not count. A prediction for an unknown record, or with an unknown label, is an error there as here.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.tasks.base import AnswerError, Checked, Prediction, Task
from morocco_lib.tasks.form import AnswerKind
from morocco_lib.tasks.jsonl import Record, open_lines, split_lines

BENCHMARK = "Russian SuperGLUE"  # the original's tasks
TRAILING = re.compile(r"\W+$")


def score_file(task: Task, path: Path, records: Sequence[Record]) -> dict[str, float]:
    """Return the metrics of a file of predictions under the original's rules.

    Raises:
        InvalidResult: a prediction for an unknown record, with an unknown label, not JSON, or no prediction at all.
        UsageError: the file cannot be read, or the task is not one of the original's.
    """
    with open_lines(Path(path)) as lines:
        return score(task, lines, records, str(path))


def score(task: Task, lines: Iterable[bytes], records: Sequence[Record], file: str = "predictions") -> dict[str, float]:
    """Return the metrics of lines of predictions; see `score_file`."""
    if task.benchmark != BENCHMARK:
        raise UsageError(
            f"the original has no {task.title}", rule=f"its rules are those of {BENCHMARK}'s tasks", remedy="leave out --original"
        )  # fmt: skip
    by_key = {task.key(record): record for record in records}
    pairs: list[tuple[Prediction, Prediction]] = []
    checked = Checked(expected=len(records))
    for number, line in split_lines(lines):
        if not line.strip():
            continue
        try:
            prediction = task.parse(line)
            idx = task.read_idx(prediction, checked)
            if idx not in by_key:
                raise AnswerError("unknown-idx", f"no record has the idx {idx!r}", "")
            pair = _pair(task, prediction, by_key[idx], checked)
        except ValueError as error:
            raise InvalidResult(
                f"{file}, line {number}: {error}",
                rule="the original stops at an unknown record or label",
                remedy="without --original all such lines are listed",
            ) from None
        if pair:
            pairs.append(pair)
    if not task.labels:
        pairs = list({gold["idx"]: (gold, given) for gold, given in pairs}.values())
    if not pairs:
        raise InvalidResult(f"{file} holds no prediction to score")
    gold, predictions = zip(*pairs, strict=True)
    return task.score(gold, predictions)


def _pair(task: Task, prediction: Prediction, record: Record, checked: Checked) -> tuple[Prediction, Prediction] | None:
    """Return (gold, prediction), both reduced to what was predicted; None for a prediction that is skipped."""
    gold = task.gold(record)
    if not task.labels:  # an entity of the passage in its own words
        label = prediction.get("label")
        if not label:
            return None
        label, names = TRAILING.sub("", str(label)), task.entities(record)
        return gold, {"idx": gold["idx"], "label": label if label in names else min(names)}
    if task.answer_kind is AnswerKind.EACH_OF:
        record, gold = _predicted_part(prediction, record, gold)
    answer = task.read_answer(prediction, record, checked)
    return (gold, answer) if task.labels_in(gold) else None  # a MuSeRC passage of which nothing was answered


def _predicted_part(prediction: Prediction, record: Record, gold: Prediction) -> tuple[Record, Prediction]:
    # A question is right there if every answer that was given is right; missing answers are removed from the gold, too.
    try:
        given = {
            (question["idx"], answer["idx"])
            for question in prediction["passage"]["questions"]
            for answer in question["answers"]
        }
    except (KeyError, TypeError):
        return record, gold

    def part(whole: Record) -> Record:
        questions = [
            {**question, "answers": [a for a in question["answers"] if (question["idx"], a["idx"]) in given]}
            for question in whole["passage"]["questions"]
        ]
        return {**whole, "passage": {**whole["passage"], "questions": [q for q in questions if q["answers"]]}}

    return part(record), part(gold)
