"""Whole runs that something disturbs: a killed worker, a clock that is set, a machine that sleeps, what a GPU does."""

import json
import os
import time
from types import SimpleNamespace

import pytest
from servers import PYTHON, runner, server

from morocco_lib.analysis import gpu as estimate_gpu
from morocco_lib.analysis import summary
from morocco_lib.benchmark import protocol
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitors import clocks, nvml, system_load
from morocco_lib.reasons import Reason
from morocco_lib.runners.contract import Limits
from morocco_lib.tasks import get_task

HOUR_NS = 3600 * 10**9


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    """Leave the real load of this machine out of the verdicts."""
    monkeypatch.setattr(system_load, "others", lambda *args, **options: Reason.MACHINE_NOT_TOLD)


@pytest.fixture
def bench(tmp_path):
    """Bench a program on made-up records; returns (bench.json, the first run's run.json, folder)."""
    data, folder = tmp_path / "val.jsonl", tmp_path / "measured"
    folder.mkdir()
    records = ({"premise": "a", "hypothesis": "b" * n, "label": "entailment", "idx": n} for n in range(40))
    data.write_text("".join(json.dumps(record) + "\n" for record in records))

    def run(argv, records=80, way=None):
        target = Target(Program(argv, "fake"), way or runner(True), Limits(timeout_s=30))
        options = {"input_size": records, "batch_size": 4, "repeats": 1, "seed": 1}
        result = protocol.bench(target, get_task("terra"), data, folder, **options)
        return result, json.loads((folder / "runs/01/run.json").read_text()), folder

    return run


# -- workers -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("use_cgroup", "how", "number", "reasons"),
    [(True, "SIGKILL", 9, ["WORKER_KILLED"]), (False, "fault", 11, ["WORKER_KILLED"]), (True, "exit", None, [])],
)
def test_a_worker_that_is_killed_makes_the_run_invalid(bench, use_cgroup, how, number, reasons):
    result, facts, _ = bench(server("workers", "--how", how), records=240, way=runner(use_cgroup))
    assert facts["exit"]["code"] == 0 and facts["lines"] == 240
    assert [reason for reason in result["per_run"][0]["reasons"] if reason != "UNPROVEN"] == reasons  # without a cgroup
    phases, ended = facts["phases"], (number, None if number else 0)
    moments_s = [end["t_ns"] / 1e9 for end in facts["ended_processes"] if (end["signal"], end["code"]) == ended]
    assert any(phases["first_answer_s"] < t_s < phases["last_answer_s"] for t_s in moments_s)


# -- clocks --------------------------------------------------------------------------------------------------------
@pytest.fixture
def disturb(monkeypatch):
    """After the first reading put the wall clock, and the clock that counts sleep, ahead by so many nanoseconds."""

    def start(wall_ns: int, boot_ns: int) -> None:
        readings = []

        def moved(now_ns: int, ahead_ns: int) -> int:
            readings.append(now_ns)
            return now_ns + (ahead_ns if len(readings) > 10 else 0)

        clock = SimpleNamespace(
            monotonic_ns=time.monotonic_ns,
            time_ns=lambda: moved(time.time_ns(), wall_ns),
            clock_gettime_ns=lambda which: moved(time.clock_gettime_ns(which), boot_ns),
            CLOCK_BOOTTIME=time.CLOCK_BOOTTIME,
        )
        monkeypatch.setattr(clocks, "time", clock)

    return start


def test_a_wall_clock_that_is_set_is_noted_and_speed_stays(bench, disturb):
    disturb(-HOUR_NS, 0)
    result, facts, _ = bench(server("paced", "--rate", 200), records=200)
    assert result["verdict"] == "DISTURBED" and set(result["reasons"]) == {"CLOCK_TROUBLE", "SINGLE_RUN"}
    assert result["speed_per_s"]["value"] == pytest.approx(200, rel=0.2)
    assert facts["clock"]["wall_moved_s"] == pytest.approx(-3600, abs=0.1) and facts["clock"]["slept_s"] == 0.0


def test_a_machine_that_slept_disturbs_a_run(bench, disturb):
    disturb(HOUR_NS, HOUR_NS)
    result, _, folder = bench(server("paced", "--rate", 200))
    assert result["verdict"] == "DISTURBED" and set(result["reasons"]) == {"MACHINE_SLEPT", "SINGLE_RUN"}
    assert summary.derive(folder) == result


# -- GPUs ----------------------------------------------------------------------------------------------------------
gpus = pytest.importorskip("servers.gpus", reason="no binding of NVML")
MIB, RATE, WATTS, FakeGpu, Replay = gpus.MIB, gpus.RATE, gpus.WATTS, gpus.FakeGpu, gpus.Replay


