"""The original's published speeds held against the corrected ones: how far off, in which order, and checks by other ways.

What was lost is seen in the logs twice over, on the GPU and in RAM: the first sample of a one-record run finds a program
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
from morocco_lib.legacy import files, logs, stats
from morocco_lib.legacy.corrected import Flag, Point, corrected
from morocco_lib.legacy.logs import KEYS, Log

RESAMPLES = 2000
LOADED_SHARE = 0.9  # of the GPU memory that a one-record run holds at most: the model is on the GPU
KEPT, OPEN, TURNED = "kept", "open", "turned"


@dataclass(frozen=True)
class Trace:
    """One run: its facts, and its samples as columns of `logs.KEYS`, seconds since the first sample in place of the time."""

    log: Log
    columns: list[list[float | None]] = field(repr=False)

    def first(self, key: str, least: float = 0.0) -> float | None:
        """Return seconds until a reading is at least `least`; None: it never is."""
        readings = zip(self.columns[0], self.columns[KEYS.index(key)], strict=True)
        return next((seconds for seconds, value in readings if value is not None and value >= least), None)

    def begins_with(self, key: str) -> float | None:
        """Return the reading of the first sample."""
        return self.columns[KEYS.index(key)][0]


@dataclass(frozen=True)
class Cell:
    """A model on a task at the point of the published table, with all its runs.

    Attributes:
        ones, longer, others: One-record runs, runs at the point, runs of other sizes; `good_ones` and `good` are those
            of the first two without a flag, which the corrected speed rests on.
        published: What the original makes of them by the rule of its table.
    """

    model: str
    task: str
    point: Point = field(repr=False)
    published: stats.Original
    ones: tuple[Trace, ...] = field(repr=False)
    longer: tuple[Trace, ...] = field(repr=False)
    others: tuple[Trace, ...] = field(repr=False)

    @cached_property
    def _odd(self) -> set[str | None]:
        return {finding.file for finding in self.point.findings}

    @cached_property
    def good_ones(self) -> list[Trace]:
        return [run for run in self.ones if run.log.place.file not in self._odd]

    @cached_property
    def good(self) -> list[Trace]:
        return [run for run in self.longer if run.log.place.file not in self._odd]

    @property
    def inflation(self) -> float | None:
        """The published speed over the corrected one."""
        both = self.published.rps, self.point.per_s
        return None if None in both else both[0] / both[1]

    def has(self, flag: Flag, run: Trace) -> bool:
        """Tell whether a run has a flag."""
        return any(finding.flag is flag and finding.file == run.log.place.file for finding in self.point.findings)

    @cached_property
    def published_interval(self) -> tuple[float, float | None]:
        """The 95 % interval (low, high) that the original's own runs give its own rule, by drawing from them again.

        Percentile bootstrap (Efron, 1979), runs of each size drawn by themselves; high is None: no end in sight.
        Limits: of five runs it is rather too narrow; what is wrong with all of them alike it does not see.
        """
        generator = random.Random(1)
        ones, longer = ([run.log.total_s for run in runs] for runs in (self.ones, self.longer))
        left_s = sorted(
            median(generator.choices(longer, k=len(longer))) - median(generator.choices(ones, k=len(ones)))
            for _ in range(RESAMPLES)
        )
        low_s, high_s = left_s[round(0.025 * RESAMPLES)], left_s[round(0.975 * RESAMPLES) - 1]
        records = self.point.input_size
        return records / high_s if high_s > 0 else 0.0, records / low_s if low_s > 0 else None


def read(path: Path) -> list[Cell]:
    """Return the cells of logs in a folder or archive that have runs at the point of the published table.

    Raises:
        UsageError: a log cannot be read, a cell has runs of one kind only, or none has runs at that point.
    """
    columns = {place.file: logs.series(place, file) for place, file in files.walk([path])}
    found = []
    for (model, task), members in logs.by_cell(logs.read_all([path])).items():
        ones, longer = stats.split(members)
        at_point = [log for log in longer if (log.place.input_size, log.place.batch_size) == stats.POINT]
        if not at_point:
            continue
        (point,) = corrected(model, task, [*ones, *at_point])
        others = [log for log in longer if log not in at_point]
        traces = [tuple(Trace(log, columns[log.place.file]) for log in some) for some in (ones, at_point, others)]
        found.append(Cell(model, task, point, stats.original(members, "table"), *traces))
    if not found:
        raise UsageError(f"no {'_'.join(map(str, stats.POINT))} run in {path}", rule="the table takes these alone")
    return found


# -- what was lost -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Lost:
    """How much start-up the longer runs' clock missed, seen in two ways.

    Attributes:
        onset_one_s, onset_s: Median first GPU sample of the one-record and of the longer runs.
        ram_one_bytes, ram_bytes: Median RAM in the first sample of these.
        ram_s: What the one-record runs take to hold as much RAM as the longer ones do in their first sample.
    """

    onset_one_s: float
    onset_s: float
    ram_one_bytes: float
    ram_bytes: float
    ram_s: float | None

    @property
    def gpu_s(self) -> float:
        """How much sooner the longer runs' GPU is seen."""
        return self.onset_one_s - self.onset_s


