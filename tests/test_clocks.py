"""A wall clock that is set, and a machine that sleeps, while a program is measured."""

import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from servers import server

from morocco_lib import config, fileio
from morocco_lib.analysis import summary
from morocco_lib.artifacts import steps, verify
from morocco_lib.benchmark import protocol
from morocco_lib.monitors import clocks
from morocco_lib.pipeline import plan_run
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.process import ProcessRunner
from morocco_lib.tasks import get_task

HOUR_NS = 3600 * 10**9


@pytest.fixture
def disturb(monkeypatch):
    """After its first reading let the wall clock, and the clock that counts sleep, be ahead by so many nanoseconds."""

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


def measured(synthetic_data, folder) -> dict:
    folder.mkdir()
    program = protocol.Program(server("paced", "--rate", 200), "paced")
    source = synthetic_data / "TERRa" / "val.jsonl"
    options = {"input_size": 40, "batch_size": 4, "repeats": 1, "seed": 1}
    return protocol.bench(program, get_task("terra"), source, ProcessRunner(), Limits(timeout_s=60), folder, **options)


def test_a_quiet_clock_has_neither_moved_nor_slept(synthetic_data, tmp_path):
    assert measured(synthetic_data, tmp_path / "out")["reasons"] == ["SINGLE_RUN"]
    clock = fileio.read_json(tmp_path / "out/runs/01/run.json")["clock"]
    assert clock == {"source": "CLOCK_MONOTONIC", "wall_moved_s": 0.0, "slept_s": 0.0}


@pytest.mark.parametrize("hours", [1, -1])
def test_a_wall_clock_that_is_set_is_noted_and_speed_stays(synthetic_data, tmp_path, disturb, hours):
    disturb(hours * HOUR_NS, 0)
    result = measured(synthetic_data, tmp_path / "out")
    assert result["verdict"] == "VALID" and set(result["reasons"]) == {"CLOCK_TROUBLE", "SINGLE_RUN"}
    assert result["speed_per_s"]["value"] == pytest.approx(200, rel=0.2)
    clock = fileio.read_json(tmp_path / "out/runs/01/run.json")["clock"]
    assert clock["wall_moved_s"] == pytest.approx(hours * 3600, abs=0.1) and clock["slept_s"] == 0.0


def test_a_machine_that_slept_makes_the_run_invalid(synthetic_data, tmp_path, disturb):
    disturb(HOUR_NS, HOUR_NS)
    result = measured(synthetic_data, tmp_path / "out")
    assert result["verdict"] == "INVALID" and set(result["reasons"]) == {"MACHINE_SLEPT", "SINGLE_RUN"}
    assert summary.derive(tmp_path / "out") == result


def test_a_clock_that_is_slewed_as_usual_has_not_jumped():
    before, after = clocks.Offsets(wall_ns=10**18, boot_ns=0), clocks.Offsets(wall_ns=10**18 + 18 * 10**8, boot_ns=0)
    assert clocks.compare(before, after, elapsed_s=3600)["wall_moved_s"] == 0.0  # 0.05 % of an hour
    assert clocks.compare(before, after, elapsed_s=60)["wall_moved_s"] == 1.8


def test_offsets_map_both_ways():
    offsets = clocks.read()
    assert offsets.to_monotonic(offsets.to_wall(12345)) == 12345
    assert abs(offsets.to_wall(time.monotonic_ns()) - time.time_ns()) < 5_000_000


def test_a_step_that_ends_before_it_began_by_the_clock_is_done_and_verifies(tmp_path, monkeypatch):
    dates = iter(["2030-01-01T00:00:00.000Z", "2020-01-01T00:00:00.000Z"])
    monkeypatch.setattr(steps, "now", lambda: next(dates))
    with steps.Step.begin(tmp_path / "step", "check", parameters={}, inputs={}) as step:
        fileio.write_text(step.folder / "note.txt", "kept\n")
    status = steps.read_status(tmp_path / "step")
    assert status["state"] == "done" and status["ended"] < status["started"]
    assert all(finding.ok for finding in verify.verify(tmp_path / "step"))


def test_a_fresh_plan_gets_a_folder_of_its_own_though_the_clock_was_set_back(tmp_path, monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    monkeypatch.setattr(plan_run, "datetime", Stopped)
    plan = config.PlanParams(name="small", tasks=["terra"], models=["majority"])
    made = []
    for _ in range(3):
        made.append(plan_run.plan_folder(plan, tmp_path, None, fresh=True))
        made[-1].mkdir(parents=True)
    assert [folder.name for folder in made] == [f"small-20260102-030405{end}" for end in ("", "-2", "-3")]
