"""Every record of a split exactly once through a program, checked and scored: preds.jsonl and score.json."""

from pathlib import Path
from typing import Any

from morocco_lib import bench, steps, workload
from morocco_lib.errors import InvalidResult
from morocco_lib.runners.contract import Limits, Runner
from morocco_lib.tasks.base import Task, check_file
from morocco_lib.validity import exit_reasons, verdict

PREDICTIONS, RESULT = "preds.jsonl", "score.json"


def derive(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return (text of preds.jsonl, what score.json holds) from runs/01 alone.

    Raises:
        InvalidResult: the program failed or its answers are wrong; there is no score then.
        UsageError: a file of the run is missing or broken.
    """
    run_folder = bench.run_folders(folder)[0]
    run = bench.estimate.read_run(run_folder)
    task, load, answers = bench.read_answers(run_folder)
    found = exit_reasons(run.facts["exit"])
    if verdict(found) != "VALID":
        raise InvalidResult(
            f"{run.facts['model']} ended with {run.facts['exit']} ({', '.join(found)})",
            rule="a program exits 0 when every record was answered",
            remedy=f"read {run_folder / 'stderr.log'}",
        )
    if not answers.checked.ok:
        raise answers.checked.error()
    lines = [task.format(answers.first[place]) for place in sorted(answers.first)]
    description = steps.read_json(run_folder / "workload.json")
    result = {
        "schema": 1,
        "task": task.name,
        "model": run.facts["model"],
        "batch_size": run.facts["batch_size"],
        "data": description["source"],
        "score": bench.score(task, load, answers.first),
    }
    return "".join(f"{line}\n" for line in lines), result


def answers(task: Task, source: Path, folder: Path):
    """Return a DataFrame of the answered records: the record's own columns, `right` (None without label) and `given`.

    Answers that are more than a label are shown as their line of the submission.
    """
    import pandas

    records = task.read(source)
    given = check_file(task, folder / PREDICTIONS, records).predictions

    def shown(prediction):
        return None if prediction is None else prediction.get("label", task.format(prediction))

    columns = {"right": [shown(task.gold(r)) for r in records], "given": [shown(given[r["idx"]]) for r in records]}
    return pandas.DataFrame([task.strip_labels(r) for r in records]).set_index("idx").assign(**columns)


def evaluate(
    program: bench.Program, task: Task, source: Path, runner: Runner, limits: Limits, folder: Path, *, batch_size: int
) -> dict[str, Any]:
    """Answer a file of records once, write preds.jsonl (submission format) and score.json, and return the latter."""
    load = workload.in_order(task, task.read(source))
    bench.measure(program, task, load, source, runner, limits, folder, batch_size=batch_size, repeats=1, purpose="eval")
    text, result = derive(folder)
    steps.write_text(folder / PREDICTIONS, text)
    steps.write_json(folder / RESULT, result)
    return result
