"""runs/NN/ -> its answers, checked and mapped back to the records they are to."""

import json
from dataclasses import dataclass
from pathlib import Path

from morocco_lib.data import workload
from morocco_lib.data.workload import Workload
from morocco_lib.errors import UsageError
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import Checked, Prediction, Task


@dataclass
class Answers:
    """The answers of one run, checked, in the order of the distinct records they were first given to."""

    checked: Checked
    first: dict[int, Prediction]  # place of the record -> its first answer, with its own idx
    repeated: int  # answers to records that had been answered before
    flips: int  # of these, how many differ from the first


def read_answers(folder: Path) -> tuple[Task, Workload, Answers]:
    """Return task, workload and checked answers of runs/NN.

    Raises:
        UsageError: workload.json or answers.jsonl cannot be read.
    """
    try:
        description = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
        task = get_task(description["task"])
        load = workload.from_description(task, description)
        with (folder / "answers.jsonl").open("rb") as lines:
            checked = task.check(lines, load, f"runs/{folder.name}/answers.jsonl")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"run in {folder} cannot be read ({error})", remedy="restore the folder or bench again"
        ) from None
    first: dict[int, Prediction] = {}
    repeated = flips = 0
    for idx in load:
        prediction = checked.predictions.get(idx)
        if prediction is None:
            continue
        place, restored = load.restore(prediction)
        if place in first:
            repeated += 1
            flips += first[place] != restored
        else:
            first[place] = restored
    return task, load, Answers(checked, first, repeated, flips)


def run_folders(folder: Path) -> list[Path]:
    """Return the finished runs of a step folder, in order; raises UsageError if there is none."""
    folders = sorted(path.parent for path in (folder / "runs").glob("[0-9]*/run.json"))
    if not folders:
        raise UsageError(f"no finished run in {folder}", remedy="bench again")
    return folders
