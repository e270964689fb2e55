"""System load: CPU time of others between two readings of /proc."""

import os
import time
from pathlib import Path

import pytest

from morocco_lib.monitors import system_load
from morocco_lib.reasons import Reason

pytestmark = pytest.mark.real_load

TICKS = os.sysconf("SC_CLK_TCK")


def plant(root: Path, cpu: str, processes: dict[int, tuple[str, int]]) -> Path:
    """Make a /proc with this line of CPU times and {pid: (name, ticks of CPU time)}."""
    root.mkdir()
    (root / "stat").write_text(f"cpu  {cpu}\ncpu0 1 1 1 1 1 1 1 1 1 1\ncpu1 {cpu}\nintr 5\n")
    for pid, (name, ticks) in processes.items():
        (root / str(pid)).mkdir()
        fields = ["S", 1, 1, 1, 0, -1, 0, 0, 0, 0, 0, ticks - ticks // 4, ticks // 4, 9999, 0, 20, 0, 1, 0, 77]
        (root / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, fields))}\n")
    return root


@pytest.fixture
def readings(tmp_path):
    """Return two readings, of ten seconds of CPU time apart."""
    #      user nice system idle iowait irq softirq steal guest
    was = [100, 0, 100, 5000, 50, 0, 0, 10, 90, 0]
    more = [5, 2, 1, 7, 1, 1, 1, 2, 0, 0]  # seconds
    now = [ticks + seconds * TICKS for ticks, seconds in zip(was, more, strict=True)]
    first = {10: ("dockerd", 5), 20: ("browser (x)", 100), 30: ("model", 0), os.getpid(): ("morocco", 0)}
    then = {pid: (name, ticks + TICKS) for pid, (name, ticks) in first.items()}
    then |= {40: ("containerd-shim", 2 * TICKS), 50: ("make", 3 * TICKS), 60: ("sleep", 0)}
    before = system_load.read(plant(tmp_path / "was", " ".join(map(str, was)), first))
    return before, system_load.read(plant(tmp_path / "now", " ".join(map(str, now)), then))


def test_the_engine_the_run_and_ourselves_are_subtracted(readings):
    before, after = readings
    found = system_load.others(before, after, run_cpu_s=1.0, run_pids=[30], engine=True)
    own_s = after.own_s - before.own_s
    assert found["cpu_s"] == pytest.approx(10 - 1 - own_s - (1 + 2))
    assert found["cores"] == pytest.approx(found["cpu_s"] * 1e9 / (after.t_ns - before.t_ns))
    assert (found["of_cores"], found["idle_share"], found["steal_share"]) == (2, pytest.approx(0.4), pytest.approx(0.1))
    assert [(p["pid"], p["name"], p["cpu_s"]) for p in found["top"]] == [(50, "make", 3.0), (20, "browser (x)", 1.0)]
    bare = system_load.others(before, after, run_cpu_s=1.0)
    assert bare["cpu_s"] == pytest.approx(9 - own_s) and len(bare["top"]) == 3
    assert [p["pid"] for p in bare["top"][:2]] == [50, 40]
    assert system_load.others(before, after, run_cpu_s=99.0)["cpu_s"] == 0.0


@pytest.mark.parametrize(
    ("ours", "busy_s", "cores"), [({1}, 7.0, 1), ({0}, 3.0, 1), ({0, 1}, 10.0, 2), ({4, 5}, 10.0, 2)]
)
def test_what_is_used_on_cores_that_are_not_ours_does_not_count(tmp_path, monkeypatch, ours, busy_s, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: ours)  # of {4, 5} a container shows cpu0 and cpu1
    (tmp_path / "stat").write_text(
        f"cpu {10 * TICKS} 0 0 {9 * TICKS} 0 0 0 0\ncpu0 {3 * TICKS} 0 0 0 0 0 0 0\ncpu1 {7 * TICKS} 0 0 {9 * TICKS} 0 0 0 0\n"
    )
    found = system_load.read(tmp_path)
    assert (found.busy_s, found.cores) == (pytest.approx(busy_s), cores)


def test_what_ray_keeps_busy_is_told_where_it_runs(readings, tmp_path):
    before, after = readings
    assert "ray_cores" not in system_load.others(before, after, run_cpu_s=1.0)
    cpu = "100 0 100 5000 50 0 0 10 90 0"
    names = {10: "raylet", 20: "ray::Dashboard", 30: "gcs_server", 40: "xray::", 50: "raytracer"}
    scripts = {60: b"-u\0/x/site-packages/ray/_private/log_monitor.py\0--a", 61: b"-m\0ray.util.client.server\0--b"}
    scripts |= {70: b"/home/a/ray/model.py\0", 71: b"-m\0xray.a\0", 72: b""}
    found = []
    for ticks in (0, TICKS):
        every = names | dict.fromkeys(scripts, "python3.11")
        root = plant(tmp_path / str(ticks), cpu, {pid: (name, ticks) for pid, name in every.items()})
        for pid, words in scripts.items():
            (root / str(pid) / "cmdline").write_bytes(b"/x/python3.11\0" + words + b"\0")
        found.append(system_load.read(root))
    cores = system_load.others(*found, 0.0)["ray_cores"]
    assert cores == pytest.approx(5e9 / (found[1].t_ns - found[0].t_ns))
    assert found[0].processes[60, 77][0] == "ray::log_monitor"


def test_a_look_takes_its_time_and_counts_all_that_is_not_us(readings, monkeypatch):
    slept, expected, read = [], system_load.others(*readings, 0.0), iter(readings)
    monkeypatch.setattr(system_load, "read", lambda: next(read))
    monkeypatch.setattr(system_load.time, "sleep", slept.append)
    assert system_load.look(0.3) == expected and slept == [0.3]


@pytest.mark.parametrize("stat", [None, "", "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n", "cpu  1 2 3\n"])
def test_a_machine_without_cpu_times_is_not_idle(tmp_path, stat):
    if stat is not None:
        (tmp_path / "stat").write_text(stat)
    assert system_load.read(tmp_path) is None
    assert system_load.others(None, system_load.read(), 0.0) is Reason.MACHINE_NOT_TOLD


def test_a_machine_that_was_busy_half_of_the_time_has_cpu_times(tmp_path):
    assert system_load.read(plant(tmp_path / "proc", "4 0 4 8 0 0 0 0 0 0", {})).cores == 2


def test_what_we_burn_ourselves_is_not_others():
    before, began = system_load.read(), time.process_time()
    while time.process_time() - began < 0.2:
        pass
    after = system_load.read()
    others = system_load.others(before, after, 0.0)
    assert after.own_s - before.own_s == pytest.approx(0.2, abs=0.1)
    assert os.getpid() not in {process["pid"] for process in others["top"]}
