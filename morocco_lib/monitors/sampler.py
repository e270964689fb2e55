"""Reads memory and CPU time of a running program at a steady rate, and says how steadily it did."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Protocol

from morocco_lib.monitors import procfs
from morocco_lib.monitors.cgroup import Faults, Io, Memory, RunCgroup
from morocco_lib.monitors.open_files import OpenFiles
from morocco_lib.monitors.processes import Processes

WHOLE_NS = 290_000_000  # between two samples for which what costs more is read as well
FIND_NS = 90_000_000  # between two looks for new processes
ENDS_NS = 30_000_000  # and for those that have ended
IO_NS = 490_000_000  # between two readings of what went to and came from storage
LIST_NS = 990_000_000  # between two lists of the group's processes, though none was born
PERIOD_S = 0.02  # 50 Hz; benchmarks/monitor.py tells what a sample costs
GAP_PERIODS, GAP_S = 5, 0.1  # a time without samples that is longer than both is a gap


class Reader(Protocol):
    source: str
    faults: Faults | None  # page faults of the whole tree, as of the last reading

    def read(self, whole: bool = True) -> tuple[Memory, float] | None:
        """Return (memory, CPU seconds so far) of the whole tree, None when it is gone.

        Args:
            whole: False if what costs more than anonymous memory and CPU time may be that of the last whole reading.
        """

    def pids(self) -> list[int]:
        """Return the processes of the tree, at least those of the last reading."""

    def io(self) -> Io | None:
        """Return what the tree read from and wrote to storage, None where only its processes may tell."""

    def high_water_bytes(self) -> int | None:
        """Return what any single process must have held at its peak, files excluded; None if that is not known."""

    def close(self) -> None: ...


class CgroupReader:
    """Reads the run's own cgroup."""

    def __init__(self, group: RunCgroup):
        self.group, self.source, self.io = group, f"cgroup v{group.version}", group.io
        self._births, self._quiet, self._list_after_ns, self._listed = procfs.Births(), False, 0, []

    @property
    def faults(self) -> Faults | None:
        return self.group.faults

    def read(self, whole: bool = True) -> tuple[Memory, float] | None:
        try:
            return self.group.read_memory(whole), self.group.cpu_s()
        except OSError:  # the group is gone with the run
            return None

    def pids(self) -> list[int]:
        # Where no pid was given out nobody is new. One that was may enter the group a moment later: listed once more.
        born, t_ns = self._births.since(), time.monotonic_ns()
        quiet, before = born is not None and not born, self._quiet
        self._quiet = quiet
        if not (quiet and before and self._listed and t_ns < self._list_after_ns):
            self._listed, self._list_after_ns = self.group.pids(), t_ns + LIST_NS
        return self._listed

    def high_water_bytes(self) -> int | None:
        return None  # the group's own peak is read by the runner when the run has ended

    def close(self) -> None:
        self.group.close()
        self._births.close()


