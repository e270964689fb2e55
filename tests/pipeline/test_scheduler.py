"""The scheduler: one run at a time, of each model in turn, whatever the others do or die of; and plans that use it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import engine
import pytest
from helpers import QUIET, ROOT, copy_project, kernels_of, marked, start_plan, wait_until, write_plan

from morocco_lib.artifacts import steps
from morocco_lib.errors import EnvironmentFailure
from morocco_lib.pipeline import scheduler

# Carries out the actions of its argument and prints each with two readings of the machine's monotonic clock.
MEMBER = """
import json, os, sys, time
from morocco_lib.pipeline.scheduler import VARIABLE, Client

def done(action, begin):
    print(json.dumps([action, begin, time.monotonic_ns()]), flush=True)

with Client.of_this_process() as client:
    assert VARIABLE not in os.environ
    for action, seconds in json.loads(sys.argv[1]):
        begin = time.monotonic_ns()
        if action == "work":
            time.sleep(seconds)
        elif action == "turn":
            with client.turn():
                begin = time.monotonic_ns()
                time.sleep(seconds)
        elif action == "two":
            with client.turn():
                begin = time.monotonic_ns()
                for _ in range(2):
                    with client.turn():
                        time.sleep(seconds)
        elif action == "barrier":
            client.barrier()
        done(action, begin)
    begin, spent = time.monotonic_ns(), time.process_time()
