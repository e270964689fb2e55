"""Processes in /proc: recorded trees, and ourselves."""

import os
import subprocess
import sys

import pytest
from servers.trees import plant, plant_process

from morocco_lib.monitors import procfs
from morocco_lib.monitors.open_files import OpenFiles
from morocco_lib.monitors.procfs import ProcessFiles

MB = 10**6
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def files():
    opened = OpenFiles()
    yield opened
    opened.close()


def test_the_tree_holds_session_and_descendants_and_no_others(tmp_path):
    plant(tmp_path / "self", {})
    plant_process(tmp_path, 1, 0, 1)
    plant_process(tmp_path, 10, 1, 10, start=110)
    plant_process(tmp_path, 11, 10, 10, start=111)
    plant_process(tmp_path, 12, 11, 12)  # called setsid
    plant_process(tmp_path, 13, 12, 12)
    plant_process(tmp_path, 14, 1, 10)  # its parent has died
    plant_process(tmp_path, 15, 10, 10, state="Z")
    plant_process(tmp_path, 20, 1, 20)
    plant_process(tmp_path, 21, 20, 20, start=121)
    assert sorted(procfs.tree(10, proc=tmp_path)) == [10, 11, 12, 13, 14]
    assert procfs.tree(10, proc=tmp_path)[11] == 111
    # One found before belongs to the tree; one that has got its pid since does not.
    assert sorted(procfs.tree(10, {20: 100, 21: 99}, proc=tmp_path)) == [10, 11, 12, 13, 14, 20, 21]
    assert sorted(procfs.tree(10, {21: 121}, proc=tmp_path)) == [10, 11, 12, 13, 14, 21]
    assert sorted(procfs.tree(10, {21: 99}, proc=tmp_path)) == [10, 11, 12, 13, 14]


def test_a_process_is_itself_by_pid_and_start_and_a_zombie_does_not_run(tmp_path):
    plant_process(tmp_path, 10, start=110)
    plant_process(tmp_path, 11, start=110, state="Z", status=9)
    assert procfs.start_ticks(10, tmp_path) == 110 and procfs.start_ticks(12, tmp_path) is None
    running = [procfs.is_running(pid, ticks, tmp_path) for pid, ticks in [(10, 110), (10, 111), (11, 110), (12, None)]]
    assert running == [True, False, False, False]


def test_how_a_process_ended_is_read_until_its_parent_has_waited():
    for status, end in ((9, "kill -9 $$"), (3 << 8, "exit 3"), (0, "true")):
        program = subprocess.Popen(["sh", "-c", end])
        assert os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.exit_status(program.pid) == status
        program.wait()
        assert procfs.exit_status(program.pid) is None
    assert procfs.exit_status(os.getpid()) is None


def test_how_another_users_process_ended_is_not_taken_from_the_zeros_that_are_shown(tmp_path, monkeypatch):
    plant_process(tmp_path, 10, state="Z", status=9)
    assert procfs.exit_status(10, tmp_path) == 9
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    assert procfs.exit_status(10, tmp_path) is None


def test_memory_and_cpu_time_are_of_the_process_alone(tmp_path, files):
    plant_process(tmp_path, 10, cpu=(150, 25, 1000, 1000))
    plant(tmp_path / "11", {"status": "Name:\tkthread\n", "stat": ""})  # a kernel thread has no memory
    found = procfs.read(ProcessFiles.of(10, tmp_path), files)
    assert found == (3072000, 102400, 921600, 5120000, pytest.approx(175 * TICK_S), 0, 0)
    assert all(procfs.read(ProcessFiles.of(pid, tmp_path), files) is None for pid in (11, 12))


def test_a_quick_reading_has_new_memory_and_cpu_time(tmp_path, files):
    plant_process(tmp_path, 10, kib=(5000, 3000, 900, 100))
    before = procfs.read(ProcessFiles.of(10, tmp_path), files)
    plant_process(tmp_path, 10, kib=(9000, 7000, 1900, 100), cpu=(100, 20, 0, 0))
    quick = procfs.read_quick(before, ProcessFiles.of(10, tmp_path), files)
    assert quick == before._replace(anon_bytes=7000 * 1024, file_bytes=1900 * 1024, cpu_s=pytest.approx(120 * TICK_S))
    plant_process(tmp_path, 10, kib=(9000, 7000, 0, 100))
    assert procfs.read_quick(before, ProcessFiles.of(10, tmp_path), files).file_bytes == 0
    plant(tmp_path / "10", {"statm": "0 0 0 0 0 0 0\n"})
    assert procfs.read_quick(before, ProcessFiles.of(10, tmp_path), files) is None  # a zombie