def lost(cell: Cell) -> Lost | None:
    """Return what a cell's longer runs lost; None without a run of each kind that saw the GPU.

    Limits: `ram_s` is too long by up to a gap between samples, and by what a longer input takes of RAM.
    """
    if not cell.good_ones or not cell.good:
        return None
    onsets = (_median(run.first("gpu_ram") for run in some) for some in (cell.good_ones, cell.good))
    rams = [_median(run.begins_with("ram") for run in some) for some in (cell.good_ones, cell.good)]
    return Lost(*onsets, *rams, _median(run.first("ram", rams[1]) for run in cell.good_ones))


def by_other_ways(cell: Cell) -> dict[str, float | None]:
    """Return the cell's speed by four rules that have little in common but the logs; None: these do not tell.

    `onset` is the corrected speed; `loaded` starts every clock when the GPU holds 0.9 of what a one-record run does;
    `ram` leaves the GPU out and sets the longer runs' clock back by `Lost.ram_s`; `marginal` leaves the one-record runs
    out: more records over more time from the onset between two input sizes of one batch size, where there are such logs.
    """
    found = lost(cell)
    if found is None:
        return dict.fromkeys(("onset", "loaded", "ram", "marginal"))
    loaded = LOADED_SHARE * _median(run.log.gpu_ram_bytes for run in cell.good_ones)
    total_s, one_s = (_median(run.log.total_s for run in runs) for runs in (cell.good, cell.good_ones))
    smaller = [run for run in cell.others if run.log.place.batch_size == cell.point.batch_size]
    size = max((run.log.place.input_size for run in smaller), default=0)
    smaller = [run for run in smaller if run.log.place.input_size == size]
    records = cell.point.input_size
    return {
        "onset": _rate(records, _from(cell.good), _from(cell.good_ones)),
        "loaded": _rate(records, _from(cell.good, loaded), _from(cell.good_ones, loaded)),
        "ram": _rate(records, None if found.ram_s is None else total_s + found.ram_s, one_s),
        "marginal": _rate(records - size, _from(cell.good), _from(smaller)),
    }


def _from(runs: Iterable[Trace], least: float = 0.0) -> float | None:
    """Return the median time from the sample in which the GPU holds at least so many bytes to the last one."""
    starts = [(run.log.total_s, run.first("gpu_ram", least)) for run in runs]
    return _median(total_s - start_s for total_s, start_s in starts if start_s is not None)


def _rate(records: int, many_s: float | None, few_s: float | None) -> float | None:
    return None if None in (many_s, few_s) or many_s <= few_s else records / (many_s - few_s)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


# -- cold starts ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Starts:
    """The one-record runs of a cell.

    Attributes:
        found, cold: How many, and how many of these with a cold start.
        times_fastest: The total time of each over the fastest one's, in the order of the runs.
    """

    found: int
    cold: int
    times_fastest: tuple[float, ...]

    @property
    def one_more_turns_the_median(self) -> bool:
        """With one cold start more their median, which the original subtracts, is that of a cold start."""
        return self.cold < self.found / 2 < self.cold + 1


def starts(cell: Cell) -> Starts:
    """Return how the one-record runs of a cell started; blind runs count, their time is known."""
    times = [run.log.total_s for run in cell.ones]
    cold = sum(cell.has(Flag.COLD, run) for run in cell.ones)
    return Starts(len(times), cold, tuple(t / min(times) for t in times))


# -- order ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Pair:
    """Two models on a task, the faster by what was published first.

    Attributes:
        order: `kept`: the corrected intervals are apart, in the published order; `turned`: apart, in the other; `open`:
            they overlap, so the logs do not tell which is faster.
        swapped: The corrected speeds by themselves stand in the other order.
        published_apart: The intervals of the published speeds are apart.
    """

    task: str
    faster: str
    slower: str
    published_ratio: float
    corrected_ratio: float
    order: str
    published_apart: bool

    @property
    def swapped(self) -> bool:
        return self.corrected_ratio < 1


def pairs(cells: Sequence[Cell]) -> list[Pair]:
    """Return every pair of models on each task that has both speeds, in order of task.

    Limits: intervals that are apart are more than a significant difference, those that overlap may still hide one.
    """
    told = [c for c in cells if c.inflation and c.point.low_per_s is not None]
    found = []
    for _, of_task in itertools.groupby(sorted(told, key=lambda c: c.task), key=lambda c: c.task):
        order = sorted(of_task, key=lambda c: -c.published.rps)
        for fast, slow in itertools.combinations(order, 2):
            intervals = [(c.point.low_per_s, c.point.high_per_s) for c in (fast, slow)]
            verdict = KEPT if _above(*intervals) else TURNED if _above(*intervals[::-1]) else OPEN
            ratios = fast.published.rps / slow.published.rps, fast.point.per_s / slow.point.per_s
            apart = _above(fast.published_interval, slow.published_interval)
            found.append(Pair(fast.task, fast.model, slow.model, *ratios, verdict, apart))
    return found


def _above(upper: tuple[float, float | None], lower: tuple[float, float | None]) -> bool:
    return lower[1] is not None and upper[0] > lower[1]