done("left", begin)
done(f"CPU {time.process_time() - spent:.4f}", begin)
"""
RUN_S = 0.03


def start(slot: scheduler.WorkerSlot, *actions: tuple[str, float]) -> subprocess.Popen:
    argv = [sys.executable, "-c", MEMBER, json.dumps(actions)]
    number = slot.theirs.fileno()
    own = {"env": {**os.environ, "PYTHONPATH": str(ROOT), scheduler.VARIABLE: str(number)}, "pass_fds": (number,)}
    member = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **own)
    slot.started()
    return member


def together(*actions: list[tuple[str, float]]) -> list[list]:
    """Run a process for each list of actions; returns [process, action, begin, end] of all in the order of their ends."""
    with scheduler.Scheduler(len(actions)) as given:
        members = [start(slot, *theirs) for slot, theirs in zip(given.slots, actions, strict=True)]
        printed = [member.communicate(timeout=30) for member in members]
        assert given.over.wait(10)
    assert [(m.returncode, err) for m, (_, err) in zip(members, printed, strict=True)] == [(0, "")] * len(actions)
    lines = [[number, *json.loads(line)] for number, (out, _) in enumerate(printed) for line in out.splitlines()]
    return sorted(lines, key=lambda line: line[3])


def turns_of(lines: list[list]) -> list[list]:
    """Return the runs among what was done, after seeing that no two of them overlap."""
    runs = [line for line in lines if line[1] in ("turn", "two")]
    assert all(earlier[3] <= later[2] for earlier, later in pairwise(runs))
    return runs


# -- the order of turns --------------------------------------------------------------------------------------------
def test_runs_are_taken_in_turn_and_never_overlap():
    lines = together(*[[("turn", RUN_S)] * 4] * 3)
    assert [line[0] for line in turns_of(lines)] == [0, 1, 2] * 4


def test_a_short_run_does_not_overtake_one_that_is_still_being_saved():
    lines = together([("turn", RUN_S), ("work", 0.2)] * 3, [("turn", 0.0)] * 3)
    assert [line[0] for line in turns_of(lines)] == [0, 1] * 3
    work, runs = [line for line in lines if line[1] == "work"], turns_of(lines)
    assert not [(w, r) for w in work for r in runs if r[0] != w[0] and r[2] < w[3] and w[2] < r[3]]


def test_nothing_is_measured_before_all_have_requested_a_turn():
    lines = together([("turn", RUN_S)] * 2, [("work", 0.5), ("turn", RUN_S)])
    (work,) = [line for line in lines if line[1] == "work"]
    assert work[3] - work[2] > 0.4e9 and min(line[2] for line in turns_of(lines)) >= work[3]


def test_none_leaves_before_the_last_run():
    lines = together([("turn", RUN_S)], [("turn", RUN_S)] * 5)
    assert [line[0] for line in turns_of(lines)] == [0, 1, 1, 1, 1, 1]
    left = [line[3] for line in lines if line[1] == "left"]
    assert len(left) == 2 and min(left) >= turns_of(lines)[-1][3]


def test_what_follows_a_barrier_is_interleaved():
    lines = together(
        [("turn", RUN_S), ("barrier", 0), *[("two", RUN_S)] * 3],
        [*[("turn", RUN_S)] * 4, ("barrier", 0), *[("two", RUN_S)] * 3],
    )
    runs = turns_of(lines)
    assert [line[1] for line in runs] == ["turn"] * 5 + ["two"] * 6
    assert sorted(tuple(line[0] for line in runs[at : at + 2]) for at in (5, 7, 9)) in ([(0, 1)] * 3, [(1, 0)] * 3)
    assert together([("barrier", 0)], [("turn", RUN_S)])  # one that has left is not waited for


def test_waiting_costs_no_cpu():
    begin, lines = time.process_time(), together([("turn", RUN_S)], [("turn", RUN_S), ("turn", 2.0)])
    (spent,) = [float(line[1].split()[1]) for line in lines if line[0] == 0 and line[1].startswith("CPU")]
    assert spent < 0.01 and time.process_time() - begin < 1


# -- processes that never ask, or die --------------------------------------------------------------------------------
def test_one_that_is_killed_does_not_block_the_others():
    with scheduler.Scheduler(3) as given:
        dying = start(given.slots[0], ("turn", 60))
        others = [start(slot, *[("turn", RUN_S)] * 3) for slot in given.slots[1:]]
        time.sleep(0.5)
        assert [other.poll() for other in others] == [None, None]
        dying.kill()
        killed = time.monotonic()
        out = [other.communicate(timeout=10)[0] for other in others]
        assert time.monotonic() - killed < 10 and [text.count('"turn"') for text in out] == [3, 3]
        assert given.over.wait(10)
        dying.communicate()


def test_a_slot_that_is_given_up_is_not_waited_for():
    with scheduler.Scheduler(3) as given:
        given.slots[1].leave()  # nobody was started for it
        stuck = start(given.slots[2], ("work", 60))
        other = start(given.slots[0], ("turn", RUN_S))
        time.sleep(0.3)
        assert other.poll() is None and not given.over.is_set()
        given.slots[2].leave()
        other.communicate(timeout=10)
        assert other.returncode == 0 and given.over.wait(10)
        stuck.kill()
        stuck.communicate()


def test_none_measures_when_the_scheduler_is_gone():
    with scheduler.Scheduler(2) as given:
        waiting, working = start(given.slots[0], ("turn", RUN_S)), start(given.slots[1], ("work", 60))
        time.sleep(0.3)
    message = waiting.communicate(timeout=10)[1]
    assert waiting.returncode == 1 and "run the plan again" in message and EnvironmentFailure.__name__ in message
    working.kill()
    working.communicate()


def test_without_a_scheduler_nothing_is_waited_for(monkeypatch):
    monkeypatch.delenv(scheduler.VARIABLE, raising=False)
    done = []
    began = time.monotonic()
    with scheduler.Client.of_this_process() as client:
        client.barrier()  # nobody to wait for
        with client.turn(), client.turn():
            done.append("a turn in a turn")
        with client.turn():
            done.append("the next")
    assert done == ["a turn in a turn", "the next"] and time.monotonic() - began < 5


# -- plans ---------------------------------------------------------------------------------------------------------
MODELS = ("majority", "tfidf")


def bench_of(folder: Path, model: str) -> Path:
    (found,) = folder.glob(f"{model}/terra/bench-????????")
    return found


def runs_of(folder: Path) -> list[tuple[float, float, str]]:
    """Return (begin, end, model) of the runs of all models, in the order of their ends, in seconds."""
    found = []
    for model in MODELS:
        for path in bench_of(folder, model).glob("runs/[0-9]*/run.json"):
            end = (path.parent / "chunks.jsonl").stat().st_mtime  # the last that is written while a program runs
            found.append((end - json.loads(path.read_text())["phases"]["exit_s"], end, model))
    return sorted(found, key=lambda run: run[1])


def measuring(bench: Path) -> tuple[float, float]:
    """Return when the cell that measures began and ended, by papermill's account."""
    cells = json.loads((bench / "notebook.ipynb").read_text())["cells"]
    (cell,) = [cell for cell in cells if "session.scheduled" in "".join(cell["source"])]
    times = cell["metadata"]["papermill"]
    return tuple(datetime.fromisoformat(times[name]).timestamp() for name in ("start_time", "end_time"))


