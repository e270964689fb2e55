"""The original's published speeds beside the corrected ones: how far off, in which order, and checks by other rules.

What was lost shows in the logs twice, on the GPU and in RAM: the first sample of a single-record run finds a program
that has just begun (some MB), that of a longer run one that has loaded its libraries (some hundred MB).
"""

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median

from morocco_lib.errors import UsageError
from morocco_lib.legacy import logs, stats
from morocco_lib.legacy.corrected import LOADED_SHARE, Flag, Point, corrected, unflagged
from morocco_lib.legacy.logs import Log

RESAMPLES = 2000
CONFIRMED, UNCLEAR, REVERSED = "confirmed", "unclear", "reversed"


@dataclass(frozen=True)
class Cell:
    """A model on a task at the point of the published table, with its runs.

    Attributes:
        single, longer: Single-record runs and runs at the point.
        published: What the original makes of them by the rule of its table.
    """

    model: str
    task: str
    point: Point = field(repr=False)
    published: stats.Original
    single: tuple[Log, ...] = field(repr=False)
    longer: tuple[Log, ...] = field(repr=False)

    @property
    def good_single(self) -> list[Log]:
        """The single-record runs without a flag, which the corrected speed rests on."""
        return unflagged(self.single, self.point.findings)

    @property
    def good(self) -> list[Log]:
        """The longer runs without a flag."""
        return unflagged(self.longer, self.point.findings)

    @property
    def cold(self) -> int:
        """How many of the single-record runs started cold."""
        files = {finding.file for finding in self.point.findings if finding.flag is Flag.COLD}
        return sum(log.file in files for log in self.single)

    @property
    def inflation(self) -> float | None:
        """The published speed over the corrected one; None without either."""
        both = self.published.rps, self.point.per_s
        return None if None in both else both[0] / both[1]

    @cached_property
    def published_interval(self) -> tuple[float, float | None]:
        """The 95 % interval (low, high) of the original's own rule, from its own runs; high is None: no upper end.

        Percentile bootstrap (Efron, 1979), runs of each size drawn by themselves.
        Limits: of five runs it is rather too narrow; what is wrong with all of them alike it does not show.
        """
        generator = random.Random(1)
        single, longer = ([log.total_s for log in some] for some in (self.single, self.longer))
        left_s = sorted(
            median(generator.choices(longer, k=len(longer))) - median(generator.choices(single, k=len(single)))
            for _ in range(RESAMPLES)
        )
        low_s, high_s = left_s[round(0.025 * RESAMPLES)], left_s[round(0.975 * RESAMPLES) - 1]
        records = self.point.input_size
        return records / high_s if high_s > 0 else 0.0, records / low_s if low_s > 0 else None

    @property
    def ram_single_bytes(self) -> float | None:
        """Median RAM in the first sample of the single-record runs."""
        return _median(log.columns["ram"][0] for log in self.good_single)

    @property
    def ram_bytes(self) -> float | None:
        """The same of the longer runs."""
        return _median(log.columns["ram"][0] for log in self.good)

    @cached_property
    def ram_lost_s(self) -> float | None:
        """How long the single-record runs take to hold as much RAM as the longer ones do in their first sample.

        Limits: too long by up to a sampling gap, and by the RAM that a longer input takes.
        """
        least = self.ram_bytes
        return None if least is None else _median(log.first("ram", least) for log in self.good_single)

    @property
    def by_loaded(self) -> float | None:
        """Records a second with every clock started when the GPU holds 0.9 of what a single-record run does."""
        if self.point.onset_shift_s is None:
            return None
        loaded = LOADED_SHARE * median(log.gpu_ram_bytes for log in self.good_single)

        def after_s(logs: Iterable[Log]) -> float | None:
            starts = [(log.total_s, log.first("gpu_ram", loaded)) for log in logs]
            return _median(total_s - start_s for total_s, start_s in starts if start_s is not None)

        times = after_s(self.good), after_s(self.good_single)
        return None if None in times else self._rate(times[0] - times[1])

    @property
    def by_ram(self) -> float | None:
        """Records a second with the longer runs' clock set back by `ram_lost_s`: no reading of the GPU counts."""
        if self.ram_lost_s is None:
            return None
        total_s, single_s = (median(log.total_s for log in some) for some in (self.good, self.good_single))
        return self._rate(total_s + self.ram_lost_s - single_s)

    def _rate(self, seconds: float) -> float | None:
        return self.point.input_size / seconds if seconds > 0 else None

    def contains(self, per_s: float) -> bool:
        """Tell whether a speed is within the corrected 95 % interval."""
        low, high = self.point.low_per_s, self.point.high_per_s
        return low is not None and low <= per_s and (high is None or per_s <= high)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def read(path: Path) -> list[Cell]:
    """Return the cells of logs in a folder or archive that have runs at the point of the published table.

    Raises:
        UsageError: a log cannot be read, a cell has runs of one kind only, or none has runs at that point.
    """
    found = []
    for (model, task), members in logs.by_cell(logs.read_all([path])).items():
        single, longer = stats.split(members)
        longer = [log for log in longer if log.size == stats.POINT]
        if longer:
            (point,) = corrected(model, task, [*single, *longer])
            published = stats.original(members, "table")
            found.append(Cell(model, task, point, published, tuple(single), tuple(longer)))
    if not found:
        raise UsageError(f"no {'_'.join(map(str, stats.POINT))} run in {path}", rule="the table takes these alone")
    return found


@dataclass(frozen=True)
class Pair:
    """Two models on a task, the faster by what was published first.

    Attributes:
        order: `confirmed`: the corrected intervals do not overlap and are in the published order; `reversed`: they do
            not overlap and are in the other; `unclear`: they overlap, so the logs do not tell which is faster.
        published_apart: The intervals of the published speeds do not overlap.
    """

    task: str
    faster: str
    slower: str
    published_ratio: float
    corrected_ratio: float
    order: str
    published_apart: bool


def pairs(cells: Sequence[Cell]) -> list[Pair]:
    """Return every pair of models on each task that has both speeds, in order of task.

    Limits: no overlap is more than a significant difference; intervals that overlap may still hide one.
    """
    known = [cell for cell in cells if cell.inflation and cell.point.low_per_s is not None]
    found = []
    for task, of_task in itertools.groupby(sorted(known, key=lambda c: c.task), key=lambda c: c.task):
        for fast, slow in itertools.combinations(sorted(of_task, key=lambda c: -c.published.rps), 2):
            intervals = [(cell.point.low_per_s, cell.point.high_per_s) for cell in (fast, slow)]
            order = CONFIRMED if _above(*intervals) else REVERSED if _above(*intervals[::-1]) else UNCLEAR
            ratios = fast.published.rps / slow.published.rps, fast.point.per_s / slow.point.per_s
            apart = _above(fast.published_interval, slow.published_interval)
            found.append(Pair(task, fast.model, slow.model, *ratios, order, apart))
    return found


def _above(upper: tuple[float, float | None], lower: tuple[float, float | None]) -> bool:
    return lower[1] is not None and upper[0] > lower[1]
