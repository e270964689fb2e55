"""Memory and CPU of a process tree from /proc: the fallback where no own cgroup can be made.

Limits: children that start and end between two samples are missed, memory shared between processes counts in each.
"""

import os
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from morocco_lib.monitors.cgroup import Io
from morocco_lib.monitors.open_files import OpenFiles

PROC = Path("/proc")
MOST_BORN = 300
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_MEMORY = re.compile(rb"VmHWM:\s*(\d+) kB\nVmRSS:.*\nRssAnon:\s*(\d+) kB\nRssFile:\s*(\d+) kB\nRssShmem:\s*(\d+) kB")
_TGID = re.compile(rb"^Tgid:\s*(\d+)", re.M)
_IO = re.compile(rb"read_bytes: (\d+)\nwrite_bytes: (\d+)")


def stat_fields(pid: int | str, proc: Path = PROC) -> list[str] | None:
    """Return what follows the name in /proc/PID/stat, None when there is no such process."""
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()  # the name before may hold spaces and brackets


def start_ticks(pid: int, proc: Path = PROC) -> int | None:
    """Return when a process started, in clock ticks since boot: with the pid it names one process for good."""
    fields = stat_fields(pid, proc)
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
        if entry.name.isdigit() and (fields := stat_fields(entry.name, proc)) and fields[0] not in "ZX":
            pid = int(entry.name)
            parent[pid], session[pid], start[pid] = int(fields[1]), int(fields[3]), int(fields[19])
    found = {pid for pid in parent if pid == root_pid or session[pid] == root_pid or start[pid] == known.get(pid)}
    grown = True
    while grown:
        more = {pid for pid in parent if parent[pid] in found} - found
        grown = bool(more)
        found |= more
    return {pid: start[pid] for pid in found}


class Reading(NamedTuple):
    """One process alone: resident memory, the high-water mark of it with file pages, CPU time and page faults so far."""

    anon_bytes: int
    shmem_bytes: int
    file_bytes: int
    high_water_bytes: int
    cpu_s: float
    minor_faults: int
    major_faults: int


class Places(NamedTuple):
    """Where a process is told of: three files, and its CPU clock (None for a /proc of a test)."""

    stat: str
    status: str
    statm: str
    clock: int | None

    @property
    def files(self) -> tuple[str, str, str]:
        return self[:3]


def places(pid: int, proc: Path = PROC) -> Places:
    """Return what `read` and `again` read."""
    # linux/posix-timers.h: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED); it counts nanoseconds, where stat counts ticks
    clock = (~pid << 3) | 2 if proc == PROC else None
    return Places(f"{proc}/{pid}/stat", f"{proc}/{pid}/status", f"{proc}/{pid}/statm", clock)


def read(places: Places, files: OpenFiles) -> Reading | None:
    """Return what a process holds and has used, None when it has ended or is a thread of the kernel.

    CPU time and faults of its children are not in it, or they would count twice.
    """
    try:
        found = _MEMORY.search(files.read(places.status))
        if found is None:
            return None
        mark, anon, file, shmem = (int(kib) * 1024 for kib in found.groups())
        ticks_s, minor, major = _times(files.read(places.stat))
    except OSError:
        return None
    cpu_s = _clock_s(places.clock)
    return Reading(anon, shmem, file, mark, ticks_s if cpu_s is None else cpu_s, minor, major)


def again(last: Reading, places: Places, files: OpenFiles) -> Reading | None:
    """Return what `read` does at a third of the cost; shared memory, the mark and the faults are those of the last reading."""
    try:
        _, resident, shared, _ = files.read(places.statm).split(None, 3)
        if resident == b"0":  # dead, and not waited for
            return None
        cpu_s = _clock_s(places.clock)
        if cpu_s is None:
            cpu_s = _times(files.read(places.stat))[0]
    except OSError:
        return None
    mapped = int(shared) * PAGE_BYTES
    anon, file = int(resident) * PAGE_BYTES - mapped, max(0, mapped - last.shmem_bytes)
    return Reading(anon, last.shmem_bytes, file, last.high_water_bytes, cpu_s, last.minor_faults, last.major_faults)


def _clock_s(clock: int | None) -> float | None:
    try:
        return None if clock is None else time.clock_gettime(clock)
    except OSError:  # gone in between, or a kernel that keeps such clocks to their owners
        return None


def _times(stat: bytes) -> tuple[float, int, int]:
    fields = stat[stat.rindex(b")") + 2 :].split(None, 13)
    return (int(fields[11]) + int(fields[12])) * TICK_S, int(fields[7]), int(fields[9])


def io_path(pid: int, proc: Path = PROC) -> str:
    """Return the file that `read_io` reads."""
    return f"{proc}/{pid}/io"


def read_io(pid: int, files: OpenFiles, proc: Path = PROC) -> Io | None:
    """Return what a process, and its children that it has waited for, read from and wrote to storage; None if hidden.

    A write counts when it is made, though it may reach the storage later.
    """
    try:
        found = _IO.search(files.read(io_path(pid, proc)))
    except OSError:
        return None
    return Io(int(found[1]), int(found[2])) if found else None


class Births:
    """Tells which pids were given out since the last look: microseconds, where a look through /proc takes milliseconds."""

    def __init__(self, proc: Path = PROC):
        self._file, self._files = f"{proc}/sys/kernel/ns_last_pid", OpenFiles()
        self._seen = self._last()

    def _last(self) -> int | None:
        try:
            return int(self._files.read(self._file))
        except (OSError, ValueError):
            return None

    def since(self) -> range | None:
        """Return the pids in their order, None where that is not known."""
        before, self._seen = self._seen, self._last()
        if before is None or self._seen is None or not 0 <= self._seen - before <= MOST_BORN:
            return None  # begun again from the lowest, or so many that looking through /proc is as quick
        return range(before + 1, self._seen + 1)

    def close(self) -> None:
        self._files.close()


def belongs(pid: int, known: Collection[int], root: int | None) -> bool | None:
    """Tell whether a pid is a process whose parent is known, or of the root's session; None when there is none."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return None
    state, parent, _, session, _ = stat[stat.rindex(b")") + 2 :].split(None, 4)
    if state in b"ZX" or not (int(parent) in known or int(session) == root):
        return False
    group = _TGID.search(_read(f"/proc/{pid}/status"))
    return group is not None and int(group[1]) == pid  # each thread has a pid as well


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""
    finally:
        os.close(fd)
