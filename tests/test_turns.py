"""Turns: one run at a time, of each model after the other, whatever the others do, fail or die of."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import engine
import kills
import pytest
import yaml
from conftest import ROOT
from test_repository import copy_project

from morocco_lib.artifacts import steps
from morocco_lib.errors import EnvironmentFailure
from morocco_lib.pipeline import scheduler

# Does what it is told, and prints when it did: a word and two readings of the machine's monotonic clock.
MEMBER = """
import json, os, sys, time
from morocco_lib.pipeline.scheduler import VARIABLE, Place

def done(word, begin):
    print(json.dumps([word, begin, time.monotonic_ns()]), flush=True)

with Place.of_this_process() as place:
    assert VARIABLE not in os.environ
    for word, seconds in json.loads(sys.argv[1]):
        begin, spent = time.monotonic_ns(), time.process_time()
        if word == "work":
            time.sleep(seconds)
        elif word == "turn":
            with place.turn():
                begin = time.monotonic_ns()
                time.sleep(seconds)
        elif word == "two":
            with place.turn():
                begin = time.monotonic_ns()
                for _ in range(2):
                    with place.turn():
                        time.sleep(seconds)
        elif word == "meet":
            place.meet()
        done(word, begin)
    begin, spent = time.monotonic_ns(), time.process_time()
