"""What the original's logs say when they are read with care: speed with its interval, and what is wrong with a run.

The clock of every run starts at its first sample with GPU memory; cold, blind and truncated runs are left out:

    speed = records / (median aligned time of the longer runs - median aligned time of the warm single-record runs)

Its 95 % interval is Welch's t on the difference, with the variance of a median (at most pi / 2 times that of a mean of
as many normal values), and no median is taken as known better than the sampling steps allow.

Limits: a correction, not the truth; docs/original-logs.md says what these logs cannot tell.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median, variance
from typing import Any

from morocco_lib.legacy.logs import Log
from morocco_lib.legacy.stats import split

# COLD_EXCESS is of the fastest start-up: warm ones are within 10 % of each other, cold ones 1.25 to 4 times as long.
COLD_EXCESS = 0.25
COLD_SHARE = 0.05  # of the fastest run: below, a late start-up does not show among what equal runs differ by
TRUNCATED_SHARE = 0.75  # of the median: equal work differs by a few per cent, a run that is a quarter short did less
LOADED_SHARE = 0.9  # of the median GPU memory: a single-record run below it ended before the model was loaded
RUNS_TO_JUDGE = 3  # fewer do not tell which one is the outlier
SHIFT_GAPS = 2  # sampling gaps: an onset is known to one, so a difference of two to two
SHIFT_SPREADS = 4  # times the usual deviation of the onsets of equal runs from their median: less is chance


class Flag(StrEnum):
    """What is wrong with a run, or with the runs of a point together."""

    BLIND = "BLIND"
    TRUNCATED = "TRUNCATED"
    COLD = "COLD"
    CLOCK = "CLOCK"
    MISSING = "MISSING"
    ONSET_SHIFT = "ONSET_SHIFT"


MEANING = {
    Flag.BLIND: "no sample has GPU memory; the run has no onset, and the original counts its memory as 0",
    Flag.TRUNCATED: "it ended before its work was done",
    Flag.COLD: "it took far longer than the fastest of its kind, as when program and weights are read from disk, not from memory",
    Flag.CLOCK: "the wall clock went back during the run",
    Flag.MISSING: "the other input size of the task has a run that is missing here",
    Flag.ONSET_SHIFT: "the GPU is first held sooner in the longer runs: that much start-up was lost from their clock",
}


@dataclass(frozen=True)
class Finding:
    """One flag: where, and what was seen against which bound."""

    flag: Flag
    file: str | None  # None: of all runs of the point
    seen: str


@dataclass(frozen=True)
class Point:
    """A model on a task at one input size and batch size.

    Attributes:
        per_s, low_per_s, high_per_s: Records a second and its 95 % interval; None: `reason` says why, or one run alone
            gives no interval; `high_per_s` alone is None when the interval has no upper end.
        original_per_s: What the original makes of the same runs; None: no time is left after start-up.
        onset_shift_s: Median onset of the single-record runs less that of the longer ones.
        gpu_ram_bytes, gpu_ram_single_bytes: Median of the largest reading: at this point, and with one record.
        used, used_single: Longer and single-record runs that the speed rests on, of `runs` and `single`.
    """

    model: str
    task: str
    input_size: int
    batch_size: int
    per_s: float | None
    low_per_s: float | None
    high_per_s: float | None
    reason: str
    original_per_s: float | None
    onset_shift_s: float | None
    gpu_ram_bytes: float | None
    gpu_ram_single_bytes: float | None
    used: int
    runs: int
    used_single: int
    single: int
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return what --json prints."""
        speed: dict[str, Any] = {"value": self.per_s}
        if self.per_s is None:
            speed["reason"] = self.reason
        else:
            speed |= {"low": self.low_per_s, "high": self.high_per_s, "method": "aligned", "scope": "runs"}
        return {
            "model": self.model,
            "task": self.task,
            "input_size": self.input_size,
            "batch_size": self.batch_size,
            "speed_per_s": speed,
            "original_per_s": self.original_per_s,
            "onset_shift_s": self.onset_shift_s,
            "gpu_ram_bytes": self.gpu_ram_bytes,
            "gpu_ram_one_record_bytes": self.gpu_ram_single_bytes,
            "runs": {"found": self.runs, "used": self.used},
            "one_record_runs": {"found": self.single, "used": self.used_single},
            "flags": [{"flag": f.flag, "file": f.file, "seen": f.seen} for f in self.findings],
        }


