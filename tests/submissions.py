"""Submissions written from run folders, as `morocco bench` and `morocco pack` would leave them."""

import json
import random
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import run_folders

from morocco_lib import data, fileio
from morocco_lib.analysis import summary
from morocco_lib.artifacts import steps
from morocco_lib.leaderboard import submission

SAMPLES = [run_folders.sample(1000, t_ns=t_ns) for t_ns in (0, 10**9)]
KEPT = {"conformance": {"ok": True, "failed": [], "warned": [], "when": "now"}}


def arrivals(rate: float, generator: random.Random) -> list[tuple[float, int]]:
    """The arrivals of a run of 40 records, each with noise of its own."""
    steady = run_folders.steady(40, 4, rate)
    return [(t_s + abs(generator.gauss(0, 2e-5)), lines) for t_s, lines in steady]


def write_val(folder: Path) -> Path:
    """Write the records of `run_folders` as the file of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "val.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in run_folders.RECORDS))
    return path


def reseal(folder: Path, **changed) -> None:
    """Write a step's status as if its files had always been as they are."""
    status = steps.read_status(folder) | changed
    fileio.write_json(folder / steps.STATUS, steps.seal(status | {"outputs": steps.digest_outputs(folder)}))


def bench_step(
    folder: Path,
    val: Path,
    model="m",
    rate=500.0,
    seed=1,
    runs=3,
    protocol=KEPT,
    like=None,
    also=lambda step: None,
    **facts,
) -> Path:
    """Write a finished bench step that verifies."""
    generator = random.Random(f"{like or model}/{seed}")
    parameters = {"batch_size": 8, "command": model}
    step = steps.Step.begin(folder, "bench", model=model, task="terra", parameters=parameters, inputs={"data": val})
    for _ in range(runs):
        run = run_folders.write_run(
            folder, arrivals(rate * generator.gauss(1, 0.003), generator), samples=SAMPLES, model=model, **facts
        )
        load = json.loads((run / "workload.json").read_text())
        load["source"] = data.describe(val, run_folders.TERRA, run_folders.RECORDS) | {"path": "val.jsonl"}
        (run / "workload.json").write_text(json.dumps(load))
        run_facts = json.loads((run / "run.json").read_text()) | {"bytes_fed": load["bytes"]}
        (run / "run.json").write_text(json.dumps(run_facts))
    also(folder)
    fileio.write_json(folder / summary.PROTOCOL, {"schema": 1, **protocol})
    fileio.write_json(folder / summary.BENCH, summary.derive(folder))
    step.finish(steps.DONE, 0)
    ended = datetime.fromisoformat(step.status["ended"])
    reseal(folder, started=(ended - timedelta(seconds=60)).isoformat(timespec="milliseconds").replace("+00:00", "Z"))
    return folder


def submit(place: Path, val: Path, model="m", key=None, **options) -> Path:
    """Pack a submission of one bench of TERRa in a folder; returns the archive."""
    theirs = shutil.copy(val, place / "val.jsonl")
    bench_step(place / "out" / model / "terra/bench-1", theirs, model, **options)
    submission.pack(place / "out", place / "s.zip", key=key)
    theirs.unlink()  # the organiser has another copy
    return place / "s.zip"