done("left", begin)
done(f"CPU {time.process_time() - spent:.4f}", begin)
"""
RUN_S = 0.03


def start(seat: scheduler.Seat, *told: tuple[str, float]) -> subprocess.Popen:
    argv = [sys.executable, "-c", MEMBER, json.dumps(told)]
    options = seat.options({**os.environ, "PYTHONPATH": str(ROOT)})
    member = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    seat.taken()
    return member


def together(*told: list[tuple[str, float]]) -> list[list]:
    """Run a process for each list of words; returns [process, word, begin, end] of all in the order of their ends."""
    with scheduler.Turns(len(told)) as given:
        members = [start(seat, *words) for seat, words in zip(given.seats, told, strict=True)]
        said = [member.communicate(timeout=30) for member in members]
        assert given.over.wait(1)
    assert [(m.returncode, err) for m, (_, err) in zip(members, said, strict=True)] == [(0, "")] * len(told)
    lines = [[number, *json.loads(line)] for number, (out, _) in enumerate(said) for line in out.splitlines()]
    return sorted(lines, key=lambda line: line[3])


def turns_of(lines: list[list]) -> list[list]:
    """Return the runs among what was done, after seeing that no two of them overlap."""
    runs = [line for line in lines if line[1] in ("turn", "two")]
    assert all(earlier[3] <= later[2] for earlier, later in pairwise(runs))
    return runs


# -- who may measure when ------------------------------------------------------------------------------------------
def test_runs_are_taken_in_turn_and_never_overlap():
    lines = together(*[[("turn", RUN_S)] * 4] * 3)
    assert [line[0] for line in turns_of(lines)] == [0, 1, 2] * 4


def test_a_short_run_does_not_overtake_one_that_is_still_written_down():
    lines = together([("turn", RUN_S), ("work", 0.2)] * 3, [("turn", 0.0)] * 3)
    assert [line[0] for line in turns_of(lines)] == [0, 1] * 3
    work, runs = [line for line in lines if line[1] == "work"], turns_of(lines)
    assert not [(w, r) for w in work for r in runs if r[0] != w[0] and r[2] < w[3] and w[2] < r[3]]


def test_nothing_is_measured_before_all_have_come():
    lines = together([("turn", RUN_S)] * 2, [("work", 1.0), ("turn", RUN_S)])
    (work,) = [line for line in lines if line[1] == "work"]
    assert work[3] - work[2] > 0.9e9 and min(line[2] for line in turns_of(lines)) >= work[3]


def test_nobody_goes_on_before_the_last_run():
    lines = together([("turn", RUN_S)], [("turn", RUN_S)] * 5)
    assert [line[0] for line in turns_of(lines)] == [0, 1, 1, 1, 1, 1]
    left = [line[3] for line in lines if line[1] == "left"]
    assert len(left) == 2 and min(left) >= turns_of(lines)[-1][3]


def test_a_turn_within_a_turn_is_the_same():
    lines = together([("two", RUN_S)] * 2, [("turn", RUN_S)] * 2)
    assert [line[0] for line in turns_of(lines)] == [0, 1] * 2


def test_what_follows_a_meeting_is_in_step():
    lines = together(
        [("turn", RUN_S), ("meet", 0), *[("two", RUN_S)] * 3],
        [*[("turn", RUN_S)] * 4, ("meet", 0), *[("two", RUN_S)] * 3],
    )
    runs = turns_of(lines)
    assert [line[1] for line in runs] == ["turn"] * 5 + ["two"] * 6
    assert sorted(tuple(line[0] for line in runs[at : at + 2]) for at in (5, 7, 9)) in ([(0, 1)] * 3, [(1, 0)] * 3)
    assert together([("meet", 0)], [("turn", RUN_S)])  # who never comes to it is not waited for


def test_waiting_costs_no_cpu():
    begin, lines = time.process_time(), together([("turn", RUN_S)], [("turn", RUN_S), ("turn", 2.0)])
    (spent,) = [float(line[1].split()[1]) for line in lines if line[0] == 0 and line[1].startswith("CPU")]
    assert spent < 0.01 and time.process_time() - begin < 0.2


# -- who never comes, fails or dies --------------------------------------------------------------------------------
@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_one_that_is_killed_does_not_hold_up_the_others(when):
    words = {"before": [("work", 60)], "within": [("turn", 60)], "after": [("turn", 0), ("work", 60)]}[when]
    with scheduler.Turns(3) as given:
        dying = start(given.seats[0], *words)
        others = [start(seat, *[("turn", RUN_S)] * 3) for seat in given.seats[1:]]
        if when == "after":
            dying.stdout.readline()
        time.sleep(0.5)
        assert [other.poll() for other in others] == [None, None]
        dying.kill()
        killed = time.monotonic()
        out = [other.communicate(timeout=10)[0] for other in others]
        assert time.monotonic() - killed < 2 and [text.count('"turn"') for text in out] == [3, 3]
        assert given.over.wait(1)
        dying.communicate()


def test_a_seat_that_is_given_up_is_not_waited_for():
    with scheduler.Turns(3) as given:
        given.seats[1].leave()  # nobody was started for it
        stuck = start(given.seats[2], ("work", 60))
        other = start(given.seats[0], ("turn", RUN_S))
        time.sleep(0.3)
        assert other.poll() is None and not given.over.is_set()
        given.seats[2].leave()
        other.communicate(timeout=10)
        assert other.returncode == 0 and given.over.wait(1)
        stuck.kill()
        stuck.communicate()


def test_nobody_measures_when_nobody_gives_turns_any_more():
    with scheduler.Turns(2) as given:
        waiting, working = start(given.seats[0], ("turn", RUN_S)), start(given.seats[1], ("work", 60))
        time.sleep(0.3)
    said = waiting.communicate(timeout=10)[1]
    assert waiting.returncode == 1 and "run the plan again" in said and EnvironmentFailure.__name__ in said
    working.kill()
    working.communicate()


def test_by_hand_there_are_no_turns(monkeypatch):
    monkeypatch.delenv(scheduler.VARIABLE, raising=False)
    done = []
    began = time.monotonic()
    with scheduler.Place.of_this_process() as place:
        place.meet()  # nobody to wait for
        with place.turn(), place.turn():
            done.append("a turn in a turn")
        with place.turn():
            done.append("the next")
    assert done == ["a turn in a turn", "the next"] and time.monotonic() - began < 0.5


# -- plans ---------------------------------------------------------------------------------------------------------
MODELS = ("majority", "tfidf")


def write_plan(folder: Path, **changes) -> Path:
    plan = {"name": "two", "models": list(MODELS), "tasks": ["terra"], "input_size": 2000, "repeats": 3, "quick": True}
    plan |= changes
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


def bench_of(folder: Path, model: str, task: str = "terra") -> Path:
    (found,) = folder.glob(f"{model}/{task}/bench-????????")
    return found


def runs_of(folder: Path, task: str = "terra", where: str = "runs") -> list[tuple[float, float, str]]:
    """Return (begin, end, model) of the runs of all models, in the order of their ends, in seconds."""
    found = []
    for model in MODELS:
        for path in bench_of(folder, model, task).glob(f"{where}/[0-9]*/run.json"):
            end = (path.parent / "chunks.jsonl").stat().st_mtime  # the last that is written while a program runs
            found.append((end - json.loads(path.read_text())["phases"]["exit_s"], end, model))
    return sorted(found, key=lambda run: run[1])


def measuring(bench: Path) -> tuple[float, float]:
    """Return when the cell that measures began and ended, by papermill's account."""
    cells = json.loads((bench / "notebook.ipynb").read_text())["cells"]
    (cell,) = [cell for cell in cells if cell["cell_type"] == "code" and "session.turns" in "".join(cell["source"])]
    times = cell["metadata"]["papermill"]
    return tuple(datetime.fromisoformat(times[name]).timestamp() for name in ("start_time", "end_time"))