@pytest.fixture
def measured(bench, tmp_path, monkeypatch):
    """Bench a program on made-up GPUs; returns what `bench` does."""

    def run(replay_of=Replay, use_cgroup=True, records=200, min_energy_s=0.5):
        pids = tmp_path / "told/pids"
        pids.parent.mkdir(), pids.parent.chmod(0o777)  # the program is another user
        replay = replay_of(pids)
        monkeypatch.setattr(nvml, "load", lambda: replay.library)
        monkeypatch.setattr(estimate_gpu, "MIN_ENERGY_S", min_energy_s)
        argv = [*PYTHON, "-c", gpus.PARENT, str(pids), *server("paced", "--rate", RATE, "--init", 0.2)]
        found = bench(argv, records, runner(use_cgroup))
        assert replay.library is None or replay.library.open == 0
        return found

    return run


def test_gpu_memory_and_energy_come_out_right_end_to_end(measured):
    result, facts, folder = measured()
    assert result["verdict"] == "VALID" and result["reasons"] == ["SINGLE_RUN"]
    assert result["gpu_ram_bytes"]["value"] == (300 + 900 + 200) * MIB and result["gpu_ram_bytes"]["method"] == "nvml"
    energy = result["energy_j_per_record"]
    watts = energy["value"] * result["speed_per_s"]["value"]  # a machine that was late is so in both
    assert watts == pytest.approx(2 * WATTS, rel=0.06) and energy["method"] == "counter"
    gpu = facts["gpu"]
    parent, child = map(int, (folder.parent / "told/pids").read_text().split())
    assert gpu["pids"] == sorted((parent, child))
    assert [d["used_by_run"] for d in gpu["devices"]] == [True, True, False]
    assert gpu["devices"][0]["idle"]["used_bytes"] == 10 * MIB
    assert gpu["devices"][0]["peak_used_bytes"] == 1210 * MIB and gpu["devices"][0]["others"] == []
    assert (folder / "runs/01/gpu.jsonl").exists()
    assert json.loads(json.dumps(summary.derive(folder))) == json.loads((folder / "bench.json").read_text())


def test_an_intruder_disturbs_a_run(measured):
    def replay(pids):
        return Replay(pids, lambda t_s, n: {os.getpid(): 50 * MIB} if n == 0 and 0.2 < t_s < 0.7 else {})

    result, facts, _ = measured(replay, records=160)
    assert result["verdict"] == "DISTURBED" and "OTHER_GPU_PROCESS" in result["reasons"]
    assert result["gpu_ram_bytes"]["value"] and result["energy_j_per_record"]["value"]  # kept, to be shown grey
    (other,) = facts["gpu"]["devices"][0]["others"]
    assert other["pid"] == os.getpid() and other["peak_bytes"] == 50 * MIB


def test_a_hot_gpu_disturbs_a_run(measured):
    result, _, _ = measured(lambda pids: Replay(pids, slowed=0x40), records=80)
    assert result["reasons"] == ["GPU_THROTTLED", "SINGLE_RUN"] and result["verdict"] == "DISTURBED"


def test_without_a_gpu_there_are_dashes_and_no_file(measured):
    result, facts, folder = measured(lambda pids: SimpleNamespace(library=None), records=40)
    assert facts["gpu"] == "NO_GPU"
    assert result["gpu_ram_bytes"] == {"value": None, "reason": "NO_GPU"}
    assert result["energy_j_per_record"] == {"value": None, "reason": "NO_ENERGY_COUNTER"}
    assert not (folder / "runs/01/gpu.jsonl").exists()


def test_samples_that_were_lost_are_no_zeros(measured):
    _, _, folder = measured(records=40)
    path = folder / "runs/01/gpu.jsonl"
    path.write_text("")
    assert summary.derive(folder)["gpu_ram_bytes"] == {"value": None, "reason": "GPU_NOT_TOLD"}
    path.write_text('{"t_ns": 1, "gp')
    assert "LOG_TRUNCATED" in summary.derive(folder)["reasons"]
    path.unlink()
    with pytest.raises(UsageError, match="01"):
        summary.derive(folder)


def test_a_program_that_cannot_start_leaves_nvml_closed(bench, monkeypatch):
    library = gpus.FakeNvml(FakeGpu())
    monkeypatch.setattr(nvml, "load", lambda: library)

    class Broken:
        name = "process"

        def start(self, argv, limits):
            raise EnvironmentFailure("no", remedy="none")

    with pytest.raises(EnvironmentFailure):
        bench(["x"], way=Broken())
    assert library.open == 0
