"""The predictions of a run, checked and mapped back to the records they answer."""

from dataclasses import dataclass

from morocco_lib import foreign
from morocco_lib.analysis.run_files import Run, readable
from morocco_lib.data import workload
from morocco_lib.data.workload import Workload
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import Checked, Prediction, Task


@dataclass(frozen=True)
class Answers:
    """The checked predictions of one run.

    Args:
        task, load: What was fed.
        first: Place of a record of the file -> its first prediction, with the record's own idx.
        repeated: Predictions for records that had been answered before.
        flips: How many of these differ from the first.
    """

    task: Task
    load: Workload
    checked: Checked
    first: dict[int, Prediction]
    repeated: int
    flips: int


def read_answers(run: Run) -> Answers:
    """Return the checked predictions of a run; raises UsageError if workload.json or answers.jsonl cannot be read."""
    with readable(run.folder):
        files = ("workload.json", "answers.jsonl")
        key = tuple(foreign.sha256_file(run.folder / name, within=run.folder) for name in files)
        if key in _last:
            return _last[key]
        task = get_task(run.workload["task"])
        load = workload.from_description(task, run.workload)
        with foreign.opened(run.folder / "answers.jsonl", within=run.folder) as lines:
            checked = task.check(lines, load, f"runs/{run.folder.name}/answers.jsonl")
    first: dict[int, Prediction] = {}
    repeated = flips = 0
    for idx in load:
        prediction = checked.predictions.get(idx)
        if prediction is None:
            continue
        if (restored := load.restore(prediction)) is None:
            continue
        place, restored = restored
        if place in first:
            repeated += 1
            flips += not task.same(first[place], restored)
        else:
            first[place] = restored
    answers = Answers(task, load, checked, first, repeated, flips)
    _last.clear()
    if checked.ok:  # else it names its run
        _last[key] = answers
    return answers


_last: dict[tuple[str, ...], Answers] = {}  # by content: the runs of most programs are alike


def differing(one: Answers, other: Answers) -> tuple[int, int]:
    """Return (how many records that both answered first got different predictions, how many both answered)."""
    both = one.first.keys() & other.first.keys()
    return sum(not one.task.same(one.first[place], other.first[place]) for place in both), len(both)
