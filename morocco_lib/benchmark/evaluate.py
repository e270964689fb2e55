"""Every record of a split exactly once through a program, checked and scored: preds.jsonl and score.json."""

from pathlib import Path
from typing import Any

from morocco_lib import fileio
from morocco_lib.analysis.summary import PREDICTIONS, SCORE, derive_eval
from morocco_lib.benchmark import protocol
from morocco_lib.data import workload
from morocco_lib.runners.contract import Limits, Runner
from morocco_lib.tasks.base import Task, check_file


def answers(task: Task, source: Path, folder: Path):
    """Return a DataFrame of the answered records: the record's own columns, `right` (None without label) and `given`.

    Answers that are more than a label are shown as their line of the submission.
    """
    import pandas

    records = task.read(source)
    given = check_file(task, folder / PREDICTIONS, records).predictions

    def shown(prediction):
        return None if prediction is None else prediction.get("label", task.format(prediction))

    columns = {"right": [shown(task.gold(r)) for r in records], "given": [shown(given[task.key(r)]) for r in records]}
    return pandas.DataFrame([task.strip_labels(r) for r in records]).set_index("idx").assign(**columns)


def evaluate(
    program: protocol.Program,
    task: Task,
    source: Path,
    runner: Runner,
    limits: Limits,
    folder: Path,
    *,
    batch_size: int,
) -> dict[str, Any]:
    """Answer a file of records once, write preds.jsonl (submission format) and score.json, and return the latter."""
    load = workload.in_order(task, task.read(source))
    protocol.measure(program, load, source, runner, limits, folder, batch_size=batch_size, repeats=1, purpose="eval")
    text, result = derive_eval(folder)
    fileio.write_text(folder / PREDICTIONS, text)
    fileio.write_json(folder / SCORE, result)
    return result
