"""Memory and CPU time of a process tree from /proc: the fallback where no cgroup can be made.

The files are read by our own code: psutil takes 0.84 ms of CPU a sample of four processes, this 0.14 ms.

Limits: children that start and end between two samples are missed, memory shared between processes counts in each.
"""

import os
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from morocco_lib.monitors.cgroup import PROC
from morocco_lib.monitors.open_files import OpenFiles

MAX_NEW = 300
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_MEMORY = re.compile(
    rb"VmHWM:\s*(\d+) kB\nVmRSS:.*\nRssAnon:\s*(\d+) kB\nRssFile:\s*(\d+) kB\nRssShmem:\s*(\d+) kB"
    rb"(?:\n(?:Vm.*\n)*?VmSwap:\s*(\d+) kB\nHugetlbPages:\s*(\d+) kB)?"
)
_PSS_FILE = re.compile(rb"\nPss_File:\s*(\d+) kB")
MOVED_BYTES = 2**20  # of what is mapped between two readings; then the quick one does not do
_OCTAL = re.compile(r"\\([0-7]{3})")  # a blank in mountinfo
_TGID = re.compile(rb"^Tgid:\s*(\d+)", re.M)


def mounts(pid: int | str = "self") -> list[tuple[str, str, str, str]]:
    """Return (device, root, place, kind of file system) of each mount that a process sees; raises OSError."""
    with open(f"{PROC}/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = [[_OCTAL.sub(lambda code: chr(int(code[1], 8)), word) for word in line.split()] for line in file]
    return [(words[2], words[3], words[4], words[words.index("-") + 1]) for words in lines]


# -- which processes -----------------------------------------------------------------------------------------------
def read_stat(pid: int | str, proc: Path = PROC) -> tuple[str, list[str]] | None:
    """Return a process's name and what follows it in /proc/PID/stat, None when there is no such process."""
    try:
        with open(f"{proc}/{pid}/stat", errors="replace") as file:
            head, _, tail = file.read().rpartition(")")  # the name may hold spaces and brackets
    except OSError:
        return None
    return head.partition("(")[2], tail.split()


def stat_fields(pid: int | str, proc: Path = PROC) -> list[str] | None:
    """Return what follows the name in /proc/PID/stat, None when there is no such process."""
    stat = read_stat(pid, proc)
    return stat and stat[1]


def start_ticks(pid: int, proc: Path = PROC) -> int | None:
    """Return when a process started, in clock ticks since boot: with the pid it identifies one process."""
    fields = stat_fields(pid, proc)
    return int(fields[19]) if fields else None


def is_running(pid: int, ticks: int | None, proc: Path = PROC) -> bool:
    """Tell whether the process that had this pid and start still runs; a zombie does not."""
    fields = stat_fields(pid, proc)
    return bool(fields) and fields[0] not in "ZX" and int(fields[19]) == ticks


def exit_status(pid: int, proc: Path = PROC) -> int | None:
    """Return the wait status of a process that has ended, None where its parent has waited for it already.

    Limits: of another user's process only root is shown it; to others it is None.
    """
    fields = stat_fields(pid, proc)
    try:
        hidden = os.geteuid() not in (0, os.stat(proc / str(pid)).st_uid)  # then the kernel shows 0
    except OSError:
        return None
    return int(fields[49]) if fields and fields[0] == "Z" and not hidden else None


def tree(root_pid: int, known: Mapping[int, int] = MappingProxyType({}), proc: Path = PROC) -> dict[int, int]:
    """Return {pid: start in clock ticks} of the root's session, of the known processes and of all their descendants.

    Args:
        known: Processes found earlier, in the same form; those with the same start are still the same process.
    """
    parent, session, start = {}, {}, {}
    for entry in os.scandir(proc):
        if entry.name.isdigit() and (fields := stat_fields(entry.name, proc)) and fields[0] not in "ZX":
            pid = int(entry.name)
            parent[pid], session[pid], start[pid] = int(fields[1]), int(fields[3]), int(fields[19])
    found = {pid for pid in parent if pid == root_pid or session[pid] == root_pid or start[pid] == known.get(pid)}
    while more := {pid for pid in parent if parent[pid] in found} - found:
        found |= more
    return {pid: start[pid] for pid in found}


def children(pid: int, proc: Path = PROC) -> list[int]:
    """Return the processes whose parent this is now, those that have ended and were not waited for included."""
    try:
        return [int(child) for task in os.scandir(f"{proc}/{pid}/task") for child in _words(f"{task.path}/children")]
    except OSError:  # the kernel has no such file
        listed = (int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit())
        return [child for child in listed if (fields := stat_fields(child, proc)) and int(fields[1]) == pid]


def _words(path: str) -> list[str]:
    with open(path) as file:
        return file.read().split()


class NewPids:
    """Reads which pids were given out since the last call: microseconds, where listing /proc takes milliseconds."""

    def __init__(self, proc: Path = PROC):
        self._file, self._files = f"{proc}/sys/kernel/ns_last_pid", OpenFiles()
        self._last = self._read()

    def _read(self) -> int | None:
        try:
            return int(self._files.read(self._file))
        except (OSError, ValueError):
            return None

    def since(self) -> range | None:
        """Return the pids in their order, None where that is not known."""
        before, self._last = self._last, self._read()
        if before is None or self._last is None or not 0 <= self._last - before <= MAX_NEW:
            return None  # numbering restarted, or so many that listing /proc is as quick
        return range(before + 1, self._last + 1)

    def close(self) -> None:
        self._files.close()


def belongs(pid: int, known: Collection[int], root: int | None, proc: Path = PROC) -> bool | None:
    """Tell whether a pid is a process whose parent is known, or of the root's session; None when there is none."""
    fields = stat_fields(pid, proc)
    if fields is None:
        return None
    if fields[0] in "ZX" or not (int(fields[1]) in known or int(fields[3]) == root):
        return False
    try:
        with open(f"{proc}/{pid}/status", "rb") as file:
            group = _TGID.search(file.read())
    except OSError:
        return None
    return group is not None and int(group[1]) == pid  # each thread has a pid as well


# -- what a process uses -------------------------------------------------------------------------------------------
class Reading(NamedTuple):
    """One process alone: resident memory, its high-water mark (file pages included), and CPU time so far."""

    anon_bytes: int
    shmem_bytes: int
    file_bytes: int
    high_water_bytes: int
    cpu_s: float
    swap_bytes: int = 0
    huge_bytes: int = 0


class ProcessFiles(NamedTuple):
    """What is read of a process: three files, and its CPU clock (None for a /proc of a test)."""

    stat: str
    status: str
    statm: str
    clock: int | None

    @classmethod
    def of(cls, pid: int, proc: Path = PROC) -> "ProcessFiles":
        # linux/posix-timers.h: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED); it counts nanoseconds, where stat counts ticks
        clock = (~pid << 3) | 2 if proc == PROC else None
        return cls(f"{proc}/{pid}/stat", f"{proc}/{pid}/status", f"{proc}/{pid}/statm", clock)


def read(process: ProcessFiles, files: OpenFiles) -> Reading | None:
    """Return what a process holds and has used, None when it has ended or is a thread of the kernel.

    CPU time of its children is not in it, or it would count twice.
    """
    try:
        found = _MEMORY.search(files.read(process.status))
        if found is None:
            return None
        high_water, anon, file, shmem, swap, huge = (int(kib or 0) * 1024 for kib in found.groups())
        ticks_s = _cpu_s(files.read(process.stat))
    except OSError:
        return None
    cpu_s = _clock_s(process.clock)
    return Reading(anon, shmem, file, high_water, ticks_s if cpu_s is None else cpu_s, swap, huge)


def read_quick(last: Reading | None, process: ProcessFiles, files: OpenFiles) -> Reading | None:
    """Return what `read` does at half the cost; shared memory, high-water mark, swap and huge pages are the last ones.

    Without a last one, or where much was mapped since, which may be shared memory, it is `read`.
    """
    if last is None:
        return read(process, files)
    try:
        _, resident, shared, _ = files.read(process.statm).split(None, 3)
        if resident == b"0":  # a zombie
            return None
        mapped = int(shared) * PAGE_BYTES
        if abs(mapped - last.shmem_bytes - last.file_bytes) > MOVED_BYTES:
            return read(process, files)
        cpu_s = _clock_s(process.clock)
        if cpu_s is None:
            cpu_s = _cpu_s(files.read(process.stat))
    except OSError:
        return None
    anon, file = int(resident) * PAGE_BYTES - mapped, max(0, mapped - last.shmem_bytes)
    return last._replace(anon_bytes=anon, file_bytes=file, cpu_s=cpu_s)


def pss_file_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Return a process's share of the file pages it has mapped, each divided by how many map it; None where it is hidden."""
    try:
        with open(f"{proc}/{pid}/smaps_rollup", "rb") as file:
            found = _PSS_FILE.search(file.read())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _clock_s(clock: int | None) -> float | None:
    try:
        return None if clock is None else time.clock_gettime(clock)
    except OSError:  # it has just ended, or the kernel keeps such clocks to their owners
        return None


def _cpu_s(stat: bytes) -> float:
    fields = stat[stat.rindex(b")") + 2 :].split(None, 13)
    return (int(fields[11]) + int(fields[12])) * TICK_S
