"""Plans that are killed at random moments lose nothing, repeat nothing that was done, and leave nothing that looks done.

Each round starts or resumes one plan, waits a random time and sends SIGKILL, SIGTERM or Ctrl-C to it, or SIGKILL to the
notebook's kernel alone. After each: no process of it lives on, every notebook and status can be read and says what is
true, and no finished step is ever repeated, changed or lost. A plan that gets done is verified, and a new one begun.

Fifty rounds: MOROCCO_KILLS=50 python -m pytest -s tests/deep/pipeline/test_kills.py
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
from helpers import ROOT, environment, kernels_of, marked, start_plan, wait_until, write_plan

from morocco_lib.artifacts import steps
from morocco_lib.pipeline.step_kinds import verify

ROUNDS = int(os.environ.get("MOROCCO_KILLS", 6))
KERNEL = "kernel"
WAYS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, KERNEL)
LONGEST_S = 9.0  # a whole plan takes about as long


def inspect(plan_dir: Path, finished: dict[str, str]) -> None:
    """Hold every step folder to what must be true after a kill; `finished` grows: folder -> its status, verbatim."""
    now = {}
    for path in plan_dir.rglob(steps.STATUS):
        folder, status = path.parent, steps.read_status(path.parent)
        assert steps.seal(dict(status))["seal"] == status["seal"], f"{path} is not sealed"
        assert status["state"] != steps.RUNNING or not steps.is_alive(status), (
            f"{path} says running, and nobody is left"
        )
        if status["state"] == steps.DONE:
            now[str(folder)] = path.read_text()
            assert steps.digest_outputs(folder) == status["outputs"], f"{folder} is done, and its files are others"
        if (folder / "notebook.ipynb").exists():
            nbformat.read(folder / "notebook.ipynb", as_version=4)
    for folder, text in finished.items():
        report = Path(folder).name.startswith("report-")  # replaced when a step it shows is made anew
        assert report or now.get(folder) == text, (
            f"{folder} was finished, and is {'changed' if folder in now else 'lost'}"
        )
    finished |= now


def one_round(plan: Path, plan_dir: Path, way, after_s: float, mark: str) -> int | None:
    """Run the plan and kill it; return its exit code, or None where it got done first."""
    run = start_plan(plan, plan_dir, mark)
    done = wait_until(lambda: run.poll() is not None, after_s)
    if not done and way == KERNEL:  # between two notebooks there is none: the next one then
        done = not wait_until(lambda: run.poll() is not None or kernels_of(mark), 10) or not kernels_of(mark)
        for pid in kernels_of(mark):
            os.kill(pid, signal.SIGKILL)
    elif not done:
        run.send_signal(way)
    _, messages = run.communicate(timeout=200)
    assert "Traceback" not in messages, (way, messages)
    assert wait_until(lambda: not marked(mark), 5), (way, marked(mark))
    assert done or run.returncode or way != KERNEL, f"a dead kernel gave exit code 0:\n{messages}"
    return run.returncode or None


def test_killed_at_random_moments_a_plan_loses_and_repeats_nothing(tmp_path):
    rng, hits, number = random.Random(11), 0, 0
    plan = write_plan(tmp_path, models=["majority", "tfidf"], input_size=20000, quick=False)
    plan_dir, finished = tmp_path / "out-0", {}
    while hits < ROUNDS:
        number += 1
        way = rng.choice(WAYS)
        code = one_round(plan, plan_dir, way, rng.uniform(0.05, LONGEST_S), f"{os.getpid()}-{number}")
        inspect(plan_dir, finished)
        print(f"round {number}: {way!s}: exit {code}, {len(finished)} steps finished", flush=True)
        if code is not None:
            hits += 1
        else:
            assert not [f for f in verify(plan_dir) if not f.ok]
            plan_dir, finished = tmp_path / f"out-{number}", {}
    argv = [sys.executable, "-m", "morocco_lib", "run", str(plan), "--out", str(plan_dir)]
    last = subprocess.run(argv, cwd=ROOT, env=environment({"MOROCCO_DATA": ""}), capture_output=True, text=True)
    inspect(plan_dir, finished)
    assert last.returncode == 0, last.stderr
    assert not [f for f in verify(plan_dir) if not f.ok]
