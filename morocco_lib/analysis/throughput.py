"""Arrivals of runs -> records a second of steady work: the one place where a speed is computed.

One of three methods (`segments`) serves all runs: the stream of answers, else readiness to last answer, else the time they
took longer than short runs. The headline, the speed of each run, tables, figures and `verify` show what `read` returns.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from morocco_lib.analysis.intervals import Estimate, ratio_estimate
from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.segments import Segment, paired_segments, ready_segment, stream_segment
from morocco_lib.reasons import Reason

PLAUSIBLE = 1.25  # times the work that a segment explains: by so much a run may take longer than a short one
START_JITTER, START_JITTER_S = 0.25, 0.1  # of a short run, and seconds: how much start-ups may differ
GPU_JITTER_S = 1.0  # the longest time that a reading of a GPU's utilisation is the mean of


@dataclass(frozen=True)
class Throughput:
    """The speed of runs.

    Args:
        method: stream | ready | paired; None: no speed, for `reason`.
        segments: Of each run the steady work that its speed is computed from; None: it started cold, or no method fits.
        notes: Codes that leave the speed valid.
    """

    method: str | None
    segments: list[Segment | None]
    reason: Reason | None = None
    notes: tuple[Reason, ...] = ()

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


def read(runs: Sequence[Run], short: Sequence[Run] = ()) -> Throughput:
    """Return the speed of runs of one operating point.

    Args:
        runs: The timed runs.
        short: Runs of few records, in the order they were made; the n-th is the pair of the n-th of `runs`. One is
            enough to reject a stream or a readiness, more are needed for pairs.
    """
    notes: dict[Reason, None] = {}
    reason = None
    for method, segment_of in (("stream", stream_segment), ("ready", ready_segment)):
        segments = [segment_of(run) for run in runs]
        if reasons := [s for s in segments if isinstance(s, Reason)]:
            if Reason.ANSWERS_HELD_BACK in reasons:
                notes[Reason.ANSWERS_HELD_BACK] = None
            reason = reason or reasons[0]
        elif not all(_plausible(run, segment, short) for run, segment in zip(runs, segments, strict=True)):
            notes[Reason.WORK_NOT_SEEN] = None
            reason = reason or Reason.WORK_NOT_SEEN
        else:
            return Throughput(method, segments, notes=tuple(notes))
    segments = paired_segments(runs, short)
    seconds = [segment.seconds for segment in segments if segment]
    if not seconds:
        return Throughput(None, [None] * len(runs), reason, tuple(notes))
    if sum(seconds) <= 0:
        return Throughput(None, [None] * len(runs), Reason.NO_TIME_LEFT, tuple(notes))
    return Throughput("paired", segments, notes=tuple(notes))


def _joined(segments: Sequence[Segment]) -> Estimate:
    if len(segments) > 1:
        return ratio_estimate([s.records for s in segments], [s.seconds for s in segments])
    (segment,) = segments
    spread = ratio_estimate(*zip(*segment.parts, strict=True)) if segment.parts else None
    whole = segment.records / segment.seconds
    return Estimate(whole, spread.low, spread.high) if spread else Estimate(whole, None, None)


def _plausible(run: Run, segment: Segment, short: Sequence[Run]) -> bool:
    """Tell whether a segment can hold the work of a run: by the clock, by CPU time and by GPU time, against short runs.

    What a run takes longer than a short one is work, whenever it was done: a program that computes before its ready line,
    or before it prints its first answers, would look faster than it is.
    """
    if not short:
        return True
    share = (run.lines - min(s.lines for s in short)) / segment.records
    start_s = max(s.total_s for s in short)
    explained_s = PLAUSIBLE * share * segment.seconds + segment.warm_up_s
    if run.total_s - start_s > explained_s + START_JITTER * start_s + START_JITTER_S:
        return False
    ways = ((_cpu_around_ready, START_JITTER_S), (_gpu_around_ready, GPU_JITTER_S))
    return not any(_worked_before(around(run), [around(s)[0] for s in short], jitter_s) for around, jitter_s in ways)


def _worked_before(around: tuple[float | None, float | None], others: list[float | None], jitter_s: float) -> bool:
    before, within = around
    if None in (before, within, *others):
        return False
    return before - max(others) > (PLAUSIBLE - 1) * within + START_JITTER * max(others) + jitter_s


def _cpu_around_ready(run: Run) -> tuple[float, float] | tuple[None, None]:
    marks = {sample["mark"]: sample["cpu_s"] for sample in run.samples if "mark" in sample}
    if not {"ready", "last_answer"} <= marks.keys():
        return None, None
    return marks["ready"], marks["last_answer"] - marks["ready"]


def _gpu_around_ready(run: Run) -> tuple[float, float] | tuple[None, None]:
    """Return GPU seconds of work (before readiness, from it to the last answer), None where utilisation is unknown.

    Limits: utilisation is reported with a delay, so work just before readiness counts as after it.
    """
    gpu = run.facts.get("gpu")
    if run.ready_s is None or not run.arrivals or not isinstance(gpu, dict):
        return None, None
    before = within = 0.0
    known = False
    for index in (k for k, device in enumerate(gpu["devices"]) if device["used_by_run"]):
        samples = [(s["t_ns"] / 1e9, s.get("utilisation_share")) for s in run.gpu_samples if s["gpu"] == index]
        for (begin_s, _), (t_s, share) in pairwise((t_s, share) for t_s, share in samples if share is not None):
            known = True
            before += share * max(0.0, min(t_s, run.ready_s) - begin_s)
            within += share * max(0.0, min(t_s, run.arrivals[-1][0]) - max(begin_s, run.ready_s))
    return (before, within) if known else (None, None)
