"""A thread that takes samples at a steady rate, and how steady it was."""

import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

PERIOD_S = 0.02  # 50 Hz; benchmarks/monitor.py measures what a sample costs
GAP_PERIODS, GAP_S = 5, 0.1  # a time without samples that is longer than both is a gap


class PeriodicSampler(ABC):
    """Calls `sample` every `period_s` seconds in a thread of its own, until `halt`.

    Where `sample` raises there are no more: the time without samples is a gap, and `report` says why. Where nothing can be
    written any more `on_refused` is called.
    """

    on_refused: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, period_s: float = PERIOD_S):
        self.period_s = period_s
        self.failure: Exception | None = None
        self.times_ns: list[int] = []  # of the samples taken; `sample` appends to it
        self.cost_s = 0.0
        self._lock, self._halted = threading.Lock(), False
        self._thread = threading.Thread(target=self._loop, name="morocco-sampler", daemon=True)

    @abstractmethod
    def sample(self) -> None:
        """Take one sample; called in the sampler's thread."""

    def start(self) -> None:
        self._began_ns = time.monotonic_ns()
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _loop(self) -> None:
        # After a sleep the caches are cold and code runs five times slower, so there is little of it here; sleeping
        # costs two thirds of waiting for a lock.
        began_s, due_s = time.thread_time(), time.monotonic()
        while not self._halted:
            try:
                self.sample()
            except Exception as error:
                self.failure = error
                if isinstance(error, OSError):
                    self.on_refused()
                break
            now_s = time.monotonic()
            due_s = max(due_s + self.period_s, now_s)  # late samples are not made up for
            time.sleep(due_s - now_s)
        self.cost_s = time.thread_time() - began_s

    def halt(self, timeout_s: float = 10.0) -> bool:
        """Stop sampling; return False if a sample hangs."""
        self._halted = True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def report(self, stopped_ns: int, empty_ns: Sequence[int] = ()) -> dict[str, Any]:
        """Return samples, periods, gaps and cost, as `run.json` keeps them.

        Args:
            empty_ns: When a sample found nothing to read.
        """
        moments_ns = [self._began_ns, *self.times_ns, *empty_ns, stopped_ns]
        found = {**steadiness(self.times_ns, self.period_s, moments_ns), "cpu_s": self.cost_s}
        return found | ({"failed": f"{type(self.failure).__name__}: {self.failure}"} if self.failure else {})


def steadiness(times_ns: Sequence[int], period_s: float, moments_ns: Sequence[int]) -> dict[str, Any]:
    """Return how steady samples were: their number, periods, gaps, and the time watched.

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
    """Open the file of samples; its lines reach the disk when it is closed."""
    return path.open("w", encoding="utf-8")
