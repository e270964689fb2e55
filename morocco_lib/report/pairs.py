"""Whether models differ on the same records: differences of scores, both models scored on the same draws of records."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morocco_lib.analysis.predictions import read_answers
from morocco_lib.analysis.run_files import read_run, run_folders
from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import task_value

MOST = 10  # points of a task that are compared: the best


def differences(plan_dir: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how far the best point of each task is above the next best, on the records that both answered.

    Each: task, best, other (names of models), value, low, high (of the difference of scores), n (records). Points whose
    answers an eval step holds are compared, the `MOST` best of each task, where the task's score is one of sums.
    """
    points: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["eval_folder"] and row["score"]["value"] is not None and row["data"]:
            points[row["task"], row["data"].get("sha256")].append(row)
    found = []
    for (task, _), here in sorted(points.items(), key=str):
        ranked = sorted(here, key=lambda row: -row["score"]["value"])[:MOST]
        by_folder = {row["eval_folder"]: row for row in ranked}  # batch sizes share an eval
        if len(by_folder) > 1:
            best, *others = ((row, _answers(plan_dir / folder)) for folder, row in by_folder.items())
            found += [d for row, answers in others if (d := _difference(task, best, (row, answers)))]
    return found


def _answers(folder: Path):
    return read_answers(read_run(run_folders(folder)[0]))


def _difference(task: str, best, other) -> dict[str, Any] | None:
    (row, one), (row2, two) = best, other
    places = sorted(one.first.keys() & two.first.keys())
    if not places or one.load.gold is None:
        return None
    gold, a, b = ([source[place] for place in places] for source in (one.load.gold, one.first, two.first))
    ours, theirs = one.task.units(gold, a), one.task.units(gold, b)
    if ours is None or theirs is None:
        return None
    (left, value), (right, _) = ours, theirs
    low, high, _ = metrics.paired_interval(left, right, value)
    scores = [task_value(one.task, one.task.score(gold, given)) for given in (a, b)]
    named = {"task": task, "best": row["model"], "other": row2["model"]}
    return {**named, "value": scores[0] - scores[1], "low": low, "high": high, "n": len(places)}