@pytest.fixture(scope="module")
def two(main, tmp_path_factory):
    """A plan of two models, run once: on one task the whole protocol, on the other the timed runs alone."""
    folder = tmp_path_factory.mktemp("two")
    plan = write_plan(folder, tasks=["terra", "rwsd"], overrides=[{"task": "terra", "quick": False}])
    done = main("run", plan, "--out", folder / "out", "--json", cwd=ROOT, env={"MOROCCO_DATA": ""})
    assert done.returncode in (0, 1), done.stderr
    return plan, folder / "out", done


@pytest.mark.slow
@pytest.mark.parametrize("task", ["terra", "rwsd"])
def test_the_models_of_a_plan_are_measured_one_run_at_a_time(two, task):
    _, folder, _ = two
    runs = runs_of(folder, task, "**/runs")
    assert len(runs) >= 6 and {model for _, _, model in runs} == {*MODELS}
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(runs)), runs
    cells = [measuring(bench_of(folder, model, task)) for model in MODELS]
    assert max(begin for begin, _ in cells) <= runs[0][0] and runs[-1][1] <= min(end for _, end in cells)


@pytest.mark.slow
def test_repeats_are_taken_in_turn(two):
    _, folder, _ = two
    runs = [model for _, _, model in runs_of(folder, "rwsd")]
    assert runs in ([*MODELS] * 3, [*reversed(MODELS)] * 3)
    paths = [path for model in MODELS for path in bench_of(folder, model, "rwsd").glob("runs/[0-9]*/run.json")]
    started = sorted((json.loads(path.read_text())["started"], path.parts[-6]) for path in paths)
    assert [model for _, model in started] == runs


@pytest.mark.slow
def test_timed_runs_begin_when_all_are_ready_for_them(two):
    _, folder, _ = two
    timed, pilots = runs_of(folder), runs_of(folder, where="pilot/runs")
    assert {model for _, _, model in timed[:2]} == {*MODELS} == {model for _, _, model in pilots}
    assert pilots[-1][1] <= timed[0][0]


@pytest.mark.slow
def test_a_dry_run_lists_the_steps_in_the_order_they_are_run_in(main, two, tmp_path):
    plan, _, done = two
    listed = main("run", plan, "--out", tmp_path / "new", "--dry-run", cwd=ROOT, env={"MOROCCO_DATA": ""}).stdout
    steps_listed = [line.removeprefix("to do").split() for line in listed.splitlines() if line.startswith("to do")]
    run = [
        line.partition("] ")[2].partition(":")[0].split() for line in done.stderr.splitlines() if line.startswith("[")
    ]
    together = slice(2, 4), slice(8, 10)  # of the bench steps of a task any may end first
    for some in together:
        run[some] = sorted(run[some])
    assert run == steps_listed and len(run) == 13
    assert [(s["task"], s["model"]) for s in json.loads(done.stdout)["steps"][:6]] == [
        ("terra", model) for model in MODELS for _ in range(3)
    ]


@pytest.mark.slow
def test_more_models_than_seats_are_measured_in_groups(main, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "SEATS", 1)
    plan = write_plan(tmp_path, steps=["bench"], repeats=2)
    done = main("run", plan, "--out", tmp_path / "out", cwd=ROOT, env={"MOROCCO_DATA": ""})
    assert done.returncode == 0, done.stderr
    assert [model for _, _, model in runs_of(tmp_path / "out")] == [MODELS[0]] * 2 + [MODELS[1]] * 2


@pytest.mark.slow
def test_one_that_fails_leaves_the_others_whole(main, tmp_path, synthetic_data):
    records = tmp_path / "records" / "TERRa"
    shutil.copytree(synthetic_data / "TERRa", records)
    (records / "bad.jsonl").write_text('{"premise": "a"\n')
    override = {"model": "majority", "files": {"train": "TERRa/train.jsonl", "val": "TERRa/bad.jsonl"}}
    plan = write_plan(tmp_path, data_dir=str(records.parent), overrides=[override])
    done = main("run", plan, "--out", tmp_path / "out", "--json", cwd=ROOT, env={"MOROCCO_DATA": ""})
    states = {(s["model"], s["step"]): s["state"] for s in json.loads(done.stdout)["steps"]}
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (states["majority", "bench"], states["majority", "eval"]) == ("failed", "skipped")
    assert states["tfidf", "bench"] == states["tfidf", "eval"] == states[None, "report"] == "done"
    result = json.loads((bench_of(tmp_path / "out", "tfidf") / "bench.json").read_text())
    assert result["verdict"] == "VALID" and len(result["runs"]) == 3