class ProcReader:
    """Reads /proc of every process in the tree; CPU time and page faults of processes that ended stay counted.

    Args:
        pids: Looks through /proc for the processes of the tree.
        root: The first of them, whose session is the tree's.
    """

    source = "proc"

    def __init__(self, pids: Callable[[], list[int]], root: int | None = None):
        self._look_through, self._root = pids, root
        self._known: dict[int, procfs.Places] = {}  # pid -> where it is told of
        self._last: dict[int, procfs.Reading] = {}
        self._ended_cpu_s, self._ended_faults = 0.0, Faults(0, 0)
        self._file_max, self._marks = {}, {}
        self._births, self._files = procfs.Births(), OpenFiles()
        self._unsure, self._look_after_ns, self._absent = True, 0, []

    @property
    def faults(self) -> Faults | None:
        if not self._marks:
            return None
        minor, major = self._ended_faults.minor, self._ended_faults.major
        last = self._last.values()
        return Faults(minor + sum(r.minor_faults for r in last), major + sum(r.major_faults for r in last))

    def pids(self) -> list[int]:
        return list(self._known)

    def io(self) -> None:
        return None

    def _find(self) -> None:
        # Looking through all of /proc costs a hundred times what reading a process or two does.
        born = self._births.since()
        self._unsure |= born is None
        absent = []
        for pid in [*self._absent, *(born or ())]:
            ours = procfs.belongs(pid, self._known, self._root)
            if ours:
                self._known[pid] = procfs.places(pid)
                self._unsure = True  # whoever looks through remembers it too, for when it leaves session and parent
            elif ours is None and pid not in self._absent:
                absent.append(pid)  # a process appears a moment after its pid was given out
        self._absent = absent
        if not self._known or (self._unsure and time.monotonic_ns() > self._look_after_ns):
            self._known |= {pid: procfs.places(pid) for pid in self._look_through()}
            self._unsure, self._look_after_ns = False, time.monotonic_ns() + FIND_NS

    def _forget(self, pid: int) -> None:
        for path in self._known.pop(pid).files:
            self._files.forget(path)
        if last := self._last.pop(pid, None):
            self._ended_cpu_s += last.cpu_s
            ended = self._ended_faults
            self._ended_faults = Faults(ended.minor + last.minor_faults, ended.major + last.major_faults)

    def read(self, whole: bool = True) -> tuple[Memory, float] | None:
        self._find()
        anon = shmem = file = 0
        cpu_s = self._ended_cpu_s
        for pid, places in list(self._known.items()):
            last = self._last.get(pid)
            reading = (
                procfs.again(last, places, self._files) if last and not whole else procfs.read(places, self._files)
            )
            if reading is None:
                cpu_s += last.cpu_s if last else 0.0
                self._forget(pid)
                continue
            self._last[pid] = reading
            anon, shmem, file = anon + reading.anon_bytes, shmem + reading.shmem_bytes, file + reading.file_bytes
            cpu_s += reading.cpu_s
            if reading.file_bytes > self._file_max.get(pid, -1):
                self._file_max[pid] = reading.file_bytes
            self._marks[pid] = reading.high_water_bytes
        return (Memory(anon, shmem, file), cpu_s) if self._known else None

    def high_water_bytes(self) -> int | None:
        # The mark counts file pages too; the most ever seen of them is taken off, so the rest is a floor.
        return max((self._marks[pid] - self._file_max[pid] for pid in self._marks), default=None)

    def close(self) -> None:
        self._files.close()
        self._births.close()


def reader_for(handle) -> CgroupReader | ProcReader:
    """Return the best reader a handle allows: its own cgroup, else /proc."""
    group = getattr(handle, "group", None)
    return CgroupReader(group.reader()) if group else ProcReader(handle.pids, handle.pid or None)


