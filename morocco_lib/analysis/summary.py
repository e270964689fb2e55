"""The folder of a step -> bench.json, score.json and preds.jsonl: checked, scored, estimated and judged from its files alone.

Nothing is run here, so anyone who has the folder can repeat it at any time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from morocco_lib import fileio
from morocco_lib.analysis import caching, gpu, throughput
from morocco_lib.analysis.intervals import estimate_of, mean_of
from morocco_lib.analysis.memory import cpu_of_stream, method_of, ram_bytes
from morocco_lib.analysis.predictions import Answers, differing, read_answers
from morocco_lib.analysis.run_files import Run, read_run, run_folders
from morocco_lib.analysis.startup import start_s
from morocco_lib.analysis.throughput import Throughput
from morocco_lib.analysis.validity import (
    disturbances,
    drift_reasons,
    ended_well,
    failure_reasons,
    run_reasons,
)
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.reasons import DISTURBANCES, INVALID, VALID, Reason, verdict
from morocco_lib.tasks.base import task_value
from morocco_lib.tasks.checking import submission_text

BENCH, SCORE, PREDICTIONS, PROTOCOL = "bench.json", "score.json", "preds.jsonl", "protocol.json"
REPORTED = ("precision", "backend", "device")  # by the ready line
LEAST_REPEATS = 3  # where their number is not given
STAGES = ("short", "cold", "withheld", "pilot", "smaller", "larger", "cached/unique", "cached/repeated", "ones")
DISTURBERS = 3  # processes that are named
FLIP_SHARE = 0.001  # of repeated predictions; above it the result carries FLIPS


def score(answers: Answers) -> dict[str, Any]:
    """Return the score of the first answers to the records of the file: value, interval, metrics, and the majority's score."""
    task, load, first = answers.task, answers.load, answers.first
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


@dataclass(frozen=True, eq=False)
class _Timed:
    """A timed run, its checked predictions and the reasons against it."""

    run: Run
    answers: Answers
    reasons: list[Reason]

    @property
    def verdict(self) -> str:
        return verdict(self.reasons)


def _timed(folder: Path, smaller: Run | None = None) -> _Timed:
    """Return a timed run; what disturbed the smaller one of its pair counts against it."""
    run = read_run(folder)
    answers = read_answers(run)
    beside = disturbances(smaller) if smaller else []
    return _Timed(run, answers, list(dict.fromkeys([*run_reasons(run, answers.checked.counts), *beside])))


def derive(folder: Path) -> dict[str, Any]:
    """Return what bench.json holds, from the runs and protocol.json alone.

    Raises:
        UsageError: a file of a run is missing or broken.
    """
    folder = Path(folder)
    stages = {stage: [read_run(f) for f in sorted(folder.glob(f"{stage}/runs/[0-9]*"))] for stage in STAGES}
    timed = [
        _timed(f, small) for f, small in zip(run_folders(folder), chain(stages["smaller"], repeat(None)), strict=False)
    ]
    protocol = fileio.read_json(folder / PROTOCOL) if (folder / PROTOCOL).exists() else {}
    first = timed[0]
    facts, workload = first.run.facts, first.run.workload
    used = _used(timed, protocol)
    smaller = [s for t, s in zip(timed, stages["smaller"], strict=False) if t in used]  # they are pairs
    runs = [t.run for t in used]
    larger = [run for run in stages["larger"] if not disturbances(run)]
    speed = throughput.read(runs, smaller, larger)
    estimates, notes = _estimates(runs, speed, stages["short"])
    cached = kept_answers(folder, protocol, speed.first_use_s)
    batch_flips, flips = _between_batches(folder, protocol, first.answers), _flips([t.answers for t in timed])
    if stages["larger"] and not larger:
        notes += disturbances(stages["larger"][-1])
    notes += drift_reasons([per_s for per_s in speed.per_run if per_s])
    further = {
        Reason.CACHED_ANSWERS: cached["fires"],
        Reason.WORK_SKIPPED: cached.get("skips"),
        Reason.TEXTS_REPEAT: first.answers.repeated,
        Reason.CONTRACT_BROKEN: not protocol.get("conformance", {}).get("ok", True),
        Reason.BATCH_FLIPS: batch_flips and batch_flips["value"] > FLIP_SHARE * batch_flips["compared"],
        Reason.FLIPS: flips["value"] > FLIP_SHARE * flips["compared"],
        Reason.SINGLE_RUN: len(used or timed) == 1,
        Reason.QUICK: protocol.get("asked", {}).get("quick", False),
    }
    notes += [reason for reason, holds in further.items() if holds]
    judged = [t for t in timed if t in used or t.verdict == INVALID]
    failed = [reason for runs in stages.values() for run in runs for reason in failure_reasons(run)]
    reasons = list(dict.fromkeys([*(reason for t in judged for reason in t.reasons), *failed, *notes]))
    if DISTURBANCES & set(reasons):  # then times say nothing about the program
        reasons = [reason for reason in reasons if reason is not Reason.TIMES_DISAGREE]
    result = verdict(reasons)
    return {
        "schema": 1,
        "task": facts["task"],
        "model": facts["model"],
        "runner": facts["runner"],
        "proven": _proven([t.run for t in timed]),
        "argv": facts["argv"],
        "image_digest": facts["image_digest"],
        "settings": settings_of(facts),
        "input_size": facts["records_fed"],
        "batch_size": facts["batch_size"],
        "repeats": len(timed),
        **reported(facts),
        "verdict": result,
        "reasons": reasons,
        "disturbed_by": _disturbers(runs) if {Reason.BUSY_MACHINE, Reason.SHARED_MACHINE} & set(reasons) else [],
        "data": workload["source"],
        "input": {name: workload[name] for name in ("size", "distinct", "bytes", "line_bytes_histogram")},
        **estimates,
        **({"paired_per_s": asdict(speed.paired)} if speed.paired else {}),
        "cold_init_s": _cold(stages["cold"], protocol, speed),
        **gpu.summarise_gpu(facts["gpu"], runs),
        "score": score(first.answers) if result != INVALID else {"value": None, "reason": Reason.NO_VALID_RUN},
        "flips": flips,
        **({"batch_flips": batch_flips} if batch_flips else {}),
        "kept_answers": cached,
        "protocol": {name: value for name, value in protocol.items() if name != "schema"},
        "runs": [f"runs/{t.run.folder.name}" for t in timed],
        "per_run": _rows(timed, used, speed),
    }


