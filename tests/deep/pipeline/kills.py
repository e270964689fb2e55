"""Kills `morocco run` at random moments and resumes it: python tests/deep/pipeline/kills.py --rounds 50 --seed 1

Each round starts or resumes one plan, waits a random time and sends SIGKILL, SIGTERM or Ctrl-C to it, or SIGKILL to the
notebook's kernel alone. After each: no process of it lives on, every notebook and status can be read and says what is
true, and no finished step is ever repeated, changed or lost. A plan that gets done is verified, and a new one begun.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script too

from helpers import ROOT, kernels_of, marked, start_plan, wait_until

from morocco_lib.artifacts import steps
from morocco_lib.pipeline.step_kinds import verify

KERNEL = "kernel"
WAYS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, KERNEL)
PLAN = {"name": "kills", "models": ["majority", "tfidf"], "tasks": ["terra"], "input_size": 20000, "repeats": 1}
LONGEST_S = 9.0  # a whole plan takes about as long


class Broken(AssertionError):
    """Something that must hold after a kill does not."""


def inspect(plan_dir: Path, finished: dict[str, str]) -> None:
    """Hold every step folder to what must be true after a kill; `finished` grows: folder -> its status, verbatim."""
    now = {}
    for path in plan_dir.rglob(steps.STATUS):
        folder = path.parent
        status = steps.read_status(folder)
        if steps.seal(dict(status))["seal"] != status["seal"]:
            raise Broken(f"{path} is not sealed")
        if status["state"] == steps.RUNNING and steps.is_alive(status):
            raise Broken(f"{path} says running, and nobody is to be left")
        if status["state"] == steps.DONE:
            now[str(folder)] = path.read_text()
            if steps.digest_outputs(folder) != status["outputs"]:
                raise Broken(f"{folder} is done, and its files are not those it had")
        notebook = folder / "notebook.ipynb"
        if notebook.exists():
            nbformat.read(notebook, as_version=4)
    for folder, text in finished.items():
        report = Path(folder).name.startswith("report-")  # replaced when a step it shows is made anew
        if now.get(folder) != text and not report:
            raise Broken(f"{folder} was finished, and is {'changed' if folder in now else 'lost'}")
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
    try:
        _, talk = run.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        run.kill()
        raise Broken(f"{way} did not end it within a minute") from None
    if "Traceback" in talk:
        raise Broken(f"{way} showed a traceback:\n{talk}")
    if not wait_until(lambda: not marked(mark), 5):
        raise Broken(f"{way} left {marked(mark)}")
    if not done and run.returncode == 0 and way == KERNEL:
        raise Broken(f"a dead kernel gave exit code 0:\n{talk}")
    return None if run.returncode == 0 else run.returncode


def kill_often(rounds: int, seed: int, folder: Path) -> Counter:
    """Kill plans in `folder` so many times; return how often each way hit, and how many plans got done.

    Raises:
        Broken: something that must hold did not; the folder is left as it is.
    """
    rng, hits, number = random.Random(seed), Counter(), 0
    plan = folder / "kills.yaml"
    plan.write_text(json.dumps(PLAN))
    (folder / "kills").mkdir()
    plan_dir, finished = folder / "out-0", {}
    while sum(hits[str(way)] for way in WAYS) < rounds:
        number += 1
        way = rng.choice(WAYS)
        code = one_round(plan, plan_dir, way, rng.uniform(0.05, LONGEST_S), f"{os.getpid()}-{number}")
        inspect(plan_dir, finished)
        if code is not None:
            hits[str(way)] += 1
        else:
            hits["done"] += 1
            if wrong := [f for f in verify(plan_dir) if not f.ok]:
                raise Broken(f"a plan that was killed and resumed does not verify: {wrong}")
            plan_dir, finished = folder / f"out-{number}", {}
        print(f"round {number}: {way!s}: exit {code}, {len(finished)} steps finished", file=sys.stderr, flush=True)
    last = subprocess.run(
        [sys.executable, "-m", "morocco_lib", "run", str(plan), "--out", str(plan_dir)], cwd=ROOT, capture_output=True
    )
    inspect(plan_dir, finished)
    if last.returncode or [f for f in verify(plan_dir) if not f.ok]:
        raise Broken(f"resumed to the end: exit {last.returncode}\n{last.stderr.decode()}")
    return hits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(dict(kill_often(args.rounds, args.seed, Path(scratch))))
