"""Cgroups of both versions: recorded trees, and a real group of our own."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from servers import PYTHON, cgroups_of, runner
from servers.trees import V1_FILES, V2_FILES, plant

from morocco_lib.monitors import cgroup
from morocco_lib.monitors.cgroup import PREFIX, Memory, RunCgroup, groups_of, parent_groups

MB = 10**6


@pytest.fixture(params=[1, 2])
def recorded(request, tmp_path):
    """The same state of a group as each version of cgroups writes it."""
    if request.param == 2:
        folder = plant(tmp_path / "group", V2_FILES)
        group = RunCgroup(2, folder, folder)
    else:
        cpu = plant(tmp_path / "cpuacct", {"cpuacct.usage": "1734500000\n", "cgroup.procs": "4711\n4712\n"})
        group = RunCgroup(1, plant(tmp_path / "memory", V1_FILES), cpu)
    yield group
    group.close()


# -- what a group has used -----------------------------------------------------------------------------------------
def test_both_versions_are_read_alike(recorded):
    # Shared memory is part of what the kernel calls cache or file; here it counts as shared memory only.
    assert recorded.read_memory() == Memory(105267200, 1048576, 3145728 - 1048576, 1212416)
    assert recorded.cpu_s() == pytest.approx(1.7345)
    assert recorded.peak_bytes() == (115343360, {1: "memory.max_usage_in_bytes", 2: "memory.peak"}[recorded.version])
    assert recorded.oom_kills() == 2
    assert recorded.pids() == [4711, 4712]


@pytest.mark.parametrize(
    ("mapped", "shmem", "held"),
    [
        (600_000, 1_048_576, 600_000 + 12_288),  # one page of the group's is mapped file or shared memory
        (569_344, 1_048_576, 569_344 + 12_288),
        (5_000_000, 1_048_576, 5_000_000 + 12_288),  # libraries that another process had read before
        (0, 0, 12_288),
        (0, 9**12, 12_288),
    ],
)
def test_files_that_are_mapped_or_unwritten_are_held_wherever_they_count(recorded, mapped, shmem, held):
    assert recorded.held_file_bytes(recorded.read_memory(), mapped, shmem) == held


def test_a_page_that_is_mapped_and_unwritten_is_held_once(tmp_path):
    stat = "anon 1\nfile 9000\nkernel 1\nshmem 1000\nfile_mapped 8500\nfile_dirty 7000\nfile_writeback 500\n"
    folder = plant(tmp_path / "group", V2_FILES | {"memory.stat": stat})
    group = RunCgroup(2, folder, folder)
    # 8,000 bytes of files, of which 7,500 or more are mapped and up to 7,500 unwritten.
    assert group.held_file_bytes(group.read_memory(), 7500, 1000) == 8000
    assert group.held_file_bytes(group.read_memory(), 9500, 1000) == 2000 + 8000  # 2,000 of them of another group
    group.close()


def test_refused_processes_are_counted(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    plant(tmp_path / "pids", {"pids.events": "max 7\n"})
    assert recorded.pids_refused() == 7
    for events in tmp_path.rglob("pids.events"):
        events.unlink()
    assert recorded.pids_refused() == 0


def test_what_an_older_kernel_does_not_report_is_none(recorded):
    for name in ("memory.peak", "memory.max_usage_in_bytes", "memory.kmem.usage_in_bytes"):
        (recorded.memory / name).unlink(missing_ok=True)
    stat = recorded.memory / "memory.stat"
    stat.write_text(stat.read_text().replace("kernel 1212416\n", ""))
    for name in ("memory.oom_control", "memory.events"):
        (recorded.memory / name).write_text("low 0\n")
    assert recorded.peak_bytes() is None and recorded.read_memory().kernel_bytes is None and recorded.oom_kills() == 0


def test_the_memory_limit_covers_swap(recorded):
    recorded.limit_memory(60 * MB)
    v1 = {"memory.limit_in_bytes": "60000000", "memory.memsw.limit_in_bytes": "60000000"}
    expected = v1 if recorded.version == 1 else {"memory.max": "60000000", "memory.swap.max": "0"}
    assert {name: (recorded.memory / name).read_text() for name in expected} == expected


# -- where a process is --------------------------------------------------------------------------------------------
def proc_with(tmp_path: Path, text: str) -> Path:
    """Return a /proc whose self/cgroup holds the text."""
    plant(tmp_path / "proc" / "self", {"cgroup": text})
    return tmp_path / "proc"


def plant_v2(root: Path, *levels: tuple[str, str]) -> list[Path]:
    """Make nested groups of (name, controllers delegated) and return their folders."""
    folders = []
    for name, delegated in levels:
        root = plant(root / name, V2_FILES | {"cgroup.subtree_control": delegated + "\n"})
        folders.append(root)
    return folders


def test_v2_the_nearest_group_that_delegates_memory_is_the_parent(tmp_path):
    levels = [("cg", "cpu memory pids"), ("user.slice", "memory pids"), ("app.slice", "pids"), ("session-2.scope", "")]
    folders = plant_v2(tmp_path, *levels)
    proc = proc_with(tmp_path, "0::/user.slice/app.slice/session-2.scope\n")
    assert parent_groups(tmp_path / "cg", proc) == (2, folders[1], folders[1])
    assert groups_of("self", tmp_path / "cg", proc).folders == dict.fromkeys(("memory", "cpu", "cpuacct"), folders[3])


@pytest.mark.parametrize("path", ["/session-2.scope", "/../.."])
def test_v2_groups_above_the_mount_are_not_ours(tmp_path, path):
    plant_v2(tmp_path, ("host", "memory"), ("cg", ""), ("session-2.scope", ""))
    assert parent_groups(tmp_path / "host" / "cg", proc_with(tmp_path, f"0::{path}\n")) is None


@pytest.mark.parametrize("cpu", ["cpuacct", "cpu,cpuacct"])
def test_v1_groups_are_found_in_both_hierarchies(tmp_path, cpu):
    memory, cpu_folder = (plant(tmp_path / "cg" / name / "jobs" / "7", {}) for name in ("memory", cpu))
    proc = proc_with(tmp_path, f"5:{cpu}:/jobs/7\n4:memory:/jobs/7\n1:name=systemd:/jobs\n")
    assert parent_groups(tmp_path / "cg", proc) == (1, memory, cpu_folder)


def test_v1_inside_a_container_the_mount_is_our_own_group(tmp_path):
    memory, cpu = (plant(tmp_path / "cg" / name, V1_FILES) for name in ("memory", "cpu,cpuacct"))
    proc = proc_with(tmp_path, "5:cpu,cpuacct:/docker/1f3a9c\n4:memory:/docker/1f3a9c\n")
    assert parent_groups(tmp_path / "cg", proc) == (1, memory, cpu)


def test_on_a_hybrid_machine_the_v1_memory_group_wins(tmp_path):
    plant_v2(tmp_path, ("cg", "memory"), ("unified", "memory"))
    memory, cpu = (plant(tmp_path / "cg" / name, {}) for name in ("memory", "cpuacct"))
    proc = proc_with(tmp_path, "9:name=systemd:/\n4:memory:/\n2:cpuacct:/\n1:cpu:/\n0::/\n")
    assert parent_groups(tmp_path / "cg", proc) == (1, memory, cpu)
    assert groups_of("self", tmp_path / "cg", proc).hybrid


@pytest.mark.parametrize("text", [None, "1:name=systemd:/\n", "4:memory:/\n", "4:memory:/\n2:cpuacct:/\n"])
def test_without_usable_groups_there_is_none(tmp_path, text):
    plant(tmp_path / "cg", {})
    proc = proc_with(tmp_path, text) if text is not None else tmp_path / "proc"
    assert parent_groups(tmp_path / "cg", proc) is None and RunCgroup.create(tmp_path / "cg", proc) is None


# -- groups of our own ---------------------------------------------------------------------------------------------
def test_a_group_without_controllers_is_not_used_and_not_left_behind(tmp_path):
    # mkdir may succeed where the new group then has no memory files.
    (own,) = plant_v2(tmp_path, ("cg", "memory"))
    assert RunCgroup.create(own, proc_with(tmp_path, "0::/\n")) is None
    assert [path for path in own.iterdir() if path.is_dir()] == []


def test_groups_of_dead_owners_are_removed_and_those_of_living_ones_kept(tmp_path):
    (own,) = plant_v2(tmp_path, ("cg", "memory"))
    proc = proc_with(tmp_path, "0::/\n")
    plant(proc / "4242", {})
    for name in (f"{PREFIX}4241-1", f"{PREFIX}4242-1", f"{PREFIX}other", "someone-elses"):
        (own / name).mkdir()
    RunCgroup.create(own, proc)
    left = {path.name for path in own.iterdir() if path.is_dir()}
    assert left == {f"{PREFIX}4242-1", f"{PREFIX}other", "someone-elses"}


def test_what_a_killed_run_left_running_is_killed_by_the_next_one():
    runner(use_cgroup=True)
    dead = subprocess.Popen([*PYTHON, "-c", "pass"])
    dead.wait()
    group = RunCgroup.create()
    orphan = subprocess.Popen(["sleep", "600"])
    for file in group.procs_files:  # now: an empty group of a dead owner may be removed at any time
        file.write_text(str(orphan.pid))
    folders = dict.fromkeys((group.memory, group.cpu))
    folders = [path.rename(path.with_name(f"{PREFIX}{dead.pid}-1")) for path in folders]
    group.close()
    RunCgroup.create().remove()
    assert orphan.wait(5) == -signal.SIGKILL
    assert not any(folder.exists() for folder in folders)


def test_a_real_group_counts_and_is_removed():
    runner(use_cgroup=True)
    group = RunCgroup.create()
    with subprocess.Popen(["sleep", "600"]) as program:
        for file in group.procs_files:
            file.write_text(str(program.pid))
        assert group.pids() == [program.pid] and groups_of(program.pid).folders["memory"] == group.memory
        assert RunCgroup.of_container(program.pid, group.memory.name).memory == group.memory
        assert RunCgroup.of_container(program.pid, "another") is None
        assert cgroup.kill_all(group.pids) == [program.pid]
    group.remove()
    assert cgroups_of(os.getpid()) == []