def _proven(runs: Sequence[Run]) -> dict[str, bool] | None:
    """Return whether memory, isolation and so on are proven for all runs; None for runs of before it was recorded."""
    known = [run.facts.get("proven") for run in runs]
    return {name: all(one.get(name) for one in known) for name in known[0]} if all(known) else None


def settings_of(facts: Mapping[str, Any]) -> dict[str, str | int | float | None] | None:
    """Return what decides the speed of a run beside its program; None for runs of before it was recorded.

    The variables, cores and governor that were recorded, what the run was limited to, the threads that the ready line
    reports, and the power limits, in watts, of the GPUs that the run used.
    """
    if "settings" not in facts:
        return None
    limits = {f"limit_{name}": facts["limits"].get(name) for name in ("cpus", "memory_bytes")}
    devices = facts["gpu"]["devices"] if isinstance(facts["gpu"], Mapping) else []
    limits["power_limit_w"] = "/".join(
        f"{d['power_limit_w']:g}" for d in devices if d["used_by_run"] and d["power_limit_w"]
    )
    threads = _ready_line(facts).get("threads")
    limits["threads"] = threads if isinstance(threads, int) else None
    return facts["settings"] | {name: value for name, value in limits.items() if value}


def _ready_line(facts: Mapping[str, Any]) -> dict[str, Any]:
    return next((event for event in facts["events"] if event.get("event") == "ready"), {})


def reported(facts: Mapping[str, Any]) -> dict[str, str | None]:
    """Return precision, backend and device as a program's ready line reports them; None for what it does not report."""
    values = {name: _ready_line(facts).get(name) for name in REPORTED}
    return {name: value if isinstance(value, str) and len(value) <= 40 else None for name, value in values.items()}


def sound_runs(folder: Path) -> list[Path]:
    """Return the valid runs of a folder."""
    return [timed.run.folder for timed in map(_timed, run_folders(folder)) if timed.verdict == VALID]


def _used(timed: Sequence[_Timed], protocol: Mapping[str, Any]) -> list[_Timed]:
    """Return the runs that estimates rest on: the undisturbed ones if they are as many as requested, else all but invalid ones."""
    requested = protocol.get("asked", {}).get("repeats", len(timed)) or LEAST_REPEATS
    valid = [t for t in timed if t.verdict == VALID]
    return valid if len(valid) >= requested else [t for t in timed if t.verdict != INVALID]


