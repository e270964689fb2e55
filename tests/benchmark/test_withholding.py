"""When a run is fed."""

import sys
import time
from types import SimpleNamespace

import pytest
from helpers import write_records

from morocco_lib.analysis.run_files import read_run
from morocco_lib.benchmark import withholding
from morocco_lib.benchmark.run import RunSeries
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.benchmark.withholding import Withholding
from morocco_lib.data import workload
from morocco_lib.monitors.gpu_sampler import GpuSampler
from morocco_lib.runners.process import ProcessRunner
from morocco_lib.tasks import get_task


class Clock:
    """Stands for the program's end and for the clock: every wait takes its time; CPU time is a function of it."""

    def __init__(self, monkeypatch, busy=(), ready_s=None, ends_s=99.0, gpu_s=None):
        self.now_s, self.busy, self.ready_s, self.ends_s, self.gpu_s = 0.0, busy, ready_s, ends_s, gpu_s
        monkeypatch.setattr(withholding, "time", SimpleNamespace(monotonic_ns=lambda: round(self.now_s * 1e9)))

    def wait(self, seconds):
        self.now_s += seconds
        return self.now_s >= self.ends_s

    def cpu(self):
        sampled_s = self.now_s // 0.02 * 0.02
        used_s = sum(share * max(0.0, min(sampled_s, end) - begin) for begin, end, share in self.busy)
        return (round(sampled_s * 1e9), used_s) if sampled_s else None

    def gpus(self):
        """Since when the GPU is quiet, at work until `gpu_s` and in no use before 0.05 s."""
        return None if self.gpu_s is None or self.now_s < 0.05 else round(min(self.now_s, self.gpu_s) * 1e9)

    def fed(self, held):
        is_ready = lambda: self.ready_s is not None and self.now_s >= self.ready_s  # noqa: E731
        quiet_s = held.wait(0, is_ready, self.cpu, self, self.gpus)
        return pytest.approx(self.now_s, abs=0.031), quiet_s and pytest.approx(quiet_s, abs=0.021)


@pytest.mark.parametrize(
    ("held", "program", "expected"),
    [
        (Withholding(9.0), {}, (0.12, 0.02)),
        (Withholding(9.0), {"busy": [(0.0, 2.0, 1.0)]}, (2.12, 2.02)),
        (Withholding(9.0), {"busy": [(0.0, 2.0, 0.15)]}, (0.12, 0.02)),  # little is quiet
        (Withholding(9.0), {"busy": [(0.0, 2.0, 0.25)]}, (2.05, 1.95)),
        (Withholding(9.0), {"busy": [(0.0, 1.0, 1.0), (1.05, 2.0, 1.0)]}, (2.12, 2.02)),  # a pause is none
        (Withholding(9.0, ready=True), {"ready_s": 3.0}, (3.0, 0.02)),
        (Withholding(9.0, ready=True), {"ready_s": 3.0, "busy": [(0.0, 4.0, 1.0)]}, (4.12, 4.02)),
        (Withholding(9.0, ready=True), {}, (9.0, 0.02)),
        (Withholding(9.0), {"busy": [(0.0, 99.0, 1.0)]}, (9.0, None)),
        (Withholding(9.0, least_s=5.0), {}, (5.0, 0.02)),
        (Withholding(9.0, least_s=5.0), {"busy": [(0.0, 6.0, 1.0)]}, (6.1, 6.0)),
        (Withholding(9.0, ready=True), {"ends_s": 1.0}, (1.0, 0.02)),
        (Withholding(9.0), {"gpu_s": 3.0}, (4.0, 3.0)),  # the CPU waits for it
        (Withholding(9.0), {"gpu_s": 0.05, "busy": [(0.0, 2.0, 1.0)]}, (2.12, 2.02)),
        (Withholding(9.0, ready=True), {"ready_s": 0.5, "gpu_s": 3.0}, (4.0, 3.0)),
        (Withholding(9.0), {"gpu_s": 99.0}, (9.0, None)),
    ],
)
def test_a_program_is_fed_when_it_is_quiet_and_ready_or_has_ended(monkeypatch, held, program, expected):
    fed_s, quiet_s = Clock(monkeypatch, **program).fed(held)
    assert (expected[0], expected[1]) == (fed_s, quiet_s)


def test_where_cpu_time_cannot_be_read_it_is_not_waited_for(monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(clock, "cpu", lambda: None)
    assert clock.fed(Withholding(9.0)) == (0.11, None)


CODE = """
import json, sys, time
end = time.process_time() + 0.3
while time.process_time() < end: pass
print('morocco: {"event": "ready"}', file=sys.stderr, flush=True)
for line in sys.stdin: print(json.dumps({"idx": json.loads(line)["idx"], "label": "entailment"}), flush=True)
"""


@pytest.mark.parametrize("gpu", [False, True])
def test_a_run_is_fed_after_its_start_up_and_marks_it(tmp_path, monkeypatch, gpu):
    worked = []  # until it is asked about
    quiet_ns = property(lambda gpus: worked.append(time.monotonic_ns()) or worked[0]) if gpu else None
    monkeypatch.setattr(GpuSampler, "quiet_ns", quiet_ns)
    task, source = get_task("terra"), write_records(tmp_path / "val.jsonl", 8)
    argv = [sys.executable, "-I", "-S", "-c", CODE]
    held = Withholding(20.0, ready=True)
    load = workload.in_order(task, task.read(source))
    with RunSeries(
        Target(Program(argv, "m"), ProcessRunner()), load, source, tmp_path, batch_size=4, withheld=held
    ) as series:
        run = read_run(series.run(tmp_path, "bench"))
    assert run.fed_s >= 1.0 or not gpu
    assert 0.3 <= run.settled_s < run.fed_s < run.arrivals[0][0] and run.lines == 8
    cpu_s = {sample["mark"]: sample["cpu_s"] for sample in run.samples if "mark" in sample}
    assert 0.3 <= cpu_s["fed"] <= cpu_s["last_answer"] < cpu_s["fed"] + 0.2
    assert run.facts["withheld"] == {
        "most_s": 20.0,
        "least_s": 0.0,
        "ready": True,
        "quiet_s": run.facts["withheld"]["quiet_s"],
    }


def test_a_program_that_ends_while_it_is_not_fed_ends_the_run(tmp_path):
    task, source = get_task("terra"), write_records(tmp_path / "val.jsonl", 8)
    target = Target(Program([sys.executable, "-I", "-S", "-c", "raise SystemExit(3)"], "m"), ProcessRunner())
    load, held = workload.in_order(task, task.read(source)), Withholding(60.0, ready=True)
    with RunSeries(target, load, source, tmp_path, batch_size=4, withheld=held) as series:
        run = read_run(series.run(tmp_path, "bench"))
    assert run.facts["exit"]["code"] == 3 and run.total_s < 10
