"""Facts of runs -> speed, start-up, memory and CPU, with intervals.

Within a run the speed is read from the stream of answers: lines really received, by the time they arrived, from the
first arrival on. Runs are joined as a ratio of sums, sum(records) / sum(seconds), never as a mean of ratios; its 95 %
interval is Student's t on the linearised residuals (Cochran, Sampling Techniques, 1977, ch. 6). One run alone gets the
same interval over ten consecutive parts of its stream, and says `scope: run`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from morocco_lib.errors import UsageError
from morocco_lib.validity import Reason

MIN_ARRIVALS = 5  # fewer tell nothing of a rate
MIN_STREAM_S = 0.02  # what comes within less is a buffer being emptied
MIN_STREAM_SHARE = 0.01  # of the program's life; guards against answers printed all at the end
PARTS = 10


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; low and high are None if one value alone does not give any."""

    value: float
    low: float | None
    high: float | None


def ratio_estimate(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Return sum(numerators) / sum(denominators) with its 95 % interval; with denominators of 1 it is the mean.

    Args:
        numerators, denominators: One of each a unit (a run, or a part of one); denominators above 0.
    Limits: units are taken as independent; a drift through them all is not seen.
    """
    n, total = len(numerators), sum(denominators)
    ratio = sum(numerators) / total
    if n < 2:
        return Estimate(ratio, None, None)
    from scipy.special import stdtrit

    squares = sum((y - ratio * x) ** 2 for y, x in zip(numerators, denominators, strict=True))
    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(squares * n / (n - 1)) / total
    return Estimate(ratio, max(0.0, ratio - half), ratio + half)


@dataclass(frozen=True)
class Run:
    """One run as its folder tells it. Times are seconds since the start of the program."""

    folder: Path
    facts: dict[str, Any] = field(repr=False)  # run.json
    arrivals: list[tuple[float, int]] = field(repr=False)  # (time, lines that ended in this arrival)
    samples: list[dict[str, Any]] = field(repr=False)

    @property
    def ready_s(self) -> float | None:
        return self.facts["phases"]["ready_s"]

    @property
    def lines(self) -> int:
        return sum(n for _, n in self.arrivals)


@dataclass(frozen=True)
class Segment:
    """A stretch of one run in which `records` were answered in `seconds`, and its parts."""

    records: int
    seconds: float
    parts: list[tuple[int, float]]


def read_run(folder: Path) -> Run:
    """Return a run from its folder; raises UsageError if a file is missing or broken."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        chunks = [json.loads(line) for line in (folder / "chunks.jsonl").read_text(encoding="utf-8").splitlines()]
        samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
        arrivals = [(chunk["t_ns"] / 1e9, chunk["lines"]) for chunk in chunks if chunk["lines"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"run in {folder} cannot be read ({error})", remedy="restore the folder or bench again"
        ) from None
    return Run(folder, facts, arrivals, samples)


def stream_segment(run: Run) -> Segment | Reason:
    """Return the run's stream of answers from the first arrival on, or why there is none to speak of."""
    if len(run.arrivals) < MIN_ARRIVALS:
        return Reason.ANSWERS_HELD_BACK if _many_came_late(run) else Reason.NO_STREAM
    first_s, last_s = run.arrivals[0][0], run.arrivals[-1][0]
    seconds, first_lines = last_s - first_s, run.arrivals[0][1]
    if seconds < MIN_STREAM_S and run.ready_s is None:
        return Reason.NO_STREAM
    if seconds < MIN_STREAM_SHARE * run.facts["phases"]["exit_s"] and run.ready_s is None:
        return Reason.NO_STREAM
    records = run.lines - first_lines
    if seconds <= 0 or records <= 0:
        return Reason.NO_STREAM
    if run.ready_s is not None:
        unexplained_s = (first_s - run.ready_s) - first_lines * seconds / records
        if unexplained_s > 0.5 * seconds:
            return Reason.ANSWERS_HELD_BACK
    return Segment(records, seconds, _parts(run.arrivals))


def _many_came_late(run: Run) -> bool:
    # Enough batches for a stream, and yet half of the time from readiness on had passed before anything was printed.
    if run.ready_s is None or run.lines < MIN_ARRIVALS * run.facts["batch_size"]:
        return False
    first_s, last_s = run.arrivals[0][0], run.arrivals[-1][0]
    return first_s - run.ready_s > 0.5 * (last_s - run.ready_s)


def ready_segment(run: Run) -> Segment | Reason:
    """Return the stretch from readiness to the last answer."""
    if run.ready_s is None or not run.arrivals:
        return Reason.NO_READINESS
    seconds = run.arrivals[-1][0] - run.ready_s
    if seconds <= 0:
        return Reason.NO_STREAM
    return Segment(run.lines, seconds, [])


def _parts(arrivals: list[tuple[float, int]]) -> list[tuple[int, float]]:
    # Cut at arrivals, as equal in records as these allow.
    total = sum(n for _, n in arrivals[1:])
    parts, records, begin = [], 0, arrivals[0][0]
    done = 0
    for t_s, n in arrivals[1:]:
        records, done = records + n, done + n
        if done >= total * (len(parts) + 1) / PARTS and t_s > begin:
            parts.append((records, t_s - begin))
            records, begin = 0, t_s
    return parts


def speed(runs: Sequence[Run]) -> tuple[dict[str, Any], list[Reason]]:
    """Return (`speed_per_s` of bench.json, notes): records a second of the steady stream over all runs.

    All runs use one method: the stream, else readiness to last answer, else none.
    """
    notes, why = [], []
    for method, segment_of in (("stream", stream_segment), ("ready", ready_segment)):
        segments = [segment_of(run) for run in runs]
        reasons = [s for s in segments if isinstance(s, Reason)]
        if not reasons:
            if len(segments) > 1:
                estimate = ratio_estimate([s.records for s in segments], [s.seconds for s in segments])
            else:
                parts = segments[0].parts
                whole = segments[0].records / segments[0].seconds
                spread = ratio_estimate(*zip(*parts, strict=True)) if len(parts) > 1 else Estimate(whole, None, None)
                estimate = Estimate(whole, spread.low, spread.high)
            scope = "runs" if len(runs) > 1 else "run"
            return {**estimate.__dict__, "method": method, "scope": scope}, notes
        if Reason.ANSWERS_HELD_BACK in reasons:
            notes.append(Reason.ANSWERS_HELD_BACK)
        why.append(reasons[0])
    return {"value": None, "reason": why[0]}, notes


def init_s(run: Run) -> float | Reason:
    """Return seconds from program start to readiness; without readiness, first answer less its own share of work."""
    if run.ready_s is not None:
        return run.ready_s
    segment = stream_segment(run)
    if isinstance(segment, Reason):
        return Reason.NO_READINESS
    first_s, first_lines = run.arrivals[0]
    return max(0.0, first_s - first_lines * segment.seconds / segment.records)


def ram_bytes(run: Run) -> float | Reason:
    """Return the peak of anonymous and shared memory of the whole tree.

    The largest sample, raised to what the kernel's own peak leaves when the most file cache and kernel memory ever
    sampled is taken off it.
    Limits: with the /proc source memory shared between processes counts once for each.
    """
    if not run.samples:
        return Reason.NO_SAMPLES
    largest = max(s["anon_bytes"] + s["shmem_bytes"] for s in run.samples)
    memory = run.facts["memory"]
    floors = [memory["high_water_bytes"] or 0]
    if memory["cgroup_peak_bytes"] is not None:
        other = max(s["file_bytes"] for s in run.samples) + max(s["kernel_bytes"] or 0 for s in run.samples)
        floors.append(memory["cgroup_peak_bytes"] - other)
    return float(max(largest, *floors))


def cpu_of_stream(run: Run) -> tuple[float, int] | Reason:
    """Return (CPU seconds, records) between the first and the last answer."""
    marks = {s["mark"]: s["cpu_s"] for s in run.samples if "mark" in s}
    if "first_answer" not in marks or "last_answer" not in marks or len(run.arrivals) < MIN_ARRIVALS:
        return Reason.NO_SAMPLES
    return marks["last_answer"] - marks["first_answer"], run.lines - run.arrivals[0][1]


def mean_of(values: Sequence[float | Reason], unit_method: str | None = None) -> dict[str, Any]:
    """Return a bench.json estimate of one number a run: its mean and interval, or null with the first reason."""
    reasons = [v for v in values if isinstance(v, Reason)]
    if reasons or not values:
        return {"value": None, "reason": reasons[0] if reasons else Reason.NO_VALID_RUN}
    estimate = ratio_estimate(values, [1.0] * len(values))
    scope = "runs" if len(values) > 1 else "run"
    return {**estimate.__dict__, **({"method": unit_method} if unit_method else {}), "scope": scope}


def summarise(runs: Sequence[Run]) -> tuple[dict[str, Any], list[Reason]]:
    """Return (the estimates of bench.json, notes) of valid runs."""
    if not runs:
        null = {"value": None, "reason": Reason.NO_VALID_RUN}
        names = ("speed_per_s", "init_s", "ram_bytes", "ram_cgroup_peak_bytes", "cpu_s_per_record")
        return {name: dict(null) for name in names}, []
    speed_per_s, notes = speed(runs)
    cpu = [cpu_of_stream(run) for run in runs]
    if any(isinstance(c, Reason) for c in cpu):
        cpu_estimate = {"value": None, "reason": Reason.NO_SAMPLES}
    else:
        cpu_estimate = {**ratio_estimate(*zip(*cpu, strict=True)).__dict__, "scope": "runs" if len(runs) > 1 else "run"}
    peaks = [run.facts["memory"]["cgroup_peak_bytes"] for run in runs]
    return {
        "speed_per_s": speed_per_s,
        "init_s": mean_of(
            [init_s(run) for run in runs], "ready" if all(r.ready_s is not None for r in runs) else "stream"
        ),
        "ram_bytes": mean_of([ram_bytes(run) for run in runs], runs[0].facts["memory"]["source"]),
        "ram_cgroup_peak_bytes": mean_of(
            [Reason.NO_CGROUP if p is None else p for p in peaks], runs[0].facts["memory"]["cgroup_peak_source"]
        ),
        "cpu_s_per_record": cpu_estimate,
    }, notes
