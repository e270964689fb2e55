"""The folder of a step -> bench.json, score.json and preds.jsonl: checked, scored, estimated, judged, from it alone.

Nothing is run here, so it can be repeated at any time, by anyone who has the folder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from morocco_lib import fileio
from morocco_lib.analysis import caching, estimate, gpu
from morocco_lib.analysis.estimate import Run
from morocco_lib.analysis.predictions import Answers, read_answers, run_folders
from morocco_lib.analysis.validity import (
    answer_reasons,
    cached_reasons,
    clock_reasons,
    drift_reasons,
    exit_reasons,
    gpu_reasons,
    log_reasons,
    machine_reasons,
    sampler_reasons,
    stream_reasons,
    worker_reasons,
)
from morocco_lib.data.workload import Workload
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.reasons import NOTES, Reason, verdict
from morocco_lib.tasks.base import Prediction, Task, task_value

BENCH, SCORE, PREDICTIONS, PROTOCOL = "bench.json", "score.json", "preds.jsonl", "protocol.json"
SAID = ("precision", "backend", "device")
FLIP_SHARE = 0.001  # of repeated answers; above it the result carries FLIPS


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


def derive(folder: Path) -> dict[str, Any]:
    """Return what bench.json holds, from the runs and protocol.json alone.

    Raises:
        UsageError: a file of a run is missing or broken.
    """
    folder = Path(folder)
    runs = [estimate.read_run(f) for f in run_folders(folder)]
    short, cold = (
        [estimate.read_run(f) for f in sorted((folder / n / "runs").glob("[0-9]*"))] for n in ("short", "cold")
    )
    protocol = fileio.read_json(folder / PROTOCOL) if (folder / PROTOCOL).exists() else {}
    facts = runs[0].facts
    answered = [read_answers(run.folder) for run in runs]
    task, load, reference = answered[0]
    flips = Flips(reference)
    found = [_reasons_of(run, answers) for run, (_, _, answers) in zip(runs, answered, strict=True)]
    rows = [
        _row(run, answers, reasons, flips, task, load)
        for run, reasons, (_, _, answers) in zip(runs, found, answered, strict=True)
    ]
    valid = [run for run, reasons in zip(runs, found, strict=True) if not set(reasons) - NOTES]
    # A pair whose longer run is invalid is none.
    shorts = [s for run, s in zip(runs, short, strict=False) if run in valid] if len(short) >= len(runs) else short
    estimates, notes = estimate.summarise(valid, shorts)
    speeds = [estimate.speed([run], shorts[:1])[0]["value"] for run in valid]
    if None not in speeds:
        notes += drift_reasons(speeds)
    kept = _kept(folder, protocol, estimates)
    notes += cached_reasons(kept)
    if not protocol.get("conformance", {}).get("ok", True):
        notes.append(Reason.CONTRACT_BROKEN)
    between = _between_batches(folder, protocol, task, reference)
    if between and between["value"] > FLIP_SHARE * between["compared"]:
        notes.append(Reason.BATCH_FLIPS)
    if flips.compared and flips.count / flips.compared > FLIP_SHARE:
        notes.append(Reason.FLIPS)
    if len(runs) == 1:
        notes.append(Reason.SINGLE_RUN)
    codes = list(dict.fromkeys([*(reason for reasons in found for reason in reasons), *notes]))
    result = verdict(codes)
    description = fileio.read_json(runs[0].folder / "workload.json")
    return {
        "schema": 1,
        "task": facts["task"],
        "model": facts["model"],
        "runner": facts["runner"],
        "image_digest": facts["image_digest"],
        "input_size": facts["records_fed"],
        "batch_size": facts["batch_size"],
        "repeats": len(runs),
        **said(facts),
        "verdict": result,
        "reasons": codes,
        "data": description["source"],
        "input": {name: description[name] for name in ("size", "distinct", "bytes", "line_bytes_histogram")},
        **estimates,
        "cold_init_s": _cold(cold, protocol, estimates["speed_per_s"]),
        **gpu.summarise_gpu(facts["gpu"], valid),
        "score": score(task, load, reference.first)
        if result == "VALID"
        else {"value": None, "reason": Reason.NO_VALID_RUN},
        "flips": {"value": flips.count, "compared": flips.compared},
        **({"batch_flips": between} if between else {}),
        "kept_answers": kept,
        "protocol": {name: value for name, value in protocol.items() if name != "schema"},
        "runs": [row["run"] for row in rows],
        "per_run": rows,
    }


def said(facts: Mapping[str, Any]) -> dict[str, str | None]:
    """Return how a program says that it computes, in its ready line: precision, backend, device; None for what it does not say."""
    ready = next((event for event in facts["events"] if event.get("event") == "ready"), {})
    told = {name: ready.get(name) for name in SAID}
    return {name: value if isinstance(value, str) and len(value) <= 40 else None for name, value in told.items()}


def sound_runs(folder: Path) -> list[Path]:
    """Return the runs of a folder that ended well and whose answers are right."""
    runs = [(estimate.read_run(path), read_answers(path)[2]) for path in run_folders(folder)]
    return [run.folder for run, answers in runs if verdict(_reasons_of(run, answers)) == "VALID"]


class Flips:
    """Answers to one record that differ: a run's first ones from the first run's, its later ones from its own first."""

    def __init__(self, reference: Answers):
        self.reference, self.count, self.compared = reference, 0, 0

    def add(self, answers: Answers) -> None:
        self.count += answers.flips
        self.compared += answers.repeated
        if answers is not self.reference:
            count, compared = differing(self.reference.first, answers.first)
            self.count += count
            self.compared += compared


def differing(one: dict[int, Prediction], other: dict[int, Prediction]) -> tuple[int, int]:
    """Return (how many records answered twice got another answer, how many were answered twice)."""
    both = one.keys() & other.keys()
    return sum(one[place] != other[place] for place in both), len(both)


def _reasons_of(run: Run, answers: Answers) -> list[Reason]:
    facts = run.facts
    found = exit_reasons(facts["exit"]) + stream_reasons(facts) + log_reasons(run.truncated)
    found += worker_reasons(facts) + sampler_reasons(facts["sampler"])
    found += machine_reasons(facts["others"]) + clock_reasons(facts["clock"]) + gpu_reasons(facts["gpu"])
    return found + answer_reasons(answers.checked.counts)


def _row(
    run: Run, answers: Answers, reasons: Sequence[Reason], flips: Flips, task: Task, load: Workload
) -> dict[str, Any]:
    flips.add(answers)
    counts = answers.checked.counts
    scored = {"value": None, "reason": Reason.NO_VALID_RUN} if counts else score(task, load, answers.first)
    segment = estimate.stream_segment(run)
    return {
        "run": f"runs/{run.folder.name}",
        "verdict": verdict(reasons),
        "reasons": list(reasons),
        "exit": {name: run.facts["exit"][name] for name in ("code", "signal")},
        "problems": dict(counts),
        "examples": [str(problem) for problem in answers.checked.problems[:3]],
        "speed_per_s": estimate.speed([run])[0]["value"],
        "warm_up_s": None if isinstance(segment, Reason) else segment.warm_up_s,
        "score": scored["value"],
    }


def _between_batches(folder: Path, protocol: dict[str, Any], task: Task, reference: Answers) -> dict[str, Any] | None:
    if "against" not in protocol:
        return None
    other = run_folders(folder / protocol["against"])[0]
    against, _, answers = read_answers(other)
    if against.name != task.name:
        raise UsageError(f"{other} is of task {against.name}", rule=f"a sweep is of one task, here {task.name}")
    count, compared = differing(answers.first, reference.first)
    batch_size = fileio.read_json(other / "run.json")["batch_size"]
    return {"against_batch_size": batch_size, "value": count, "compared": compared}


def _cold(cold: Sequence[Run], protocol: dict[str, Any], speed_per_s: dict[str, Any]) -> dict[str, Any]:
    if not cold:
        return {"value": None, "reason": protocol.get("cold") or Reason.NOT_ASKED}
    if any(verdict(exit_reasons(run.facts["exit"])) != "VALID" for run in cold):
        return {"value": None, "reason": Reason.NO_VALID_RUN}
    return estimate.start_s(cold, speed_per_s)


def _kept(folder: Path, protocol: dict[str, Any], estimates: dict[str, Any]) -> dict[str, Any]:
    unique, repeated = (sorted((folder / "cached" / kind / "runs").glob("[0-9]*")) for kind in ("unique", "repeated"))
    if "cached" not in protocol or not unique:
        return {"value": None, "reason": Reason.NOT_ASKED, "fires": None}
    whole = (
        estimates["speed_per_s"].get("method") == "paired"
    )  # then neither a stream nor a readiness is to be believed
    return caching.judge(unique, repeated, estimates["init_s"]["value"], whole)


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
    description = fileio.read_json(run_folder / "workload.json")
    result = {
        "schema": 1,
        "task": task.name,
        "model": run.facts["model"],
        "batch_size": run.facts["batch_size"],
        "data": description["source"],
        "score": score(task, load, answers.first),
    }
    return "".join(f"{line}\n" for line in lines), result
