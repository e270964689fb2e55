"""Arrivals of runs -> records a second of steady work: the one place where a speed is computed.

A run tells its speed in one of three ways (`segments`), all runs in the same: the stream of answers, else readiness to last
answer, else what they took longer than short runs. The headline, the speed of each run, tables, figures and `verify` show
what `read` returns.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from morocco_lib.analysis.intervals import Estimate, ratio_estimate
from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.segments import MIN_ARRIVALS, Segment, held_back, of_ready, of_stream, warm_pairs
from morocco_lib.reasons import Reason

PLAUSIBLE = 1.25  # times the work that a stretch explains; a run may take so much longer than a short one, and no more
START_JITTER = 0.25  # of a short run, and what is more than either is no jitter
START_JITTER_S = 0.1
GPU_JITTER_S = 1.0  # as long as the longest stretch that a reading of a GPU's utilisation is the mean of


@dataclass(frozen=True)
class Throughput:
    """The speed of runs.

    Args:
        method: stream | ready | paired; None: no speed, for `reason`.
        stretches: Of each run the stretch of steady work that its speed is taken from; None: it started cold, or no method fits.
        notes: What is worth saying of it all the same.
    """

    method: str | None
    stretches: list[Segment | None]
    reason: Reason | None = None
    notes: tuple[Reason, ...] = ()

    @property
    def per_run(self) -> list[float | None]:
        """Records a second of each run."""
        return [s.records / s.seconds if s and s.seconds > 0 else None for s in self.stretches]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What bench.json's `per_run` says of each run's speed; seconds of warm-up that were left out of a stream."""
        stream = self.method == "stream"
        warm_up_s = [stretch.warm_up_s if stream and stretch else None for stretch in self.stretches]
        return [{"speed_per_s": v, "warm_up_s": w} for v, w in zip(self.per_run, warm_up_s, strict=True)]

    @property
    def estimate(self) -> dict[str, Any]:
        """`speed_per_s` of bench.json: sum of records by sum of seconds with its 95 % interval.

        One run alone has the interval over ten consecutive parts of its stream, and `"scope": "run"`.
        """
        if self.method is None:
            return {"value": None, "reason": self.reason}
        scope = "runs" if len(self.stretches) > 1 or self.method == "paired" else "run"
        return {**asdict(_joined([s for s in self.stretches if s])), "method": self.method, "scope": scope}


def read(runs: Sequence[Run], short: Sequence[Run] = ()) -> Throughput:
    """Return the speed of runs of one operating point.

    Args:
        runs: The timed runs.
        short: Runs of few records, in the order they were made; the n-th is the pair of the n-th of `runs`. One is
            enough to doubt a stream or a readiness, more are needed to do without.
    """
    notes: dict[Reason, None] = {}
    reason = None
    for method, segment_of in (("stream", stream_segment), ("ready", ready_segment)):
        stretches = [segment_of(run) for run in runs]
        if reasons := [s for s in stretches if isinstance(s, Reason)]:
            if Reason.ANSWERS_HELD_BACK in reasons:
                notes[Reason.ANSWERS_HELD_BACK] = None
            reason = reason or reasons[0]
        elif not all(_plausible(run, stretch, short) for run, stretch in zip(runs, stretches, strict=True)):
            notes[Reason.WORK_NOT_SEEN] = None
            reason = reason or Reason.WORK_NOT_SEEN
        else:
            return Throughput(method, stretches, notes=tuple(notes))
    stretches = paired_segments(runs, short)
    seconds = [stretch.seconds for stretch in stretches if stretch]
    if not seconds:
        return Throughput(None, [None] * len(runs), reason, tuple(notes))
    if sum(seconds) <= 0:
        return Throughput(None, [None] * len(runs), Reason.NO_TIME_LEFT, tuple(notes))
    return Throughput("paired", stretches, notes=tuple(notes))


def stream_segment(run: Run) -> Segment | Reason:
    """Return the run's stream of answers from the first arrival on, or why there is none to speak of."""
    found = of_stream(run.arrivals, run.facts["phases"]["exit_s"], run.ready_s, run.answered_bytes)
    if found is Reason.NO_STREAM and len(run.arrivals) < MIN_ARRIVALS:
        late = held_back(run.arrivals, run.ready_s, run.facts["batch_size"])
        return Reason.ANSWERS_HELD_BACK if late else found
    return found


def ready_segment(run: Run) -> Segment | Reason:
    """Return the stretch from readiness to the last answer."""
    return of_ready(run.arrivals, run.ready_s)


def paired_segments(runs: Sequence[Run], short: Sequence[Run]) -> list[Segment | None]:
    """Return what each run took longer than the short one of its pair; None for pairs with a cold start.

    Limits: start-ups are taken as equal within a pair but for chance; what differs counts as work.
    """
    warm = warm_pairs([s.total_s for s in short], [run.total_s for run in runs])
    return [
        Segment(run.lines - short[k].lines, run.total_s - short[k].total_s, []) if k in warm else None
        for k, run in enumerate(runs)
    ]


def _joined(stretches: Sequence[Segment]) -> Estimate:
    if len(stretches) > 1:
        return ratio_estimate([s.records for s in stretches], [s.seconds for s in stretches])
    (stretch,) = stretches
    spread = ratio_estimate(*zip(*stretch.parts, strict=True)) if len(stretch.parts) > 1 else None
    whole = stretch.records / stretch.seconds
    return Estimate(whole, spread.low, spread.high) if spread else Estimate(whole, None, None)


def _plausible(run: Run, segment: Segment, short: Sequence[Run]) -> bool:
    """Tell whether a stretch can hold the work of a run: by the clock, by CPU time and by GPU time, against short runs.

    What a run takes longer than a short one is work, whenever it was done. A program that computes before it says that
    it is ready, or before it prints the first of its answers, would look faster than it is.
    """
    if not short:
        return True
    share = (run.lines - min(s.lines for s in short)) / segment.records
    start_s = max(s.total_s for s in short)
    if (
        run.total_s - start_s
        > PLAUSIBLE * share * segment.seconds + segment.warm_up_s + START_JITTER * start_s + START_JITTER_S
    ):
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
    """Return seconds of work of the run's GPUs (before readiness, from it to the last answer), None where it is not told.

    Limits: utilisation is told some time after it was, so work just before readiness counts as after it.
    """
    gpu = run.facts.get("gpu")
    if run.ready_s is None or not run.arrivals or not isinstance(gpu, dict):
        return None, None
    before = within = 0.0
    seen = False
    for index in (k for k, device in enumerate(gpu["devices"]) if device["used_by_run"]):
        told = [(s["t_ns"] / 1e9, s.get("utilisation_share")) for s in run.gpu_samples if s["gpu"] == index]
        told = [(t_s, share) for t_s, share in told if share is not None]
        for (begin_s, _), (t_s, share) in pairwise(told):
            seen = True
            before += share * max(0.0, min(t_s, run.ready_s) - begin_s)
            within += share * max(0.0, min(t_s, run.arrivals[-1][0]) - max(begin_s, run.ready_s))
    return (before, within) if seen else (None, None)
