"""Real disturbances: a sampler that is starved, and other programs on the same cores."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from servers import PYTHON, ROOT, runner, server

from morocco_lib.analysis import validity
from morocco_lib.benchmark import protocol
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.monitors.cgroup import RunCgroup
from morocco_lib.monitors.readers import CgroupReader, ProcReader
from morocco_lib.monitors.sampler import Sampler
from morocco_lib.reasons import Reason
from morocco_lib.runners.contract import Limits
from morocco_lib.tasks import get_task

pytestmark = [pytest.mark.timed, pytest.mark.slow, pytest.mark.real_load]
TASK = get_task("terra")
CORES = os.cpu_count()


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    path.write_text("".join(json.dumps({"premise": "a", "hypothesis": "b" * n, "idx": n}) + "\n" for n in range(100)))
    return path


def benched(program: Program, way, records: Path, folder: Path) -> tuple[dict, dict]:
    """Bench one run of a hundred records and return (bench.json, run.json)."""
    options = {"input_size": 100, "batch_size": 1, "repeats": 1, "seed": 1}
    result = protocol.bench(Target(program, way, Limits(timeout_s=30)), TASK, records, folder, **options)
    return result, json.loads((folder / "runs" / "01" / "run.json").read_text())


def test_a_bench_that_is_stopped_for_a_while_is_disturbed(records, tmp_path):
    command = " ".join(server("paced", "--rate", 50))
    argv = [sys.executable, "-m", "morocco_lib", "bench", "--command", command, "terra", "--data", str(records)]
    argv += ["--input-size", "150", "--batch-size", "1", "--repeats", "1", "--out", str(tmp_path / "out")]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as program:
        end = time.monotonic() + 20
        while not list(tmp_path.rglob("samples.jsonl")) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(1.0)
        program.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        program.send_signal(signal.SIGCONT)
        _, stderr = program.communicate(timeout=30)
    assert program.returncode == 3, stderr
    (path,) = tmp_path.rglob("bench.json")
    result = json.loads(path.read_text())
    assert "SAMPLER_GAPS" in result["reasons"] and result["verdict"] == "DISTURBED"
    sampler = json.loads((path.parent / "runs" / "01" / "run.json").read_text())["sampler"]
    assert 1.4 < sampler["longest_gap_s"] < 2.5


def sampled(reader, seconds: float, during=lambda: None) -> dict:
    sampler = Sampler(reader, io.StringIO(), time.monotonic_ns())
    sampler.start()
    end = time.monotonic() + seconds
    during()
    time.sleep(max(0.0, end - time.monotonic()))
    return sampler.stop()


def test_a_thread_that_holds_the_interpreter_starves_the_sampler():
    def hold() -> None:  # sum() of a range lets no other thread run
        began = time.monotonic()
        sum(range(10**7))
        per_number = (time.monotonic() - began) / 10**7
        thread = threading.Thread(target=lambda: sum(range(int(1.6 / per_number))))
        thread.start()
        thread.join()

    runner(use_cgroup=True)
    group = RunCgroup.create()
    try:
        report = sampled(CgroupReader(group.reader()), 2.0, hold)
    finally:
        group.remove()
    assert validity.sampler_reasons(report) == [Reason.SAMPLER_GAPS]


def test_ordinary_jitter_between_busy_programs_is_no_gap():
    with burning():
        report = sampled(ProcReader(lambda: [os.getpid()]), 0.5)
    assert validity.sampler_reasons(report) == []


# -- other programs on the same cores ------------------------------------------------------------------------------
@contextmanager
def burning():
    """Run a process for each core that burns it; children of ours, as another user's jobs would not be."""
    with ExitStack() as programs:
        pids = []
        for _ in range(CORES):
            program = programs.enter_context(subprocess.Popen([*PYTHON, "-c", "while True: pass"]))
            programs.callback(program.kill)
            pids.append(program.pid)
        time.sleep(0.2)
        yield pids


def test_programs_beside_a_run_are_measured_named_and_found(records, tmp_path):
    with burning() as pids:
        _, facts = benched(Program(server("paced", "--rate", 50), "paced"), runner(True), records, tmp_path)
    others = facts["others"]
    assert others["of_cores"] == CORES and others["cores"] == pytest.approx(CORES, rel=0.15)
    assert others["cpu_s"] == pytest.approx(others["cores"] * facts["phases"]["exit_s"], rel=0.1)
    assert validity.machine_reasons(others) == [Reason.BUSY_MACHINE]
    assert set(pids) & {process["pid"] for process in others["top"]} and others["top"][0]["cpu_s"] > 0.5


def test_what_the_run_itself_burns_is_not_others(records, tmp_path):
    _, alone = benched(Program(server("body", "--burn", 2.0), "body"), runner(True), records, tmp_path)
    others = alone["others"]
    assert alone["cpu_s"] > 2.0 and str(alone["argv"][-3]) == "2.0"
    quiet_s = others["idle_share"] * others["of_cores"] * alone["phases"]["exit_s"]
    # What is neither idle nor the run's nor ours is all that others can have had.
    assert others["cpu_s"] <= others["of_cores"] * alone["phases"]["exit_s"] - quiet_s - alone["cpu_s"] + 0.2
