"""What the original's logs say when they are read with care: speed with its interval, and what is wrong with a run.

The original wrote the whole input before it looked at the clock. A long input blocks the writer until the model reads,
so part of the start-up is lost from the longer runs and still subtracted from them. Here the clock of every run starts
at its first sample with GPU memory instead, and cold, blind and truncated runs are left out:

    speed = records of a longer run / (median aligned time of these - median aligned time of the warm one-record runs)

Its 95 % interval is Welch's t on the difference, with the variance of a median (at most pi / 2 times that of a mean of
as many normal values), and no median taken as known better than the steps of sampling allow.

Limits: a correction, not the truth. The first GPU sample is when the GPU was first held, not when the model was ready;
what differs between start-ups after that (reading a long input, a first batch of 32 instead of 1) counts as work. The
record that a one-record run answers is taken for start-up, as in the original: 0.05 % of 2000. The runs of a cell are
of one machine and a day or two: nothing is known of others.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median, variance
from typing import Any

from morocco_lib.legacy.logs import Log
from morocco_lib.legacy.stats import split

COLD_EXCESS = (
    0.25  # of the fastest start-up: warm ones are within 10 % of each other, cold ones 1.25 to 4 times as long
)
COLD_SHARE = 0.05  # of the fastest run: below, a late start-up does not show among what equal runs differ by
TRUNCATED_SHARE = 0.75  # of the median: equal work differs by a few per cent, a run that is a quarter short did less
LOADED_SHARE = 0.9  # of the median GPU memory: a one-record run below it ended before the model was loaded
RUNS_TO_JUDGE = 3  # fewer do not tell which one is the odd one
SHIFT_GAPS = 2  # sampling gaps: an onset is known to one, so a difference of two to two
SHIFT_SPREADS = 4  # times what onsets of equal runs are usually off their median: less is chance
# Student's t, 97.5 %, for 1 to 30 degrees of freedom; the last for more, which is a little wide.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class Flag(StrEnum):
    """What is wrong with a run, or with the runs of a point together."""

    BLIND = "BLIND"
    TRUNCATED = "TRUNCATED"
    COLD = "COLD"
    CLOCK = "CLOCK"
    MISSING = "MISSING"
    ONSET_SHIFT = "ONSET_SHIFT"


MEANING = {
    Flag.BLIND: "no sample saw the GPU; the run has no onset, and the original counts its memory as 0",
    Flag.TRUNCATED: "it ended before its work was done",
    Flag.COLD: "it took far longer than the fastest of its kind, as when program and weights come from the disk, not from memory",
    Flag.CLOCK: "the wall clock went back during the run",
    Flag.MISSING: "a run that the other input size of the task has is not there",
    Flag.ONSET_SHIFT: "the GPU is first seen sooner in the longer runs: that much start-up was lost from their clock",
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
            gives no interval; `high_per_s` alone is None when the runs do not tell a speed from an endless one.
        original_per_s: What the original makes of the same runs; None: no time is left after start-up.
        onset_shift_s: Median onset of the one-record runs less that of the longer ones.
        gpu_ram_bytes, gpu_ram_one_bytes: Median of the largest reading: at this point, and with one record.
        used, used_ones: Longer and one-record runs that the speed rests on, of `runs` and `ones`.
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
    gpu_ram_one_bytes: float | None
    used: int
    runs: int
    used_ones: int
    ones: int
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
            "gpu_ram_one_record_bytes": self.gpu_ram_one_bytes,
            "runs": {"found": self.runs, "used": self.used},
            "one_record_runs": {"found": self.ones, "used": self.used_ones},
            "flags": [{"flag": f.flag, "file": f.file, "seen": f.seen} for f in self.findings],
        }


def corrected(model: str, task: str, logs: Sequence[Log]) -> list[Point]:
    """Return a point for each input size and batch size above one record.

    Raises:
        UsageError: there is no one-record run, or no other.
    """
    ones, longer = split(logs)
    sizes = sorted({(log.place.input_size, log.place.batch_size) for log in longer})
    of_ones = _judge_ones(ones)
    return [
        _point(model, task, ones, of_ones, [lo for lo in longer if (lo.place.input_size, lo.place.batch_size) == size])
        for size in sizes
    ]


def _point(model: str, task: str, ones: list[Log], of_ones: list[Finding], runs: list[Log]) -> Point:
    first = runs[0].place
    warm = _unflagged(ones, of_ones)
    findings = [*of_ones, *_judge_longer(runs, warm), *_missing(ones, runs)]
    good = _unflagged(runs, findings)
    shift_s, shifted = _onset_shift(warm, good)
    findings += shifted
    value, low, high, reason = _speed(good, warm)
    init_s = median(log.total_s for log in ones)
    left_s = median(log.total_s for log in runs) - init_s
    peaks, peaks_one = ([lo.gpu_ram_bytes for lo in some if lo.gpu_ram_bytes is not None] for some in (good, ones))
    return Point(
        model, task, first.input_size, first.batch_size, value, low, high, reason,
        first.input_size / left_s if left_s > 0 else None, shift_s,
        median(peaks) if peaks else None, median(peaks_one) if peaks_one else None,
        len(good), len(runs), len(warm), len(ones), tuple(findings),
    )  # fmt: skip


# -- judging -------------------------------------------------------------------------------------------------------
def _unflagged(logs: Iterable[Log], findings: Iterable[Finding]) -> list[Log]:
    odd = {finding.file for finding in findings}
    return [log for log in logs if log.place.file not in odd]


def _of_one_run(logs: Sequence[Log]) -> list[Finding]:
    blind = [
        Finding(Flag.BLIND, log.place.file, f"none of {log.samples} samples has GPU memory")
        for log in logs
        if log.onset_s is None
    ]
    back = "a timestamp is below the one before it"
    return blind + [Finding(Flag.CLOCK, log.place.file, back) for log in logs if log.went_back]


def _judge_ones(ones: Sequence[Log]) -> list[Finding]:
    findings = _of_one_run(ones)
    held = [log for log in ones if log.gpu_ram_bytes is not None]
    if len(held) >= RUNS_TO_JUDGE:  # their time tells nothing: warm ones are as much shorter than cold ones
        usual = median(log.gpu_ram_bytes for log in held)
        findings += [
            Finding(
                Flag.TRUNCATED,
                log.place.file,
                f"held {log.gpu_ram_bytes / 2**30:.2f} GiB of GPU memory at most, below {LOADED_SHARE:g} of the usual {usual / 2**30:.2f}",
            )
            for log in held
            if log.gpu_ram_bytes < LOADED_SHARE * usual
        ]
    return findings + _cold(_whole(ones, findings))


def _judge_longer(runs: Sequence[Log], warm: Sequence[Log]) -> list[Finding]:
    findings = _of_one_run(runs)
    aligned = [log for log in runs if log.aligned_s is not None and not log.went_back]
    if len(aligned) >= RUNS_TO_JUDGE:
        usual = median(log.aligned_s for log in aligned)
        findings += [
            Finding(
                Flag.TRUNCATED,
                log.place.file,
                f"ended {log.aligned_s:.1f} s after its first GPU sample, below {TRUNCATED_SHARE:g} of the usual {usual:.1f} s",
            )
            for log in aligned
            if log.aligned_s < TRUNCATED_SHARE * usual
        ]
    if not warm:
        return findings
    return findings + _cold(_whole(runs, findings), min(log.total_s for log in warm))


def _whole(logs: Sequence[Log], findings: Iterable[Finding]) -> list[Log]:
    odd = {finding.file for finding in findings if finding.flag in (Flag.TRUNCATED, Flag.CLOCK)}
    return [log for log in logs if log.place.file not in odd]


def _cold(logs: Sequence[Log], start_s: float | None = None) -> list[Finding]:
    """Return the runs whose start-up took more than a quarter longer than the fastest, where that shows.

    Args:
        start_s: The fastest start-up; left out, the fastest of these.
    """
    if not logs:
        return []
    seeing = [log for log in logs if log.onset_s is not None]  # a blind one may have ended anywhere
    fastest = min(log.total_s for log in seeing or logs)
    bound = max(COLD_EXCESS * (fastest if start_s is None else start_s), COLD_SHARE * fastest)
    return [
        Finding(
            Flag.COLD,
            log.place.file,
            f"took {log.total_s:.1f} s, over {bound:.1f} s more than the fastest of its kind with {fastest:.1f} s",
        )
        for log in logs
        if log.total_s - fastest > bound
    ]


def _missing(ones: Sequence[Log], runs: Sequence[Log]) -> list[Finding]:
    here, there = ({log.place.index for log in logs} for logs in (runs, ones))
    first, one = runs[0].place, ones[0].place
    names = [(f"{first.input_size}_{first.batch_size}", n) for n in there - here]
    names += [(f"{one.input_size}_{one.batch_size}", n) for n in here - there]
    pairs = f"{len(runs)} and {len(ones)} runs"
    return [Finding(Flag.MISSING, None, f"{name}_{n:02d}.jsonl is not there ({pairs})") for name, n in sorted(names)]


def _onset_shift(warm: Sequence[Log], good: Sequence[Log]) -> tuple[float | None, list[Finding]]:
    if not warm or not good:
        return None, []
    one_s, long_s = (median(log.onset_s for log in logs) for logs in (warm, good))
    gap_s = median(log.gap_s for log in (*warm, *good))
    spread_s = median(abs(log.onset_s - usual) for logs, usual in ((warm, one_s), (good, long_s)) for log in logs)
    if one_s - long_s <= max(SHIFT_GAPS * gap_s, SHIFT_SPREADS * spread_s):
        return one_s - long_s, []
    seen = f"first GPU sample after {long_s:.1f} s, in one-record runs after {one_s:.1f} s: {one_s - long_s:.1f} s are lost"
    return one_s - long_s, [Finding(Flag.ONSET_SHIFT, None, seen)]


# -- speed ---------------------------------------------------------------------------------------------------------
def _speed(good: Sequence[Log], warm: Sequence[Log]) -> tuple[float | None, float | None, float | None, str]:
    """Return (records a second, low, high, why there is none)."""
    if not good or not warm:
        return None, None, None, f"NO_{'RUN' if not good else 'WARM_START'}_LEFT"
    records = good[0].place.input_size
    seconds = median(log.aligned_s for log in good) - median(log.aligned_s for log in warm)
    if seconds <= 0:
        return None, None, None, "NO_TIME_LEFT"
    half = _half_width(good, warm)
    if half is None:
        return records / seconds, None, None, ""
    high = records / (seconds - half) if seconds > half else None
    return records / seconds, records / (seconds + half), high, ""


def _half_width(good: Sequence[Log], warm: Sequence[Log]) -> float | None:
    """Return half the 95 % interval of the difference of two medians, in seconds; None: a side has one run."""
    if min(len(good), len(warm)) < 2:
        return None
    shares, bottom = [], 0.0
    for logs in (good, warm):
        # Samples come in steps, and so do times: a median of nearly equal ones is off by up to half a gap, however many.
        step = median(log.gap_s for log in logs) ** 2 / 12  # variance of what is spread evenly over a gap
        share = max(math.pi / 2 * variance(log.aligned_s for log in logs) / len(logs), step)
        shares.append(share)
        bottom += share**2 / (len(logs) - 1)
    freedom = sum(shares) ** 2 / bottom if bottom else 1.0
    return T_975[min(len(T_975), max(1, int(freedom))) - 1] * math.sqrt(sum(shares))