def test_swap_and_huge_pages_are_read_and_an_older_kernel_has_none(tmp_path, files):
    plant_process(tmp_path, 10, swap_kib=70, huge_kib=4096)
    assert procfs.read(ProcessFiles.of(10, tmp_path), files)[-2:] == (70 * 1024, 4 * 2**20)
    text = (tmp_path / "10/status").read_text()
    plant(tmp_path / "10", {"status": text[: text.index("VmSwap")]})
    assert procfs.read(ProcessFiles.of(10, tmp_path), files)[-2:] == (0, 0)


def test_a_quick_reading_takes_no_shared_memory_for_mapped_files(tmp_path, files):
    plant_process(tmp_path, 10, kib=(5000, 3000, 900, 100))
    before = procfs.read(ProcessFiles.of(10, tmp_path), files)
    plant_process(tmp_path, 10, kib=(5000, 3000, 900, 9100))
    assert procfs.read_quick(before, ProcessFiles.of(10, tmp_path), files)[1:3] == (9100 * 1024, 900 * 1024)


HOLDS = """import time
print("waiting", flush=True)
input()
held = b"\\x01" * 50_000_000
while time.process_time() < 0.2:
    pass
print(time.process_time(), flush=True)
input()"""


def test_a_running_process_reads_as_it_is(files):
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        process = ProcessFiles.of(child.pid)
        assert child.stdout.readline() == b"waiting\n"
        before = procfs.read(process, files)
        child.stdin.write(b"\n")
        child.stdin.flush()
        said_s = float(child.stdout.readline())
        quick, whole = procfs.read_quick(before, process, files), procfs.read(process, files)
        clock_s = procfs._clock_s(process.clock)
    assert quick.anon_bytes - before.anon_bytes == pytest.approx(50 * MB, rel=0.1)
    assert quick.anon_bytes == pytest.approx(whole.anon_bytes, rel=0.02)
    assert 0 < before.cpu_s < 0.2 <= said_s <= quick.cpu_s <= whole.cpu_s <= clock_s < said_s + 0.05
    assert procfs._clock_s(None) is None


def test_children_are_those_that_have_this_parent_now(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as child:
        assert child.pid in procfs.children(os.getpid())
        child.kill()
    assert child.pid not in procfs.children(os.getpid())
    for pid, parent in ((10, 1), (11, 10), (12, 11)):  # of a kernel without lists of children
        plant_process(tmp_path, pid, parent=parent)
    assert procfs.children(10, tmp_path) == [11]


def test_new_pids_are_those_given_out_since(tmp_path):
    plant(tmp_path, {"sys/kernel/ns_last_pid": "100\n"})
    new = procfs.NewPids(tmp_path)
    ranges = []
    for last in ("100", "103", "900", "5", "6"):
        plant(tmp_path, {"sys/kernel/ns_last_pid": last})
        ranges.append(new.since())
    new.close()
    assert ranges == [range(101, 101), range(101, 104), None, None, range(6, 7)]
    assert procfs.NewPids(tmp_path / "none").since() is None


def test_a_new_process_is_ours_by_parent_or_session_and_a_thread_is_none(tmp_path):
    plant_process(tmp_path, 21, parent=10, session=21)
    plant_process(tmp_path, 22, parent=1, session=10)
    plant_process(tmp_path, 23, parent=1, session=1)
    plant_process(tmp_path, 24, parent=10, tgid=21)  # a thread
    plant_process(tmp_path, 25, parent=10, state="Z")
    assert [procfs.belongs(pid, {10}, 10, tmp_path) for pid in range(21, 27)] == [True, True, False, False, False, None]


def test_a_mount_on_a_folder_with_a_blank_is_read(tmp_path, monkeypatch):
    (tmp_path / "self").mkdir()
    line = r"36 35 98:0 /root\040of /mnt\040with\011tab rw,noatime master:1 - ext4 /dev/root rw" "\n"
    (tmp_path / "self/mountinfo").write_text(line)
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    assert procfs.mounts() == [("98:0", "/root of", "/mnt with\ttab", "ext4")]
