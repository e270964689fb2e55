"""Memory and CPU of a process tree from /proc: the fallback where no own cgroup can be made.

Limits: children that start and end between two samples are missed, memory shared between processes counts in each.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from morocco_lib.monitor.cgroup import Memory

PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def _stat(pid: int | str, proc: Path) -> list[str] | None:
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()  # the name before may hold spaces and brackets


def start_ticks(pid: int, proc: Path = PROC) -> int | None:
    """Return when a process started, in clock ticks since boot: with the pid it names one process for good."""
    fields = _stat(pid, proc)
    return int(fields[19]) if fields else None


def is_running(pid: int, ticks: int | None) -> bool:
    """Tell whether the process that had this pid and start runs; a zombie has both, and does not."""
    return ticks is not None and start_ticks(pid) == ticks and pid in tree(pid)


def tree(root_pid: int, known: Mapping[int, int] = MappingProxyType({}), proc: Path = PROC) -> dict[int, int]:
    """Return {pid: start in clock ticks} of the root's session, of the known processes and of all descendants that run now.

    Args:
        known: Processes seen earlier, in the same form; those that have the same start are the same process still.
    """
    parent, session, start = {}, {}, {}
    for entry in os.scandir(proc):
        if entry.name.isdigit() and (fields := _stat(entry.name, proc)) and fields[0] not in "ZX":
            pid = int(entry.name)
            parent[pid], session[pid], start[pid] = int(fields[1]), int(fields[3]), int(fields[19])
    found = {pid for pid in parent if pid == root_pid or session[pid] == root_pid or start[pid] == known.get(pid)}
    grown = True
    while grown:
        more = {pid for pid in parent if parent[pid] in found} - found
        grown = bool(more)
        found |= more
    return {pid: start[pid] for pid in found}


def read_memory(pids: list[int], proc: Path = PROC) -> dict[int, tuple[Memory, int]]:
    """Return for each process its resident memory and its high-water mark (VmHWM, files included) in bytes."""
    found = {}
    for pid in pids:
        status = _status(pid, proc)
        if b"RssAnon:" in status:
            memory = Memory(status[b"RssAnon:"], status[b"RssShmem:"], status[b"RssFile:"])
            found[pid] = memory, status.get(b"VmHWM:", 0)
    return found


def cpu_s(pids: list[int], proc: Path = PROC) -> float:
    """Return the CPU seconds of the processes; those of their children are not in it, or they would count twice."""
    ticks = 0
    for pid in pids:
        if fields := _stat(pid, proc):
            ticks += sum(int(f) for f in fields[11:13])
    return ticks * _TICK_S


def _status(pid: int, proc: Path) -> dict[bytes, int]:
    try:
        lines = (proc / str(pid) / "status").read_bytes().splitlines()
    except OSError:
        return {}
    return {parts[0]: int(parts[1]) * 1024 for line in lines if len(parts := line.split()) == 3 and parts[2] == b"kB"}
