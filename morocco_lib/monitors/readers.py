"""Memory and CPU time of a whole process tree now: from its own cgroup, or from /proc."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from morocco_lib.monitors import procfs
from morocco_lib.monitors.cgroup import PROC, Memory, RunCgroup
from morocco_lib.monitors.open_files import OpenFiles

LIST_NS = 90_000_000  # between two lists of all processes
RELIST_NS = 290_000_000  # between two lists of a group's processes though there was no new one
PROCESSES_NS = 190_000_000  # between two readings of a group's processes, for what they have mapped
SHARED_BYTES = 2**20  # less than this need not be told from what another process has mapped, too
CHANGE = 0.05  # of what is mapped, after which its shares are told anew
COST_CHANGED, COST = 0.05, 0.0005  # of the time, for telling them after a change, and at rest
COUNTED = ("anonymous", "shared", "mapped files", "huge pages", "swap")  # what makes up the memory that a run holds


class Reader(Protocol):
    source: str
    counted: tuple[str, ...]
    outside: set[int]  # processes of the run that were found outside its cgroup

    def read(self, whole: bool = True) -> tuple[Memory, float] | None:
        """Return (memory, CPU seconds so far) of the whole tree, None when it is gone.

        Args:
            whole: False if what costs more than anonymous memory and CPU time may be that of the last whole reading.
        """

    def pids(self) -> list[int]:
        """Return the processes of the tree, at least those of the last reading."""

    def high_water_bytes(self) -> int | None:
        """Return what any single process must have held at its peak, files excluded; None if that is not known."""

    def close(self) -> None: ...


class _MappedFiles:
    """Counts the file pages that the processes of a run have mapped: each page once, where that can be told.

    The sum of what each has mapped counts a library as often as it is used. The sum of their shares, in which a page is
    divided by all processes that map it, also those of others, is at least what the largest process has mapped. To tell its
    share the kernel walks through all pages of a process, so this is done after a change, and else seldom.
    """

    def __init__(self, proc: Path = PROC):
        self._proc, self._shares, self._together, self._told_ns, self._cost_ns = proc, 0, 0, 0, 0

    def bytes(self, readings: Mapping[int, procfs.Reading]) -> int:
        sizes = {pid: reading.file_bytes for pid, reading in readings.items()}
        largest, together = max(sizes.values(), default=0), sum(sizes.values())
        if together - largest < SHARED_BYTES:
            return together
        cost = COST_CHANGED if abs(together - self._together) > CHANGE * self._together else COST
        if time.monotonic_ns() > self._told_ns + self._cost_ns / cost:
            begin_ns = time.thread_time_ns()
            shares = [procfs.pss_file_bytes(pid, self._proc) for pid in sizes]
            self._shares = sum(sizes[pid] if s is None else s for pid, s in zip(sizes, shares, strict=True))
            self._cost_ns, self._told_ns = time.thread_time_ns() - begin_ns, time.monotonic_ns()
            self._together = together
        return max(largest, min(self._shares, together))


class CgroupReader:
    """Reads the run's own cgroup, and of its processes what they have mapped.

    Args:
        handle: Of a bare process, which may leave its group, as may its children: those are found through it, and what they
            hold is added. None for a container.
    """

    counted = (*COUNTED, "files in memory", "unwritten files")

    def __init__(self, group: RunCgroup, handle=None):
        self.group, self.source = group, f"cgroup v{group.version}"
        self._handle, self._recent, self._strays, self.outside = handle, [], set(), set()
        self._new_pids, self._quiet, self._list_after_ns, self._listed = procfs.NewPids(), False, 0, []
        self._files, self._mapped, self._read_after_ns = OpenFiles(), _MappedFiles(), 0
        self._last: dict[int, procfs.Reading] = {}
        self._held = {"mapped_bytes": 0, "huge_bytes": 0, "swap_bytes": 0}
        self._strays_hold = (0, 0)

    def read(self, whole: bool = True) -> tuple[Memory, float] | None:
        try:
            memory, cpu_s = self.group.read_memory(whole), self.group.cpu_s()
        except OSError:  # the group is gone with the run
            return None
        if whole or time.monotonic_ns() > self._read_after_ns:
            self._read_processes(memory, whole)
            self._read_after_ns = time.monotonic_ns() + PROCESSES_NS
        anon, shmem = self._strays_hold
        held = {"anon_bytes": memory.anon_bytes + anon, "shmem_bytes": memory.shmem_bytes + shmem, **self._held}
        return memory._replace(**held), cpu_s

    def _read_processes(self, memory: Memory, whole: bool) -> None:
        # After the group: what a process has mapped that ended in between is the group's no more.
        readings = {}
        # Else listed with every look for new ones.
        stale = not self._listed or time.monotonic_ns() > self._list_after_ns
        for pid in self.pids() if stale else self._listed:
            process = procfs.ProcessFiles.of(pid)
            reading = procfs.read_quick(None if whole else self._last.get(pid), process, self._files)
            if reading is None:
                for path in process[:3]:
                    self._files.forget(path)
            else:
                readings[pid] = reading
        for pid in self._last.keys() - readings.keys():
            for path in procfs.ProcessFiles.of(pid)[:3]:
                self._files.forget(path)
        self._last, last = readings, readings.values()
        strays = [readings[pid] for pid in self._strays & readings.keys()]
        self._strays_hold = sum(r.anon_bytes for r in strays), sum(r.shmem_bytes for r in strays)
        mapped, shmem = self._mapped.bytes(readings), sum(r.shmem_bytes for r in last)
        self._held = {
            "mapped_bytes": self.group.held_file_bytes(memory, mapped, shmem),
            "huge_bytes": sum(r.huge_bytes for r in last),
            "swap_bytes": sum(r.swap_bytes for r in last),
        }

    def pids(self) -> list[int]:
        # Without new pids no list is read, which saves a tenth of a sample's cost. A new process may enter the group a
        # moment after its pid was given out: listed once more.
        new, t_ns = self._new_pids.since(), time.monotonic_ns()
        quiet, was_quiet = new is not None and not new, self._quiet
        self._quiet = quiet
        if not (quiet and was_quiet and self._listed and t_ns < self._list_after_ns):
            members, self._list_after_ns = self.group.pids(), t_ns + RELIST_NS
            if self._handle and (members or self._listed):  # it has entered its group
                self._find_strays(new, members)
            self._listed = [*members, *self._strays]
        return self._listed

    def _find_strays(self, new: range | None, members: list[int]) -> None:
        # Those listed before, new ones with a parent of the run, and those that lost their parent.
        listed = {*self._listed, *members}
        recent = {*self._recent, *(new or ())}.difference(members)
        told = {pid: procfs.belongs(pid, listed, self._handle.pid) for pid in recent}
        self._recent = [pid for pid in new or () if pid in told and told[pid] is None]  # appears a moment after its pid
        found = {pid for pid, ours in told.items() if ours}
        found |= listed.union(self._handle.pids() if new is None else self._handle.orphans() if recent else ())
        found = {pid for pid in found.difference(members) if (f := procfs.stat_fields(pid)) and f[0] not in "ZX"}
        found = found.difference(self.group.pids()) if found else found  # born since
        self.outside |= found & self._strays  # found twice: one that is being born is in no list for a moment
        self._strays = found

    def high_water_bytes(self) -> int | None:
        return None  # the group's own peak is read by the runner when the run has ended

    def close(self) -> None:
        self.group.close()
        self._files.close()
        self._new_pids.close()


class ProcReader:
    """Reads /proc of every process in the tree; CPU time of processes that ended stays counted.

    Args:
        pids: Lists the processes of the tree.
        root: The first of them, whose session is the tree's.
    """

    source, counted, outside = "proc", COUNTED, frozenset()

    def __init__(self, pids: Callable[[], list[int]], root: int | None = None, proc: Path = PROC):
        self._list, self._root, self._proc = pids, root, proc
        self._known: dict[int, procfs.ProcessFiles] = {}
        self._last: dict[int, procfs.Reading] = {}
        self._ended_cpu_s = 0.0
        self._file_max, self._high_water = {}, {}
        self._new_pids, self._files, self._mapped = procfs.NewPids(proc), OpenFiles(), _MappedFiles(proc)
        self._unsure, self._list_after_ns, self._absent = True, 0, []

    def pids(self) -> list[int]:
        return list(self._known)

    def _find(self) -> None:
        # Listing all of /proc costs a hundred times what reading a process or two does.
        new = self._new_pids.since()
        self._unsure |= new is None
        absent = []
        for pid in [*self._absent, *(new or ())]:
            ours = procfs.belongs(pid, self._known, self._root, self._proc)
            if ours:
                self._known[pid] = procfs.ProcessFiles.of(pid, self._proc)
                self._unsure = True  # so that the runner's list learns of it before it may leave session and parent
            elif ours is None and pid not in self._absent:
                absent.append(pid)  # a process appears a moment after its pid was given out
            elif (fields := procfs.stat_fields(pid, self._proc)) and int(fields[1]) == os.getpid():
                self._unsure = True  # it may have lost its parent to us
        self._absent = absent
        if not self._known or (self._unsure and time.monotonic_ns() > self._list_after_ns):
            self._known |= {pid: procfs.ProcessFiles.of(pid, self._proc) for pid in self._list()}
            self._unsure, self._list_after_ns = False, time.monotonic_ns() + LIST_NS

    def _forget(self, pid: int) -> None:
        for path in self._known.pop(pid)[:3]:
            self._files.forget(path)
        if last := self._last.pop(pid, None):
            self._ended_cpu_s += last.cpu_s

    def read(self, whole: bool = True) -> tuple[Memory, float] | None:
        self._find()
        anon = shmem = file = 0
        cpu_s = 0.0
        for pid, process in list(self._known.items()):
            reading = procfs.read_quick(None if whole else self._last.get(pid), process, self._files)
            if reading is None:
                self._forget(pid)
                continue
            self._last[pid] = reading
            anon, shmem, file = anon + reading.anon_bytes, shmem + reading.shmem_bytes, file + reading.file_bytes
            cpu_s += reading.cpu_s
            if reading.file_bytes > self._file_max.get(pid, -1):
                self._file_max[pid] = reading.file_bytes
            self._high_water[pid] = reading.high_water_bytes
        if not self._known:
            return None
        last = self._last.values()
        huge, swap = sum(r.huge_bytes for r in last), sum(r.swap_bytes for r in last)
        return Memory(anon, shmem, file, None, self._mapped.bytes(self._last), huge, swap), self._ended_cpu_s + cpu_s

    def high_water_bytes(self) -> int | None:
        # The mark counts file pages too; the most ever seen of them is taken off, so the rest is a lower bound.
        return max((mark - self._file_max[pid] for pid, mark in self._high_water.items()), default=None)

    def close(self) -> None:
        self._files.close()
        self._new_pids.close()


def reader_for(handle) -> CgroupReader | ProcReader:
    """Return the best reader for a handle: of its own cgroup, else of /proc."""
    group = getattr(handle, "group", None)
    if group is None:
        return ProcReader(handle.pids, handle.pid or None)
    return CgroupReader(group.reader(), handle if hasattr(handle, "orphans") else None)
