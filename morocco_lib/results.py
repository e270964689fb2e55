"""runs/NN/ -> bench.json, score.json and preds.jsonl: checked, scored, estimated, judged, from the folder alone.

Nothing is run here, so it can be repeated at any time, by anyone who has the folder.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morocco_lib import estimate, steps, workload
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import Checked, Prediction, Task, task_value
from morocco_lib.validity import (
    NOTES,
    Reason,
    answer_reasons,
    clock_reasons,
    exit_reasons,
    gpu_reasons,
    stream_reasons,
    verdict,
)
from morocco_lib.workload import Workload

BENCH, SCORE, PREDICTIONS = "bench.json", "score.json", "preds.jsonl"
FLIP_SHARE = 0.001  # of repeated answers; above it the result carries FLIPS


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


def score(task: Task, load: Workload, first: dict[int, Prediction]) -> dict[str, Any]:
    """Return the score of the first answers to the distinct records: value, interval, metrics, and the majority beside it."""
    if not first or load.gold is None:
        return {"value": None, "reason": Reason.NO_GOLD}
    places, predictions = zip(*sorted(first.items()), strict=True)
    gold = [load.gold[place] for place in places]
    metrics = task.score(gold, predictions)
    interval = task.interval(gold, predictions)
    frequent = task.majority(gold)
    constant = [task.constant(frequent, load.records[place]) for place in places]
    return {
        "value": task_value(task, metrics),
        "low": interval.low,
        "high": interval.high,
        "interval": interval.method,
        "metrics": metrics,
        "n": len(places),
        "majority": {**frequent, "value": task_value(task, task.score(gold, constant))},
    }


def run_folders(folder: Path) -> list[Path]:
    """Return the finished runs of a step folder, in order; raises UsageError if there is none."""
    folders = sorted(path.parent for path in (folder / "runs").glob("[0-9]*/run.json"))
    if not folders:
        raise UsageError(f"no finished run in {folder}", remedy="bench again")
    return folders


def derive(folder: Path) -> dict[str, Any]:
    """Return what bench.json holds, from runs/NN alone.

    Raises:
        UsageError: a file of a run is missing or broken.
    """
    folder = Path(folder)
    folders = run_folders(folder)
    runs = [estimate.read_run(f) for f in folders]
    facts = runs[0].facts
    answered = [read_answers(f) for f in folders]
    task, load, reference = answered[0]
    reasons: Counter[Reason] = Counter()
    valid, rows, flips, repeated = [], [], 0, 0
    for run, (_, _, answers) in zip(runs, answered, strict=True):
        found = exit_reasons(run.facts["exit"]) + stream_reasons(run.facts) + clock_reasons(run.facts["clock"])
        found += gpu_reasons(run.facts["gpu"]) + answer_reasons(answers.checked.counts)
        reasons.update(found)
        scored = (
            score(task, load, answers.first)
            if not answers.checked.counts
            else {"value": None, "reason": Reason.NO_VALID_RUN}
        )
        # A run's first answers are held against the first run's, its later ones against its own first.
        between = [
            (place, p) for place, p in answers.first.items() if answers is not reference and place in reference.first
        ]
        flips += answers.flips + sum(reference.first[place] != p for place, p in between)
        repeated += answers.repeated + len(between)
        if not set(found) - NOTES:
            valid.append(run)
        rows.append(
            {
                "run": f"runs/{run.folder.name}",
                "verdict": verdict(found),
                "reasons": found,
                "exit": {name: run.facts["exit"][name] for name in ("code", "signal")},
                "problems": dict(answers.checked.counts),
                "examples": [str(problem) for problem in answers.checked.problems[:3]],
                "score": scored["value"],
            }
        )
    estimates, notes = estimate.summarise(valid)
    if repeated and flips / repeated > FLIP_SHARE:
        notes.append(Reason.FLIPS)
    if len(runs) == 1:
        notes.append(Reason.SINGLE_RUN)
    codes = [*reasons, *notes]
    result = verdict(codes)
    return {
        "schema": 1,
        "task": facts["task"],
        "model": facts["model"],
        "runner": facts["runner"],
        "image_digest": facts["image_digest"],
        "input_size": facts["records_fed"],
        "batch_size": facts["batch_size"],
        "repeats": len(runs),
        "verdict": result,
        "reasons": codes,
        "data": json.loads((folders[0] / "workload.json").read_text(encoding="utf-8"))["source"],
        **estimates,
        **estimate.summarise_gpu(facts["gpu"], valid),
        "score": score(task, load, reference.first)
        if result == "VALID"
        else {"value": None, "reason": Reason.NO_VALID_RUN},
        "flips": {"value": flips, "compared": repeated},
        "runs": [row["run"] for row in rows],
        "per_run": rows,
    }


def derive_eval(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return (text of preds.jsonl, what score.json holds) from runs/01 alone.

    Raises:
        InvalidResult: the program failed or its answers are wrong; there is no score then.
        UsageError: a file of the run is missing or broken.
    """
    run_folder = run_folders(folder)[0]
    run = estimate.read_run(run_folder)
    task, load, answers = read_answers(run_folder)
    found = exit_reasons(run.facts["exit"]) + stream_reasons(run.facts)
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
        "score": score(task, load, answers.first),
    }
    return "".join(f"{line}\n" for line in lines), result
