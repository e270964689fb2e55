"""Feeding and arrivals of runs -> records a second of steady work: the one place where a speed is computed.

No work on records is done before the first byte is fed, and none that counts after the last answer. So over runs of
different sizes `seconds from first byte to last answer = first use + records / speed`, whatever a program prints when. The
stream of answers is more precise: it is believed where it agrees with that. The headline, the speed of each run, tables,
figures and `verify` show what `read` returns.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from morocco_lib.analysis.intervals import Estimate, ratio_estimate
from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.segments import (
    Segment,
    fed_segment,
    held_back,
    paired_segments,
    ready_segment,
    stream_segment,
)
from morocco_lib.reasons import Reason

BALANCE_SHARE, BALANCE_S = 0.02, 0.002  # of the time since feeding, and seconds a run, that may stay unexplained
AGREEMENT = 0.03  # of a speed: two that differ by less are the same
WIDEST = 0.1  # of a speed: a wider interval confirms none
SPREAD = 3  # standard deviations between runs that another one may be off by
UNSEEN_SHARE, UNSEEN_S = 0.25, 0.1  # of the CPU time that a speed explains, and seconds, that may come before


@dataclass(frozen=True)
class Throughput:
    """The speed of runs.

    Args:
        method: stream | ready | paired; None: no speed, for `reason`.
        segments: Of each run the steady work that its speed is computed from; None: no method fits.
        notes: Codes of what was noticed; TIMES_DISAGREE makes the point invalid.
        first_use_s: What a run took from the first byte fed to the last answer beyond its share of work, on average;
            0 if that is within the tolerance.
        paired: The speed by runs of two sizes alone, where there are such.
    """

    method: str | None
    segments: list[Segment | None]
    reason: Reason | None = None
    notes: tuple[Reason, ...] = ()
    first_use_s: float = 0.0
    paired: Estimate | None = None

    @property
    def per_run(self) -> list[float | None]:
        """Records a second of each run."""
        return [s.records / s.seconds if s and s.seconds > 0 else None for s in self.segments]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The speed columns of bench.json's `per_run`; `warm_up_s`: seconds left out of a stream."""
        stream = self.method == "stream"
        warm_up_s = [segment.warm_up_s if stream and segment else None for segment in self.segments]
        return [{"speed_per_s": v, "warm_up_s": w} for v, w in zip(self.per_run, warm_up_s, strict=True)]

    @property
    def estimate(self) -> dict[str, Any]:
        """`speed_per_s` of bench.json: sum of records by sum of seconds with its 95 % interval.

        One run alone has the interval over ten consecutive parts of its stream, and `"scope": "run"`.
        """
        if self.method is None:
            return {"value": None, "reason": self.reason}
        scope = "runs" if len(self.segments) > 1 or self.method == "paired" else "run"
        return {**asdict(_joined([s for s in self.segments if s])), "method": self.method, "scope": scope}


def read(runs: Sequence[Run], smaller: Sequence[Run] = (), larger: Sequence[Run] = ()) -> Throughput:
    """Return the speed of runs of one operating point.

    Args:
        runs: The timed runs.
        smaller: Runs of fewer records; the n-th is the pair of the n-th of `runs`. Not needed where `balanced(runs)`.
        larger: Runs of more records, whose times the speed and the first use must explain.
    """
    fed = [fed_segment(run) for run in runs]
    if not runs or Reason.NO_STREAM in fed:
        return Throughput(None, [None] * len(runs), Reason.NO_STREAM)
    pairs = paired_segments(runs, smaller)
    if not any(pairs):
        return _one_size(runs, fed)
    if sum(pair.seconds for pair in pairs if pair) <= 0:
        return Throughput(None, [None] * len(runs), Reason.NO_TIME_LEFT)
    paired = _joined([pair for pair in pairs if pair])
    streams, notes = _streams(runs), []
    agreeing = [s for s in streams if _explains(s, fed) or _agree(_per_s(s), paired)]
    if agreeing:
        chosen = "stream", agreeing[0]
    elif _agree(_per_s(fed), paired) or _per_s(fed) > paired.value:
        chosen = "ready", fed
    else:
        chosen = "paired", pairs
    if not agreeing:
        if all(map(held_back, runs)):
            notes.append(Reason.ANSWERS_HELD_BACK)
        elif streams and _per_s(streams[-1]) > (1 + AGREEMENT) * paired.value:
            notes.append(Reason.WORK_NOT_SEEN)
        elif streams and _is_below(_joined(streams[-1]), paired):
            notes.append(Reason.TIMES_DISAGREE)
    first_use_s = _first_use_s(fed, chosen[1])
    if not all(_as_expected(run, fed, first_use_s, chosen[1]) for run in larger):
        notes.append(Reason.TIMES_DISAGREE)
    return Throughput(*chosen, None, tuple(notes), first_use_s, paired)


