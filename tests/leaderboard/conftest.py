"""Submissions written from run folders, honest ones and others."""

import json
import random
import shutil
import subprocess
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import run_folders

from morocco_lib import data, fileio
from morocco_lib.analysis import summary
from morocco_lib.artifacts import steps
from morocco_lib.leaderboard import board, checks, submission

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


def bench_step(folder: Path, val: Path, model="m", rate=500.0, seed=1, runs=3, protocol=KEPT, **facts) -> Path:
    """Write a finished bench step that verifies."""
    generator = random.Random(f"{model}/{seed}")
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
    fileio.write_json(folder / summary.PROTOCOL, {"schema": 1, **protocol})
    fileio.write_json(folder / summary.BENCH, summary.derive(folder))
    step.finish(steps.DONE, 0)
    ended = datetime.fromisoformat(step.status["ended"])
    reseal(folder, started=(ended - timedelta(seconds=60)).isoformat(timespec="milliseconds").replace("+00:00", "Z"))
    return folder


@pytest.fixture(scope="session")
def val(tmp_path_factory):
    """The organiser's file of TERRa records."""
    return write_val(tmp_path_factory.mktemp("records") / "TERRa")


@pytest.fixture(scope="session")
def submit(val, tmp_path_factory):
    """Pack a submission of one bench of TERRa; returns the archive."""

    def make(model="m", key=None, name="s", **options) -> Path:
        place = tmp_path_factory.mktemp("submit")
        theirs = shutil.copy(val, place / "val.jsonl")
        bench_step(place / "out" / model / "terra/bench-1", theirs, model, **options)
        submission.pack(place / "out", place / f"{name}.zip", key=key)
        theirs.unlink()  # the organiser has another copy
        return place / f"{name}.zip"

    return make


@pytest.fixture(scope="session")
def honest(submit):
    return submit()


@pytest.fixture
def repacked(tmp_path):
    """Change a submission as an attacker would, and return it.

    What is made anew: `seal` all: every number and digest; digests: of step and archive; sums: of the archive; False: nothing.
    """

    def make(archive: Path, edit, *, seal="all", name="changed") -> Path:
        folder = tmp_path / name
        with zipfile.ZipFile(archive) as box:
            box.extractall(folder)
        (step,) = (path.parent for path in folder.glob("steps/**/status.json"))
        edit(step)
        if seal == "all":
            fileio.write_json(step / summary.BENCH, summary.derive(step))
        if seal in ("all", "digests"):
            reseal(step)
            points = {"schema": 1, "points": submission.points_of(folder / "steps")}
            fileio.write_json(folder / submission.POINTS, points)
        if seal:
            digests = submission.digests_of(folder).items()
            (folder / submission.SUMS).write_text("".join(f"{digest}  {path}\n" for path, digest in digests))
        submission._zip(folder, tmp_path / f"{name}.zip")
        shutil.rmtree(folder)
        return tmp_path / f"{name}.zip"

    return make


@pytest.fixture
def terms(val):
    """The terms of a board of TERRa alone, whose organiser has the records."""
    return checks.Terms(("terra",), {}, {"terra": val})


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """Two keys of ssh, and a file that allows the first for alice@example.org."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("alice", "mallory"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name], check=True)
    (folder / "allowed").write_text(f"alice@example.org {(folder / 'alice.pub').read_text()}")
    return folder


@pytest.fixture
def ranked(tmp_path, val):
    """Rank submissions on a board of TERRa; returns (entries by model, the ranking)."""

    def make(*archives, data_dir=val.parents[1], signers=None, out="board"):
        folder = tmp_path / out
        judged = board.add(archives, folder, board.terms(folder, ["terra"], data_dir, "val", signers))
        return {entry.model: entry for entry in judged}, board.write(folder)

    return make
