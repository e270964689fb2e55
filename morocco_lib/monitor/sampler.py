"""Reads memory and CPU time of a running program at a steady rate, and says how steadily it did."""

import json
import threading
import time
from pathlib import Path
from typing import IO, Any, Protocol

from morocco_lib.monitor import proc
from morocco_lib.monitor.cgroup import Memory, RunCgroup

RESCAN_EVERY = 5  # samples between two looks for new processes where there is no cgroup
PERIOD_S = 0.02  # 50 Hz; a sample costs about 0.05 ms with a cgroup


class Reader(Protocol):
    source: str

    def read(self) -> tuple[Memory, float] | None:
        """Return (memory, CPU seconds so far) of the whole tree, None when it is gone."""

    def high_water_bytes(self) -> int | None:
        """Return what any single process must have held at its peak, files excluded; None if that is not known."""

    def close(self) -> None: ...


class CgroupReader:
    """Reads the run's own cgroup."""

    def __init__(self, group: RunCgroup):
        self.group, self.source = group, f"cgroup v{group.version}"

    def read(self) -> tuple[Memory, float] | None:
        try:
            return self.group.read_memory(), self.group.cpu_s()
        except OSError:  # the group is gone with the run
            return None

    def high_water_bytes(self) -> int | None:
        return None  # the group's own peak is read by the runner when the run has ended

    def close(self) -> None:
        self.group.close()


class ProcReader:
    """Reads /proc of every process in the tree; CPU time of processes that ended stays counted."""

    source = "proc"

    def __init__(self, pids):
        self._pids, self._cpu, self._file_max, self._marks = pids, {}, {}, {}
        self._known: list[int] = []
        self._reads = 0

    def read(self) -> tuple[Memory, float] | None:
        # Finding the tree reads all of /proc, a hundred times the cost of reading a process or two.
        if self._reads % RESCAN_EVERY == 0 or not self._known:
            self._known = self._pids()
        self._reads += 1
        found = proc.read_memory(self._known)
        if not found:
            return None
        for pid, (memory, mark) in found.items():
            self._file_max[pid] = max(self._file_max.get(pid, 0), memory.file_bytes)
            self._marks[pid] = max(self._marks.get(pid, 0), mark)
            self._cpu[pid] = proc.cpu_s([pid])
        total = Memory(
            *(sum(getattr(m, f) for m, _ in found.values()) for f in ("anon_bytes", "shmem_bytes", "file_bytes"))
        )
        return total, sum(self._cpu.values())

    def high_water_bytes(self) -> int | None:
        # The mark counts file pages too; the most ever seen of them is taken off, so the rest is a floor.
        return max((self._marks[pid] - self._file_max[pid] for pid in self._marks), default=None)

    def close(self) -> None:
        pass


def reader_for(handle) -> Reader:
    """Return the best reader a handle allows: its own cgroup, else /proc."""
    group = getattr(handle, "group", None)
    return CgroupReader(group.reader()) if group else ProcReader(handle.pids)


class Sampler:
    """Writes one JSON line a sample: {"t_ns", "anon_bytes", "shmem_bytes", "file_bytes", "kernel_bytes", "cpu_s", "mark"?}.

    Args:
        reader: Where the numbers come from.
        out: Text file for the samples.
        origin_ns: What `t_ns` counts from.
        period_s: Time between samples.
    """

    def __init__(self, reader: Reader, out: IO[str], origin_ns: int, period_s: float = PERIOD_S):
        self._reader, self._out, self._origin_ns, self._period_s = reader, out, origin_ns, period_s
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._times: list[int] = []
        self._thread = threading.Thread(target=self._loop, name="morocco-sampler", daemon=True)
        self._cost_s = 0.0

    def start(self) -> None:
        self._thread.start()

    def mark(self, name: str) -> None:
        """Take one sample now and name it; called at the moments that phases begin and end."""
        self._sample(name)

    def _loop(self) -> None:
        begin = time.thread_time()
        due = time.monotonic()
        while True:
            self._sample()
            self._cost_s = time.thread_time() - begin
            due = max(due + self._period_s, time.monotonic())  # late samples are not made up for
            if self._stop.wait(due - time.monotonic()):
                return

    def _sample(self, mark: str | None = None) -> None:
        with self._lock:
            t_ns = time.monotonic_ns()
            reading = self._reader.read()
            if reading is None:
                return
            memory, cpu_s = reading
            sample: dict[str, Any] = {"t_ns": t_ns - self._origin_ns, **memory.__dict__, "cpu_s": cpu_s}
            if mark:
                sample["mark"] = mark
            else:
                self._times.append(t_ns)
            self._out.write(json.dumps(sample) + "\n")

    def stop(self) -> dict[str, Any]:
        """Stop and return what the sampler says of itself: source, period, jitter, gaps, cost."""
        self._stop.set()
        self._thread.join(10)
        with self._lock:
            high_water = self._reader.high_water_bytes()
            self._reader.close()
        periods = sorted((b - a) / 1e9 for a, b in zip(self._times, self._times[1:], strict=False))
        return {
            "source": self._reader.source,
            "samples": len(self._times),
            "period_asked_s": self._period_s,
            "period_median_s": periods[len(periods) // 2] if periods else None,
            "period_p95_s": periods[int(len(periods) * 0.95)] if periods else None,
            "longest_gap_s": periods[-1] if periods else None,
            "cpu_s": self._cost_s,
            "high_water_bytes": high_water,
        }


def open_samples(path: Path) -> IO[str]:
    """Open the file of samples; line by line it reaches the disk when closed."""
    return path.open("w", encoding="utf-8")