def corrected(model: str, task: str, logs: Sequence[Log]) -> list[Point]:
    """Return a point for each input size and batch size above one record.

    Raises:
        UsageError: there is no single-record run, or no other.
    """
    single, longer = split(logs)
    of_single = _judge_single(single)
    sizes = sorted({log.size for log in longer})
    return [_point(model, task, single, of_single, [log for log in longer if log.size == size]) for size in sizes]


def _point(model: str, task: str, single: list[Log], of_single: list[Finding], runs: list[Log]) -> Point:
    warm = unflagged(single, of_single)
    findings = [*of_single, *_judge_longer(runs, warm), *_missing(single, runs)]
    good = unflagged(runs, findings)
    shift_s, shifted = _onset_shift(warm, good)
    input_size, batch_size = runs[0].size
    left_s = median(log.total_s for log in runs) - median(log.total_s for log in single)
    peaks, peaks_single = ([p for log in some if (p := log.gpu_ram_bytes) is not None] for some in (good, single))
    return Point(
        model, task, input_size, batch_size, *_speed(good, warm), input_size / left_s if left_s > 0 else None, shift_s,
        median(peaks) if peaks else None, median(peaks_single) if peaks_single else None,
        len(good), len(runs), len(warm), len(single), (*findings, *shifted),
    )  # fmt: skip


# -- flags ---------------------------------------------------------------------------------------------------------
def unflagged(logs: Iterable[Log], findings: Iterable[Finding]) -> list[Log]:
    """Return the logs of which there is no finding."""
    files = {finding.file for finding in findings}
    return [log for log in logs if log.file not in files]


def _judge_any(logs: Sequence[Log]) -> list[Finding]:
    blind = [log for log in logs if log.onset_s is None]
    back = [log for log in logs if log.went_back]
    return [
        *(Finding(Flag.BLIND, log.file, f"none of {log.samples} samples has GPU memory") for log in blind),
        *(Finding(Flag.CLOCK, log.file, "a timestamp is below the one before it") for log in back),
    ]


def _judge_single(single: Sequence[Log]) -> list[Finding]:
    # Truncated by memory: the times of warm and cold ones differ as much.
    held = {log.file: log.gpu_ram_bytes / 2**30 for log in single if log.gpu_ram_bytes is not None}
    text = "held {:.2f} GiB of GPU memory at most, below {:g} of the usual {:.2f}"
    findings = _judge_any(single) + _truncated(held, LOADED_SHARE, text)
    return findings + _cold(_whole(single, findings))


def _judge_longer(runs: Sequence[Log], warm: Sequence[Log]) -> list[Finding]:
    aligned = {log.file: log.aligned_s for log in runs if log.aligned_s is not None and not log.went_back}
    text = "ended {:.1f} s after its first GPU sample, below {:g} of the usual {:.1f} s"
    findings = _judge_any(runs) + _truncated(aligned, TRUNCATED_SHARE, text)
    return findings + _cold(_whole(runs, findings), min(log.total_s for log in warm)) if warm else findings


def _truncated(values: dict[str, float], share: float, text: str) -> list[Finding]:
    """Return the logs whose value is below a share of the median; `values` is by file."""
    if len(values) < RUNS_TO_JUDGE:
        return []
    usual = median(values.values())
    low = {file: value for file, value in values.items() if value < share * usual}
    return [Finding(Flag.TRUNCATED, file, text.format(value, share, usual)) for file, value in low.items()]