def test_the_models_of_a_plan_are_measured_in_turn_one_run_at_a_time(quick_plan):
    runs = runs_of(quick_plan.folder)
    assert [model for _, _, model in runs] in ([*MODELS] * 2, [*reversed(MODELS)] * 2)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(runs)), runs
    cells = [measuring(bench_of(quick_plan.folder, model)) for model in MODELS]
    assert max(begin for begin, _ in cells) <= runs[0][0] and runs[-1][1] <= min(end for _, end in cells)


def kernel_of(bench: Path, mark: str) -> int | None:
    """Return the pid of the kernel that writes its log into a step folder."""
    for pid in kernels_of(mark):
        with suppress(OSError):
            if Path(os.readlink(f"/proc/{pid}/fd/2")) == bench / "kernel.log":
                return pid
    return None


@pytest.mark.slow
def test_a_killed_kernel_costs_its_own_step_alone(main, tmp_path):
    victim, survivor = MODELS
    plan = write_plan(tmp_path, models=[*MODELS], steps=["bench", "eval"], input_size=20_000, repeats=3)
    out, mark = tmp_path / "out", f"scheduler-{os.getpid()}-victim"
    run = start_plan(plan, out, mark)
    assert wait_until(lambda: run.poll() is not None or list(out.glob(f"{victim}/terra/bench-*/runs/01/run.json")), 200)
    os.kill(kernel_of(bench_of(out, victim), mark), signal.SIGKILL)
    messages = run.communicate(timeout=200)[1]
    assert run.returncode == 3 and f"bench {victim} terra: failed" in messages and "the kernel died" in messages, (
        messages
    )
    assert "Traceback" not in messages and not marked(mark)
    whole = bench_of(out, survivor)
    status = (whole / steps.STATUS).read_text()
    assert json.loads(status)["state"] == "done" and len(json.loads((whole / "bench.json").read_text())["runs"]) == 3
    assert list(out.glob(f"{survivor}/terra/eval-????????")) and not list(out.glob(f"{victim}/terra/eval-*"))
    again = main("run", plan, "--out", out, "--json", cwd=ROOT, env={"MOROCCO_DATA": ""})
    summary = json.loads(again.stdout)
    assert summary["verified"], again.stderr
    states = {(s["model"], s["step"]): s["state"] for s in summary["steps"] if s["model"]}
    assert {cell for cell, state in states.items() if state == "done"} == {(victim, "bench"), (victim, "eval")}
    assert (whole / steps.STATUS).read_text() == status


@pytest.mark.slow
def test_an_interrupt_ends_all_that_run_together(tmp_path):
    plan = write_plan(tmp_path, models=[*MODELS], steps=["bench"], input_size=200_000, repeats=3)
    out, mark = tmp_path / "out", f"scheduler-{os.getpid()}-interrupt"
    run = start_plan(plan, out, mark)
    partial = "*/terra/bench-????????/runs/.01.partial/chunks.jsonl"
    assert wait_until(lambda: run.poll() is not None or list(out.glob(partial)), 200)
    run.send_signal(signal.SIGINT)
    messages = run.communicate(timeout=200)[1]
    assert run.returncode == 130 and "Traceback" not in messages, messages
    assert wait_until(lambda: not marked(mark), 5)
    assert [steps.read_status(bench_of(out, model))["state"] for model in MODELS] == ["killed", "killed"]


@pytest.mark.slow
def test_in_containers_one_engine_builds_once_and_runs_one_at_a_time(tmp_path, tiny_image, docker_engine):
    root = copy_project(tmp_path / "morocco")
    machine = {"name": "contained", "runner": "docker", "base": tiny_image, "timeout_s": 120}
    (root / "params/machines/contained.yaml").write_text(json.dumps({"machine": machine}))
    changes = {"models": [*MODELS], "steps": ["bench"], "machine": "contained", "input_size": 400, "repeats": 3}
    plan, out = write_plan(root / "params/plans", **changes), tmp_path / "out"
    with engine.client(docker_engine) as docker:
        before = {image.id for image in docker.images.list(all=True)}
        argv = [sys.executable, "-m", "morocco_lib", "run", str(plan), "--out", str(out)]
        variables = {**os.environ, "PYTHONPATH": f"{QUIET}:{root}", "MOROCCO_DATA": ""}
        done = subprocess.run(argv, cwd=root, env=variables, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        made = [image for image in docker.images.list(all=True) if image.id not in before]
    runs = runs_of(out)
    assert [model for _, _, model in runs] in ([*MODELS] * 3, [*reversed(MODELS)] * 3)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(runs)), runs
    names = [name for image in made for name in image.tags]
    assert sum(name.startswith("morocco-packages:") for name in names) <= 1, names
