"""Readers of a whole tree: replayed /proc trees, and cgroups that go away."""

import os
import signal
import subprocess
from types import SimpleNamespace

import pytest
from servers.trees import V2_FILES, plant, plant_process

from morocco_lib.monitors import readers
from morocco_lib.monitors.cgroup import Memory, RunCgroup
from morocco_lib.monitors.procfs import TICK_S
from morocco_lib.monitors.readers import CgroupReader, ProcReader

KIB = 1024


@pytest.fixture
def replay(tmp_path):
    """A reader of processes 10 and 11 in a /proc of its own."""
    plant(tmp_path, {"sys/kernel/ns_last_pid": "11"})
    plant_process(tmp_path, 10, cpu=(100, 20, 500, 500), kib=(5000, 3000, 900, 100))
    plant_process(tmp_path, 11, cpu=(50, 0, 0, 0), kib=(2000, 1000, 300, 100))
    reader = ProcReader(lambda: [10, 11], 10, tmp_path)
    yield SimpleNamespace(reader=reader, proc=tmp_path)
    reader.close()


def end(proc, pid: int) -> None:
    """Let a process be a zombie."""
    plant(proc / str(pid), {"statm": "0 0 0 0 0 0 0\n", "status": "Name:\tx\n"})


def test_memory_and_cpu_time_are_summed_and_shared_memory_counts(replay):
    memory, cpu_s = replay.reader.read()
    assert memory == Memory(4000 * KIB, 200 * KIB, 1200 * KIB, None, 1200 * KIB)
    assert cpu_s == pytest.approx(170 * TICK_S)


@pytest.mark.parametrize("whole", [True, False])
def test_what_exited_children_used_stays_counted(replay, whole):
    replay.reader.read()
    end(replay.proc, 11)
    memory, cpu_s = replay.reader.read(whole)
    assert memory.anon_bytes == 3000 * KIB and replay.reader.pids() == [10]
    assert cpu_s == pytest.approx(170 * TICK_S)
    assert replay.reader.read(whole)[1] == pytest.approx(170 * TICK_S)  # and is not counted again


def test_a_quick_reading_is_of_now(replay):
    replay.reader.read()
    plant_process(replay.proc, 11, cpu=(80, 0, 0, 0), kib=(9000, 8000, 300, 100))
    memory, cpu_s = replay.reader.read(whole=False)
    assert memory == Memory(11000 * KIB, 200 * KIB, 1200 * KIB, None, 1200 * KIB) and cpu_s == pytest.approx(
        200 * TICK_S
    )


@pytest.mark.parametrize(
    ("file_kib", "pss_kib", "expected_kib"),
    [
        ((5000, 5000), (2500, 2500), 5000),  # the same libraries
        ((5000, 5000), (5000, 5000), 10000),  # a mapping that was divided among processes
        ((5000, 5000), (1000, 1000), 5000),  # libraries that others use as well
        ((5000, 5000), (None, None), 10000),  # not told
        ((5000, 900), (2500, 450), 5900),  # not worth the walk
    ],
)
def test_file_pages_that_several_processes_map_count_once(tmp_path, file_kib, pss_kib, expected_kib):
    for pid, file, pss in zip((10, 11), file_kib, pss_kib, strict=True):
        plant_process(tmp_path, pid, kib=(9000, 100, file, 0), pss_kib=pss)
    reader = ProcReader(lambda: [10, 11], 10, tmp_path)
    memory, _ = reader.read()
    reader.close()
    assert memory.mapped_bytes == expected_kib * KIB and memory.file_bytes == sum(file_kib) * KIB


def test_huge_pages_and_swap_count(replay):
    plant_process(replay.proc, 11, swap_kib=300, huge_kib=2048)
    plant_process(replay.proc, 10, swap_kib=5)
    memory, _ = replay.reader.read()
    assert (memory.swap_bytes, memory.huge_bytes) == (305 * KIB, 2048 * KIB)


def test_the_high_water_mark_is_the_largest_process_without_file_pages(replay):
    replay.reader.read()
    plant_process(replay.proc, 11, kib=(9500, 1000, 700, 100))
    replay.reader.read()
    plant_process(replay.proc, 11, kib=(9500, 1000, 200, 100))
    replay.reader.read()
    end(replay.proc, 11)
    replay.reader.read()
    assert replay.reader.high_water_bytes() == (9500 - 700) * KIB


def test_children_are_found_at_the_next_reading_without_listing_proc(tmp_path, monkeypatch):
    lists = []
    monkeypatch.setattr(readers, "LIST_NS", 10**13)
    plant(tmp_path, {"sys/kernel/ns_last_pid": "10"})
    plant_process(tmp_path, 10)
    reader = ProcReader(lambda: lists.append(1) or [10], 10, tmp_path)
    reader.read()
    plant(tmp_path, {"sys/kernel/ns_last_pid": "13"})
    plant_process(tmp_path, 11, parent=10, session=11)
    plant_process(tmp_path, 12, parent=1, session=1)
    reader.read()
    assert reader.pids() == [10, 11] and len(lists) == 1
    plant_process(tmp_path, 13, parent=11, session=13)  # appeared a moment after its pid was given out
    reader.read()
    assert reader.pids() == [10, 11, 13]
    reader._list_after_ns = 0
    reader.read(), reader.read()
    assert len(lists) == 2  # once more, so that the runner knows them as well
    reader.close()