def _whole(logs: Sequence[Log], findings: Iterable[Finding]) -> list[Log]:
    return unflagged(logs, (finding for finding in findings if finding.flag in (Flag.TRUNCATED, Flag.CLOCK)))


def _cold(logs: Sequence[Log], start_s: float | None = None) -> list[Finding]:
    """Return the runs whose start-up took more than a quarter longer than the fastest, where that shows.

    Args:
        start_s: The fastest start-up; None: the fastest of these runs.
    """
    if not logs:
        return []
    aligned = [log for log in logs if log.onset_s is not None]  # a blind one may have ended anywhere
    fastest = min(log.total_s for log in aligned or logs)
    bound = max(COLD_EXCESS * (fastest if start_s is None else start_s), COLD_SHARE * fastest)
    rule = f"over {bound:.1f} s more than the fastest of its kind with {fastest:.1f} s"
    late = [log for log in logs if log.total_s - fastest > bound]
    return [Finding(Flag.COLD, log.file, f"took {log.total_s:.1f} s, {rule}") for log in late]


def _missing(single: Sequence[Log], runs: Sequence[Log]) -> list[Finding]:
    counts = f"{len(runs)} and {len(single)} runs"
    found = []
    for here, there in ((single, runs), (runs, single)):
        absent = {log.index for log in there} - {log.index for log in here}
        name = "_".join(map(str, here[0].size))
        found += [Finding(Flag.MISSING, None, f"{name}_{n:02d}.jsonl is missing ({counts})") for n in sorted(absent)]
    return found


def _onset_shift(warm: Sequence[Log], good: Sequence[Log]) -> tuple[float | None, list[Finding]]:
    if not warm or not good:
        return None, []
    single_s, long_s = (median(log.onset_s for log in logs) for logs in (warm, good))
    shift_s, gap_s = single_s - long_s, median(log.gap_s for log in (*warm, *good))
    spread_s = median(abs(log.onset_s - usual) for logs, usual in ((warm, single_s), (good, long_s)) for log in logs)
    if shift_s <= max(SHIFT_GAPS * gap_s, SHIFT_SPREADS * spread_s):
        return shift_s, []
    onsets = f"first GPU sample after {long_s:.1f} s, in single-record runs after {single_s:.1f} s"
    return shift_s, [Finding(Flag.ONSET_SHIFT, None, f"{onsets}: {shift_s:.1f} s are lost")]


# -- speed ---------------------------------------------------------------------------------------------------------
def _speed(good: Sequence[Log], warm: Sequence[Log]) -> tuple[float | None, float | None, float | None, str]:
    """Return (records a second, low, high, why there is none)."""
    if not good or not warm:
        return None, None, None, f"NO_{'RUN' if not good else 'WARM_START'}_LEFT"
    records = good[0].input_size
    seconds = median(log.aligned_s for log in good) - median(log.aligned_s for log in warm)
    if seconds <= 0:
        return None, None, None, "NO_TIME_LEFT"
    if min(len(good), len(warm)) < 2:
        return records / seconds, None, None, ""
    half_s = _half_width_s(good, warm)
    high = records / (seconds - half_s) if seconds > half_s else None
    return records / seconds, records / (seconds + half_s), high, ""


def _half_width_s(good: Sequence[Log], warm: Sequence[Log]) -> float:
    """Return half the 95 % interval of the difference of two medians of aligned times, of two runs or more each."""
    from scipy.special import stdtrit

    shares, bottom = [], 0.0
    for logs in (good, warm):
        # Samples come in steps, and so do times: a median of nearly equal ones is off by up to half a gap, however many.
        step = median(log.gap_s for log in logs) ** 2 / 12  # variance of what is spread evenly over a gap
        share = max(math.pi / 2 * variance(log.aligned_s for log in logs) / len(logs), step)
        shares.append(share)
        bottom += share**2 / (len(logs) - 1)
    freedom = max(1, int(sum(shares) ** 2 / bottom)) if bottom else 1
    return float(stdtrit(freedom, 0.975)) * math.sqrt(sum(shares))