class Sampler:
    """Writes one JSON line a sample: {"t_ns", "anon_bytes", "shmem_bytes", "file_bytes", "kernel_bytes", "cpu_s", "mark"?}.

    Args:
        reader: Where the numbers come from.
        out: Text file for the samples.
        origin_ns: What `t_ns` counts from.
        period_s: Time between samples. With /proc, what of the memory is shared is read every 0.3 s and at the marks.
        processes: Looked at with every second sample.
    """

    def __init__(
        self,
        reader: Reader,
        out: IO[str],
        origin_ns: int,
        period_s: float = PERIOD_S,
        processes: Processes | None = None,
    ):
        self._reader, self._out, self._origin_ns, self._period_s = reader, out, origin_ns, period_s
        self._processes = processes
        self._lock, self._halted = threading.Lock(), False
        self._times: list[int] = []
        self._unwritten: list[tuple[int, Memory, float, str | None]] = []
        self._empty: list[int] = []  # when the reader had nothing, since it last had something
        self._whole_after_ns = self._find_after_ns = self._look_after_ns = self._io_after_ns = 0
        self._io, self._io_source = None, None
        self._at: dict[str, tuple[Faults | None, Io | None]] = {}  # the marks
        self._thread = threading.Thread(target=self._loop, name="morocco-sampler", daemon=True)
        self._cost_s = 0.0

    def start(self) -> None:
        self._began_ns = time.monotonic_ns()
        self._thread.start()

    def mark(self, name: str) -> None:
        """Take one sample now and name it; called at the moments that phases begin and end."""
        self._sample(name)

    def _loop(self) -> None:
        # What runs after a sleep runs without caches, five times as slow as again: there is little of it, and sleeping
        # costs two thirds of waiting for a lock.
        begin, due_s = time.thread_time(), time.monotonic()
        while not self._halted:
            self._sample()
            now_s = time.monotonic()
            due_s = max(due_s + self._period_s, now_s)  # late samples are not made up for
            time.sleep(due_s - now_s)
        self._cost_s = time.thread_time() - begin

    def _halt(self) -> None:
        self._halted = True

    def _sample(self, mark: str | None = None) -> None:
        with self._lock:
            t_ns = time.monotonic_ns()
            if whole := mark is not None or t_ns > self._whole_after_ns:
                self._whole_after_ns = t_ns + WHOLE_NS
            reading = self._reader.read(whole)
            if self._processes and (whole or t_ns > self._look_after_ns):
                self._look_after_ns = t_ns + ENDS_NS
                if find := whole or t_ns > self._find_after_ns:
                    self._find_after_ns = t_ns + FIND_NS
                self._processes.look(t_ns, find)
            if reading is None:
                self._empty.append(t_ns)
                return
            self._unwritten.append((t_ns, *reading, mark))
            if whole:
                self._write()
            if mark is None:
                self._times.append(t_ns)
                self._empty.clear()
            if mark or t_ns > self._io_after_ns:
                self._io_after_ns = t_ns + IO_NS
                self._read_io()
            if mark:
                self._at[mark] = self._reader.faults, self._io

    def _write(self) -> None:
        for t_ns, memory, cpu_s, mark in self._unwritten:
            kernel = "null" if memory.kernel_bytes is None else memory.kernel_bytes
            named = f', "mark": "{mark}"' if mark else ""
            self._out.write(  # by hand, for a tenth of what json takes
                f'{{"t_ns": {t_ns - self._origin_ns}, "anon_bytes": {memory.anon_bytes}, "shmem_bytes": {memory.shmem_bytes}, '
                f'"file_bytes": {memory.file_bytes}, "kernel_bytes": {kernel}, "cpu_s": {cpu_s}{named}}}\n'
            )
        self._unwritten.clear()

    def _read_io(self) -> None:
        if found := self._reader.io():
            self._io, self._io_source = found, "io.stat"
        elif self._processes and self._io_source != "io.stat":
            self._io, self._io_source = self._processes.io(), "proc"

    def used(self) -> dict[str, dict[str, Any]]:
        """Return {"faults": {"minor", "major", "source", "at"}, "io": {"read_bytes", "written_bytes", "source", "at"}}.

        They are totals as of the last sample, of storage up to 0.5 s before it; `at` holds them at the marks. Null where
        the kernel does not tell.
        """

        def fact(names: tuple[str, str], place: int, source: str | None) -> dict[str, Any]:
            at = {mark: used[place] and asdict(used[place]) for mark, used in self._at.items()}
            last = (self._reader.faults, self._io)[place]
            return {**(asdict(last) if last else dict.fromkeys(names)), "source": source if last else None, "at": at}

        return {
            "faults": fact(("minor", "major"), 0, self._reader.source),
            "io": fact(("read_bytes", "written_bytes"), 1, self._io_source),
        }

    def stop(self) -> dict[str, Any]:
        """Stop and return what the sampler says of itself: source, period, jitter, gaps, cost."""
        self._halt()
        stopped_ns = time.monotonic_ns()
        self._thread.join(10)
        with self._lock:
            self._write()
            high_water = self._reader.high_water_bytes()
            self._reader.close()
            if self._processes:
                self._processes.look(time.monotonic_ns())
                self._processes.close()
        moments = [*self._times, *self._empty]
        return {
            "source": self._reader.source,
            **steadiness(self._times, self._period_s, [self._began_ns, *moments, stopped_ns]),
            "cpu_s": self._cost_s,
            "high_water_bytes": high_water,
        }


def steadiness(times_ns: Sequence[int], period_s: float, moments_ns: Sequence[int]) -> dict[str, Any]:
    """Return what a sampler says of its rate: samples, periods, gaps, and the time watched. Pure.

    Args:
        times_ns: When samples were taken.
        moments_ns: These, when sampling began and stopped, and when there was nothing to read: a time without samples
            counts before the first and after the last too, as long as there was something to read.
    """
    periods = sorted((b - a) / 1e9 for a, b in itertools.pairwise(times_ns))
    limit_s = max(GAP_PERIODS * period_s, GAP_S)
    between = [(b - a) / 1e9 for a, b in itertools.pairwise(sorted(moments_ns))] if times_ns else []
    return {
        "samples": len(times_ns),
        "period_asked_s": period_s,
        "period_median_s": periods[len(periods) // 2] if periods else None,
        "period_p95_s": periods[int(len(periods) * 0.95)] if periods else None,
        "longest_gap_s": max(between, default=None),
        "gap_limit_s": limit_s,
        "gaps_s": sum(gap for gap in between if gap > limit_s) if between else None,
        "watched_s": sum(between) if between else None,
    }


def open_samples(path: Path) -> IO[str]:
    """Open the file of samples; line by line it reaches the disk when closed."""
    return path.open("w", encoding="utf-8")