def balanced(runs: Sequence[Run]) -> bool:
    """Tell whether the stream of answers, less a warm-up, explains all the time since the first byte was fed.

    Then it is at most 2 % faster than the program can be, and runs of another size would say nothing new.
    """
    fed, streams = [fed_segment(run) for run in runs], _streams(runs)
    return Reason.NO_STREAM not in fed and bool(streams) and _explains(streams[0], fed)


def _one_size(runs: Sequence[Run], fed: list[Segment]) -> Throughput:
    """Return the speed where there are no runs of another size: the program's word for what was start-up is believed."""
    streams = _streams(runs)
    for stream in streams:
        if _explains(stream, fed):
            return Throughput("stream", stream)
    reason = Reason.NO_STREAM
    if streams:
        if any(_worked_before("first_answer", run, run.arrivals[0][1] / run.lines) for run in runs):
            reason = Reason.WORK_NOT_SEEN
        elif any(map(held_back, runs)):
            reason = Reason.ANSWERS_HELD_BACK
        else:
            return Throughput("stream", streams[0], first_use_s=_first_use_s(fed, streams[0]))
    ready = [ready_segment(run) for run in runs]
    if any(isinstance(segment, Reason) for segment in ready):
        return Throughput(None, [None] * len(runs), reason)
    if any(_worked_before("ready", run) for run in runs):
        return Throughput(None, [None] * len(runs), Reason.WORK_NOT_SEEN)
    notes = (Reason.ANSWERS_HELD_BACK,) if any(map(held_back, runs)) else ()
    return Throughput("ready", ready, None, notes, _first_use_s(fed, ready))


def _streams(runs: Sequence[Run]) -> list[list[Segment]]:
    """Return the streams of all runs, without warm-ups and with them; nothing where one run has none."""
    ways = [[stream_segment(run, way) for run in runs] for way in (True, False)]
    return [] if Reason.NO_STREAM in ways[0] else ways


def _per_s(segments: Sequence[Segment | None]) -> float:
    return sum(s.records for s in segments if s) / sum(s.seconds for s in segments if s)


def _explains(stream: Sequence[Segment], fed: Sequence[Segment]) -> bool:
    fed_s, records = sum(s.seconds for s in fed), sum(s.records for s in fed)
    return fed_s - records / _per_s(stream) <= BALANCE_SHARE * fed_s + BALANCE_S * len(fed)


def _agree(per_s: float, paired: Estimate) -> bool:
    if abs(per_s - paired.value) <= AGREEMENT * paired.value:
        return True
    narrow = paired.low is not None and paired.high - paired.low <= 2 * WIDEST * paired.value
    return narrow and paired.low <= per_s <= paired.high


def _is_below(stream: Estimate, paired: Estimate) -> bool:
    known = None not in (stream.high, paired.low)
    return known and (1 + AGREEMENT) * stream.high < paired.low


def _first_use_s(fed: Sequence[Segment], segments: Sequence[Segment | None]) -> float:
    fed_s = fmean(s.seconds for s in fed)
    rest_s = fed_s - fmean(s.records for s in fed) / _per_s(segments)
    return rest_s if rest_s > BALANCE_SHARE * fed_s + BALANCE_S else 0.0


def _as_expected(larger: Run, fed: Sequence[Segment], first_use_s: float, segments: Sequence[Segment | None]) -> bool:
    took, speed = fed_segment(larger), _joined([s for s in segments if s])
    if isinstance(took, Reason):
        return False
    work_s = took.records / speed.value
    expected_s, error_s = first_use_s + work_s, 0.0
    if speed.low is not None:  # this is one more run, as far from the others as they are from each other
        error_s = work_s * (speed.value - speed.low) / speed.value * sqrt(len(fed) + 1)
        error_s += SPREAD * stdev(s.seconds for s in fed)
    return abs(took.seconds - expected_s) <= AGREEMENT * expected_s + error_s


def _joined(segments: Sequence[Segment]) -> Estimate:
    if len(segments) > 1:
        return ratio_estimate([s.records for s in segments], [s.seconds for s in segments])
    (segment,) = segments
    spread = ratio_estimate(*zip(*segment.parts, strict=True)) if segment.parts else None
    whole = segment.records / segment.seconds
    return Estimate(whole, spread.low, spread.high) if spread else Estimate(whole, None, None)


def _worked_before(mark: str, run: Run, share: float = 0.0) -> bool:
    """Tell whether more than a share of the CPU time was used between the first byte fed and a mark.

    Limits: a program that loads on first use looks the same; work of a GPU is not seen.
    """
    cpu_s = {sample["mark"]: sample["cpu_s"] for sample in run.samples if "mark" in sample}
    if not {"fed", mark, "last_answer"} <= cpu_s.keys():
        return False
    before, rest = cpu_s[mark] - cpu_s["fed"], cpu_s["last_answer"] - cpu_s[mark]
    return before > (share + UNSEEN_SHARE) * rest + UNSEEN_S