def _disturbers(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the processes that took most CPU time beside the runs: pid, name, share of all cores' time."""
    known = [run.facts["others"] for run in runs if isinstance(run.facts["others"], dict)]
    cores_s = sum(o["cpu_s"] / o["cores"] * o["of_cores"] for o in known if o["cores"])
    used_s: dict[tuple[int, str], float] = {}
    for process in (process for others in known for process in others["top"]):
        key = process["pid"], process["name"]
        used_s[key] = used_s.get(key, 0.0) + process["cpu_s"]
    most = sorted(used_s, key=used_s.get, reverse=True)[:DISTURBERS]
    return [{"pid": pid, "name": name, "share": used_s[pid, name] / cores_s} for pid, name in most] if cores_s else []


def _flips(runs: Sequence[Answers]) -> dict[str, int]:
    # First predictions of a run are held against those of the first run, its later ones against its own first.
    between = [differing(runs[0], answers) for answers in runs[1:]]
    return {
        "value": sum(answers.flips for answers in runs) + sum(count for count, _ in between),
        "compared": sum(answers.repeated for answers in runs) + sum(compared for _, compared in between),
    }


def _rows(timed: Sequence[_Timed], used: Sequence[_Timed], speed: Throughput) -> list[dict[str, Any]]:
    of_used, rows = iter(speed.rows), []
    for t in timed:
        counts = t.answers.checked.counts
        rows.append(
            {
                "run": f"runs/{t.run.folder.name}",
                "verdict": t.verdict,
                "reasons": t.reasons,
                "exit": {name: t.run.facts["exit"][name] for name in ("code", "signal")},
                "problems": dict(counts),
                "examples": [str(problem) for problem in t.answers.checked.problems[:3]],
                **(next(of_used) if t in used else throughput.read([t.run]).rows[0]),
                "score": None if counts else score(t.answers)["value"],
            }
        )
    return rows


def _estimates(
    runs: Sequence[Run], speed: Throughput, short: Sequence[Run] = ()
) -> tuple[dict[str, Any], list[Reason]]:
    """Return (the estimates of bench.json, notes) of valid runs."""
    if not runs:
        null = {"value": None, "reason": Reason.NO_VALID_RUN}
        names = ("speed_per_s", "bytes_per_s", "init_s", "ram_bytes", "ram_cgroup_peak_bytes", "cpu_s_per_record")
        return {name: dict(null) for name in names}, []
    speed_per_s, notes = speed.estimate, list(speed.notes)
    peaks = [run.facts["memory"]["cgroup_peak_bytes"] for run in runs]
    init_s = start_s(runs, speed, short)
    if init_s.get("method") == "median":
        notes.append(Reason.TWO_START_UPS)
    return {
        "speed_per_s": speed_per_s,
        "bytes_per_s": _scaled(speed_per_s, runs[0].facts["bytes_fed"] / runs[0].facts["records_fed"]),
        "init_s": init_s,
        "ram_bytes": mean_of([ram_bytes(run) for run in runs], method_of(runs[0].facts["memory"])),
        "ram_cgroup_peak_bytes": mean_of(
            [Reason.NO_CGROUP if p is None else p for p in peaks], runs[0].facts["memory"]["cgroup_peak_source"]
        ),
        "cpu_s_per_record": estimate_of([cpu_of_stream(run) for run in runs]),
    }, notes


def _scaled(estimate: dict[str, Any], factor: float) -> dict[str, Any]:
    numbers = {name: estimate[name] * factor for name in ("value", "low", "high") if estimate.get(name) is not None}
    return {**estimate, **numbers}


def _between_batches(folder: Path, protocol: dict[str, Any], answers: Answers) -> dict[str, Any] | None:
    if "against" not in protocol:
        return None
    other = read_run(run_folders(folder / protocol["against"])[0])
    baseline = read_answers(other)
    if baseline.task.name != answers.task.name:
        raise UsageError(
            f"{other.folder} is of task {baseline.task.name}", rule=f"a sweep is of one task, here {answers.task.name}"
        )
    count, compared = differing(baseline, answers)
    return {"against_batch_size": other.facts["batch_size"], "value": count, "compared": compared}


def _cold(cold: Sequence[Run], protocol: dict[str, Any], speed: Throughput) -> dict[str, Any]:
    if not cold:
        return {"value": None, "reason": protocol.get("cold") or Reason.NOT_ASKED}
    if not all(map(ended_well, cold)):
        return {"value": None, "reason": Reason.NO_VALID_RUN}
    return start_s(cold, speed, cold)


def kept_answers(folder: Path, protocol: dict[str, Any], first_use_s: float) -> dict[str, Any]:
    """Return what the runs that look for a cache say; see `caching.judge`."""
    unique, repeated = (sorted((folder / "cached" / kind / "runs").glob("[0-9]*")) for kind in ("unique", "repeated"))
    if not isinstance(found := protocol.get("cached"), dict) or not unique:
        return {"value": None, "reason": found or Reason.NOT_ASKED, "fires": None}
    return caching.judge(unique, repeated, first_use_s)


def derive_eval(folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Return (file name -> text of preds.jsonl and of what the leaderboard takes, what score.json holds) from runs/01 alone.

    Raises:
        InvalidResult: the program failed or its predictions are wrong; there is no score then.
        UsageError: a file of the run is missing or broken.
    """
    run = read_run(run_folders(folder)[0])
    answers = read_answers(run)
    if reasons := failure_reasons(run):
        raise InvalidResult(
            f"{run.facts['model']} ended with {run.facts['exit']} ({', '.join(reasons)})",
            rule="a program exits 0 when every record was answered",
            remedy=f"read {run.folder / 'stderr.log'}",
        )
    if not answers.checked.ok:
        raise answers.checked.error()
    task = answers.task
    predictions = [answers.first[place] for place in sorted(answers.first)]
    texts = {PREDICTIONS: "".join(f"{task.format(prediction)}\n" for prediction in predictions)}
    if task.submissions:
        texts[task.submissions[0].file] = submission_text(task, predictions)
    result = {
        "schema": 1,
        "task": task.name,
        "model": run.facts["model"],
        "batch_size": run.facts["batch_size"],
        "data": run.workload["source"],
        "score": score(answers),
    }
    return texts, result