def kernel_of(bench: Path, mark: str) -> int | None:
    """Return the pid of the kernel that writes its log into a step folder."""
    for pid in kills.kernels_of(mark):
        with suppress(OSError):
            if Path(os.readlink(f"/proc/{pid}/fd/2")) == bench / "kernel.log":
                return pid
    return None


@pytest.mark.slow
@pytest.mark.parametrize("victim", MODELS)
def test_a_killed_kernel_costs_its_own_step_alone(main, tmp_path, victim):
    (survivor,) = set(MODELS) - {victim}
    plan, out, mark = write_plan(tmp_path, input_size=30_000), tmp_path / "out", f"turns-{os.getpid()}-{victim}"
    argv = [sys.executable, "-m", "morocco_lib", "run", str(plan), "--out", str(out)]
    environment = {**os.environ, "MOROCCO_DATA": "", kills.MARK: mark}
    run = subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    measured = f"{victim}/terra/bench-????????/runs/01/run.json"
    assert kills.wait_until(lambda: run.poll() is not None or list(out.glob(measured)), 60)
    os.kill(kernel_of(bench_of(out, victim), mark), signal.SIGKILL)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 3 and f"bench {victim} terra: failed" in said and "the kernel died" in said, said
    assert "Traceback" not in said and not kills.marked(mark)
    whole = bench_of(out, survivor)
    status = (whole / steps.STATUS).read_text()
    assert json.loads(status)["state"] == "done" and len(json.loads((whole / "bench.json").read_text())["runs"]) == 3
    assert list(out.glob(f"{survivor}/terra/eval-????????")) and not list(out.glob(f"{victim}/terra/eval-*"))
    again = main("run", plan, "--out", out, "--json", cwd=ROOT, env={"MOROCCO_DATA": ""})
    assert again.returncode == 0, again.stderr
    states = {(s["model"], s["step"]): s["state"] for s in json.loads(again.stdout)["steps"] if s["model"]}
    assert {cell for cell, state in states.items() if state == "done"} == {(victim, "bench"), (victim, "eval")}
    assert set(states.values()) == {"done", "kept"} and (whole / steps.STATUS).read_text() == status
    aside = bench_of(out, victim).with_name(f"{bench_of(out, victim).name}.1")
    assert steps.read_status(aside)["state"] == "failed"


@pytest.mark.slow
def test_an_interrupt_ends_all_that_run_together(main, tmp_path):
    plan, out, mark = write_plan(tmp_path, input_size=200_000), tmp_path / "out", f"turns-{os.getpid()}-interrupt"
    argv = [sys.executable, "-m", "morocco_lib", "run", str(plan), "--out", str(out)]
    environment = {**os.environ, "MOROCCO_DATA": "", kills.MARK: mark}
    run = subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert kills.wait_until(
        lambda: run.poll() is not None or list(out.glob("*/terra/bench-????????/runs/.01.partial/chunks.jsonl")), 60
    )
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130 and "Traceback" not in said, said
    assert kills.wait_until(lambda: not kills.marked(mark), 5)
    assert [steps.read_status(bench_of(out, model))["state"] for model in MODELS] == ["killed", "killed"]


@pytest.mark.slow
def test_in_containers_one_engine_builds_once_and_runs_one_at_a_time(tmp_path, tiny_image, docker_engine):
    root = copy_project(tmp_path / "morocco")
    machine = {"name": "contained", "runner": "docker", "base": tiny_image, "timeout_s": 120}
    (root / "params/machines/contained.yaml").write_text(yaml.safe_dump({"machine": machine}))
    plan, out = write_plan(root / "params/plans", machine="contained", input_size=400), tmp_path / "out"
    with engine.client(docker_engine) as docker:
        before = {image.id for image in docker.images.list(all=True)}
        argv = [sys.executable, "-m", "morocco_lib", "run", str(plan), "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": str(root), "MOROCCO_DATA": ""}
        done = subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        made = [image for image in docker.images.list(all=True) if image.id not in before]
    runs = runs_of(out)
    assert [model for _, _, model in runs] in ([*MODELS] * 3, [*reversed(MODELS)] * 3)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(runs)), runs
    names = [name for image in made for name in image.tags]
    assert sum(name.startswith("morocco-packages:") for name in names) <= 1, names
    pages = [(bench_of(out, model) / "notebook.html").read_text() for model in MODELS]
    assert sum("building morocco-packages" in page for page in pages) <= 1
