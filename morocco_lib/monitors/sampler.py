"""Samples memory and CPU time of a running program at a steady rate."""

import time
from typing import IO, Any

from morocco_lib.monitors.cgroup import Memory
from morocco_lib.monitors.periodic import PERIOD_S, PeriodicSampler
from morocco_lib.monitors.processes import Processes
from morocco_lib.monitors.readers import Reader

WHOLE_NS = 290_000_000  # between two samples for which what costs more is read as well
FIND_NS = 90_000_000  # between two looks for new processes


class Sampler(PeriodicSampler):
    """Writes one JSON line a sample: {"t_ns", the fields of `Memory`, "cpu_s", "mark"?}.

    Args:
        reader: Where the numbers come from.
        out: Text file for the samples.
        origin_ns: What `t_ns` counts from.
        period_s: Time between samples. With /proc, shared memory is read every 0.3 s and at the marks.
        processes: Updated with every sample; new ones are looked for every 0.1 s.
    """

    def __init__(
        self,
        reader: Reader,
        out: IO[str],
        origin_ns: int,
        period_s: float = PERIOD_S,
        processes: Processes | None = None,
    ):
        super().__init__(period_s)
        self._reader, self._out, self._origin_ns, self._processes = reader, out, origin_ns, processes
        self.latest: tuple[int, float] | None = None  # (t_ns, CPU seconds so far) of the last sample
        self._unwritten: list[tuple[int, Memory, float, str | None]] = []
        self._empty_ns: list[int] = []  # when the reader had nothing, since it last had something
        self._whole_after_ns = self._find_after_ns = 0

    def mark(self, name: str) -> None:
        """Take one sample now and name it; called at the moments that phases begin and end."""
        self.sample(name)

    def sample(self, mark: str | None = None) -> None:
        with self._lock:
            t_ns = time.monotonic_ns()
            if whole := mark is not None or t_ns > self._whole_after_ns:
                self._whole_after_ns = t_ns + WHOLE_NS
            reading = self._reader.read(whole)
            if self._processes:
                if find := whole or t_ns > self._find_after_ns:
                    self._find_after_ns = t_ns + FIND_NS
                self._processes.update(t_ns, find)
            if reading is None:
                self._empty_ns.append(t_ns)
                return
            self.latest = t_ns, reading[1]
            self._unwritten.append((t_ns, *reading, mark))
            if whole:
                self._write()
            if not mark:
                self.times_ns.append(t_ns)
                self._empty_ns.clear()

    def _write(self) -> None:
        for t_ns, memory, cpu_s, mark in self._unwritten:
            kernel = "null" if memory.kernel_bytes is None else memory.kernel_bytes
            named = f', "mark": "{mark}"' if mark else ""
            self._out.write(  # a tenth of what json takes
                f'{{"t_ns": {t_ns - self._origin_ns}, "anon_bytes": {memory.anon_bytes}, "shmem_bytes": {memory.shmem_bytes}, '
                f'"file_bytes": {memory.file_bytes}, "kernel_bytes": {kernel}, "mapped_bytes": {memory.mapped_bytes}, '
                f'"huge_bytes": {memory.huge_bytes}, "swap_bytes": {memory.swap_bytes}, "cpu_s": {cpu_s}{named}}}\n'
            )
        self._unwritten.clear()

    def stop(self) -> dict[str, Any]:
        """Stop and return what `run.json` keeps of the sampler: source, period, jitter, gaps, cost."""
        stopped_ns = time.monotonic_ns()
        try:
            self.halt()
            with self._lock:
                self._write()
                high_water = None if self.failure else self._reader.high_water_bytes()
                if self._processes and not self.failure:
                    self._processes.update(time.monotonic_ns())
        finally:
            self._reader.close()
            if self._processes:
                self._processes.close()
        report = self.report(stopped_ns, self._empty_ns)
        return {"source": self._reader.source, **report, "high_water_bytes": high_water}
