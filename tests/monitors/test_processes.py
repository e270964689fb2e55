"""How the processes of a run ended, and what they read and wrote."""

import os
import signal
import subprocess
import time

from morocco_lib.monitors.processes import MAX_KEPT, Processes
from morocco_lib.monitors.readers import ProcReader


def ended(*args: str) -> subprocess.Popen:
    """Start a program and return when it has ended and nobody has waited for it."""
    program = subprocess.Popen(args)
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    return program


def test_ends_are_recorded_once_with_signal_or_code():
    children = [
        subprocess.Popen(["sleep", "60"]),
        subprocess.Popen(["sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE),
    ]
    processes = Processes(lambda: [child.pid for child in children], origin_ns=5)
    processes.update(10)
    assert processes.pids == {child.pid for child in children} and processes.ended() == []
    children[0].kill(), children[1].stdin.close()
    for child in children:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    processes.update(25, find=False)
    processes.update(35)  # zombies are listed still
    first, second = (child.pid for child in children)
    assert sorted(processes.ended(), key=lambda end: end["pid"]) == sorted(
        [
            {"pid": first, "t_ns": 20, "signal": signal.SIGKILL, "code": None},
            {"pid": second, "t_ns": 20, "signal": None, "code": 3},
        ],
        key=lambda end: end["pid"],
    )
    processes.close()
    assert [child.wait() for child in children] == [-9, 3]


def test_where_the_parent_was_quicker_it_is_not_known_how_a_process_ended():
    child = subprocess.Popen(["sleep", "60"])
    processes = Processes(lambda: [child.pid], 0)
    processes.update(1)
    child.kill()
    child.wait()
    processes.update(2)
    assert processes.ended() == [{"pid": child.pid, "t_ns": 2, "signal": None, "code": None}]
    processes.close()


def test_ends_by_a_signal_are_not_crowded_out(monkeypatch):
    monkeypatch.setattr("morocco_lib.monitors.processes.MAX_KEPT", 3)
    assert MAX_KEPT >= 100
    programs = [ended("true") for _ in range(5)] + [ended("sh", "-c", "kill -9 $$")]
    processes = Processes(lambda: [program.pid for program in programs], 0)
    processes.update(1), processes.update(2)
    processes.close()
    assert [end["code"] for end in processes.ended()].count(0) == 3
    assert [end["signal"] for end in processes.ended() if end["signal"]] == [9]
    assert len([program.wait() for program in programs]) == 6


def test_no_descriptor_is_left_open():
    before = len(os.listdir("/proc/self/fd"))
    reader = ProcReader(lambda: [os.getpid(), 1], os.getpid())
    processes = Processes(reader.pids, 0)
    with subprocess.Popen(["true"]):
        reader.read(), processes.update(1)
        time.sleep(0.02)
        processes.update(2)
    assert len(os.listdir("/proc/self/fd")) > before
    reader.close(), processes.close()
    assert len(os.listdir("/proc/self/fd")) == before