def test_without_the_last_pid_proc_is_listed_at_intervals(tmp_path):
    lists = []
    plant_process(tmp_path, 10)
    reader = ProcReader(lambda: lists.append(1) or [10], 10, tmp_path)
    reader.read(), reader.read()
    assert len(lists) == 1
    reader._list_after_ns = 0
    reader.read()
    assert len(lists) == 2
    reader.close()


def test_a_tree_that_is_gone_reads_as_none():
    assert ProcReader(lambda: []).read() is None
    assert ProcReader(lambda: []).high_water_bytes() is None


def test_processes_of_a_group_are_listed_where_one_is_new_and_else_seldom(tmp_path):
    group, lists = RunCgroup(2, tmp_path, tmp_path), []
    group.pids = lambda: lists.append(1) or [7]
    reader = CgroupReader(group)
    reader._new_pids.close()
    new = [range(0), range(0), range(0), range(7, 9), range(0), range(0), None, range(0)]
    reader._new_pids = SimpleNamespace(since=lambda: new.pop(0), close=lambda: None)
    counts = [(reader.pids(), len(lists))[1] for _ in range(8)]
    assert counts == [1, 1, 1, 2, 3, 3, 4, 5]  # and once more, as one may enter a moment after its pid was given out
    reader.close()


def test_a_process_that_left_the_group_is_found_through_its_parent(tmp_path):
    program = ["sh", "-c", "sleep 60 & echo $!; wait"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        stray = int(run.stdout.readline())
        group = RunCgroup(2, tmp_path, tmp_path)
        group.pids = lambda: [run.pid]
        reader = CgroupReader(group, SimpleNamespace(pid=run.pid, pids=lambda: {run.pid}, orphans=set))
        reader._new_pids.close()
        new = [range(run.pid, stray + 1), range(0)]
        reader._new_pids = SimpleNamespace(since=lambda: new.pop(0), close=lambda: None)
        seen = [(reader.pids(), set(reader.outside)) for _ in range(2)]
        os.killpg(run.pid, signal.SIGKILL)
    assert seen == [([run.pid, stray], set()), ([run.pid, stray], {stray})]  # one that is being born is in no list, too
    reader.close()


def test_a_group_reads_as_what_it_is_until_it_is_gone(tmp_path):
    folder = plant(tmp_path / "group", V2_FILES)
    reader = CgroupReader(RunCgroup(2, folder, folder))
    memory, cpu_s = reader.read()
    assert (memory.shmem_bytes, cpu_s, reader.source) == (1048576, pytest.approx(1.7345), "cgroup v2")
    assert reader.pids() == [4711, 4712]
    reader.close()
    folder.rename(tmp_path / "gone")
    assert reader.read() is None


@pytest.mark.parametrize(("to_us", "listed"), [(True, 2), (False, 1)])
def test_a_process_that_has_lost_its_parent_to_us_is_looked_for(tmp_path, monkeypatch, to_us, listed):
    monkeypatch.setattr(readers, "LIST_NS", 0)
    plant_process(tmp_path, 10, cpu=(1, 0, 0, 0), kib=(5000, 3000, 900, 100))
    plant_process(
        tmp_path, 12, cpu=(1, 0, 0, 0), kib=(5000, 3000, 900, 100), parent=os.getpid() if to_us else 1, session=9
    )
    lists, new = [], [range(0), range(12, 13), range(0)]
    reader = ProcReader(lambda: lists.append(1) or [10], 10, tmp_path)
    reader._new_pids.close()
    reader._new_pids = SimpleNamespace(since=lambda: new.pop(0), close=lambda: None)
    for _ in range(3):
        reader.read()
    assert len(lists) == listed
    reader.close()


def test_quick_readings_look_at_the_processes_of_a_group_at_intervals(tmp_path, monkeypatch):
    group, looks = RunCgroup(2, tmp_path, tmp_path), []
    monkeypatch.setattr(group, "read_memory", lambda whole: Memory(0, 0, 0, None, 0))
    monkeypatch.setattr(group, "cpu_s", lambda: 0.0)
    reader = CgroupReader(group)
    monkeypatch.setattr(reader, "_read_processes", lambda memory, whole: looks.append(whole))
    reader.read(), reader.read(whole=False), reader.read(whole=False)
    assert looks == [True]
    reader._read_after_ns = 0
    reader.read(whole=False)
    assert looks == [True, False]
    reader.close()
