"""Facts of runs -> speed, start-up, memory, CPU and GPU, with intervals.

How a run tells its speed is in `stream`. Runs are joined as a ratio of sums, sum(records) / sum(seconds), never as a mean of ratios; its 95 %
interval is Student's t on the linearised residuals (Cochran, Sampling Techniques, 1977, ch. 6). One run alone gets the
same interval over ten consecutive parts of its stream, and says `scope: run`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from morocco_lib.analysis import throughput
from morocco_lib.analysis.throughput import MIN_ARRIVALS, Segment
from morocco_lib.errors import UsageError
from morocco_lib.reasons import Reason

PLAUSIBLE = 1.25  # times the work that a stretch explains; a run may take so much longer than a short one, and no more
START_JITTER = 0.25  # of a short run, and what is more than either is no jitter
START_JITTER_S = 0.1
GPU_JITTER_S = 1.0  # as long as the longest stretch that a reading of a GPU's utilisation is the mean of


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
    gpu_samples: list[dict[str, Any]] = field(default_factory=list, repr=False)  # a line a sample and device

    truncated: bool = field(default=False, repr=False)  # a file ends before what run.json says was written

    @property
    def ready_s(self) -> float | None:
        return self.facts["phases"]["ready_s"]

    @property
    def lines(self) -> int:
        return sum(n for _, n in self.arrivals)

    @property
    def total_s(self) -> float:
        """Seconds from start to end: of the container as its engine tells them, else of the program."""
        phases = self.facts["phases"]
        begin, end = phases.get("engine_start_s"), phases.get("engine_die_s")
        return end - begin if None not in (begin, end) else phases["exit_s"]

    def answered_bytes(self) -> list[int] | None:
        """Return the bytes of the record that each line answers; None where that cannot be told."""
        try:
            description = json.loads((self.folder / "workload.json").read_text(encoding="utf-8"))
            sizes, order = description["line_bytes"], description["order"]
            with (self.folder / "answers.jsonl").open("rb") as lines:
                return [sizes[order[int(json.loads(line)["idx"])]] for line in lines]
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None


def read_run(folder: Path) -> Run:
    """Return a run from its folder; raises UsageError if a file is missing or broken before its last line."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        chunks, cut_chunks = _read_lines(folder / "chunks.jsonl")
        samples, cut_samples = _read_lines(folder / "samples.jsonl")
        has_gpu = isinstance(facts.get("gpu"), dict)
        gpu_samples, cut_gpu = _read_lines(folder / "gpu.jsonl") if has_gpu else ([], False)
        arrivals = [(chunk["t_ns"] / 1e9, chunk["lines"]) for chunk in chunks if chunk["lines"]]
        written = {sum(chunk["bytes"] for chunk in chunks), (folder / "answers.jsonl").stat().st_size}
        short = not facts["stdout_cut"] and (
            written != {facts["stdout_bytes"]} or sum(n for _, n in arrivals) != facts["lines"]
        )
        few = sum("mark" not in sample for sample in samples) < facts["sampler"]["samples"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"run in {folder} cannot be read ({error})", remedy="restore the folder or bench again"
        ) from None
    truncated = short or few or cut_chunks or cut_samples or cut_gpu
    return Run(folder, facts, arrivals, samples, gpu_samples, truncated)


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return (the objects of a JSONL file, whether it ends within one)."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    cut = bool(lines) and not lines[-1].endswith("\n")
    return [json.loads(line) for line in (lines[:-1] if cut else lines)], cut


def stream_segment(run: Run) -> Segment | Reason:
    """Return the run's stream of answers from the first arrival on, or why there is none to speak of."""
    found = throughput.of_stream(run.arrivals, run.facts["phases"]["exit_s"], run.ready_s, run.answered_bytes)
    if found is Reason.NO_STREAM and len(run.arrivals) < MIN_ARRIVALS:
        late = throughput.held_back(run.arrivals, run.ready_s, run.facts["batch_size"])
        return Reason.ANSWERS_HELD_BACK if late else found
    return found


def ready_segment(run: Run) -> Segment | Reason:
    """Return the stretch from readiness to the last answer."""
    return throughput.of_ready(run.arrivals, run.ready_s)


def speed(runs: Sequence[Run], short: Sequence[Run] = ()) -> tuple[dict[str, Any], list[Reason]]:
    """Return (`speed_per_s` of bench.json, notes): records a second of steady work over all runs.

    All runs use one method: the stream, else readiness to last answer, else what they took longer than short ones.

    Args:
        runs: The timed runs.
        short: Runs of few records, in the order they were made; the n-th is the pair of the n-th of `runs`. One is
            enough to doubt a stream or a readiness, more are needed to do without.
    """
    notes, why = [], []
    for method, segment_of in (("stream", stream_segment), ("ready", ready_segment)):
        segments = [segment_of(run) for run in runs]
        if reasons := [s for s in segments if isinstance(s, Reason)]:
            if Reason.ANSWERS_HELD_BACK in reasons:
                notes.append(Reason.ANSWERS_HELD_BACK)
            why.append(reasons[0])
        elif not all(_plausible(run, segment, short) for run, segment in zip(runs, segments, strict=True)):
            notes.append(Reason.WORK_NOT_SEEN)
            why.append(Reason.WORK_NOT_SEEN)
        else:
            scope = "runs" if len(runs) > 1 else "run"
            return {**_joined(segments).__dict__, "method": method, "scope": scope}, list(dict.fromkeys(notes))
    estimate = paired(runs, short)
    notes = list(dict.fromkeys(notes))
    if isinstance(estimate, Reason):
        return {"value": None, "reason": why[0] if estimate is Reason.NO_PAIRS else estimate}, notes
    return {**estimate.__dict__, "method": "paired", "scope": "runs"}, notes


def _joined(segments: Sequence[Segment]) -> Estimate:
    if len(segments) > 1:
        return ratio_estimate([s.records for s in segments], [s.seconds for s in segments])
    (segment,) = segments
    spread = ratio_estimate(*zip(*segment.parts, strict=True)) if len(segment.parts) > 1 else None
    whole = segment.records / segment.seconds
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


def paired(runs: Sequence[Run], short: Sequence[Run]) -> Estimate | Reason:
    """Return the speed from what each run took longer than the short one of its pair; pairs with a cold start are left out.

    Limits: start-ups are taken as equal within a pair but for chance; what differs counts as work.
    """
    warm = throughput.warm_pairs([s.total_s for s in short], [run.total_s for run in runs])
    if not warm:
        return Reason.NO_PAIRS
    seconds = [runs[k].total_s - short[k].total_s for k in warm]
    if sum(seconds) <= 0:
        return Reason.NO_TIME_LEFT
    return ratio_estimate([runs[k].lines - short[k].lines for k in warm], seconds)


def init_s(run: Run, speed_per_s: Mapping[str, Any] = MappingProxyType({})) -> float | Reason:
    """Return seconds from program start to readiness; without readiness, first answer less its own share of work.

    Args:
        speed_per_s: The speed of all runs, for one too short to tell its own. Of method `paired`, whatever was answered
            took its share of work before the last answer.
    """
    if run.ready_s is not None:
        return run.ready_s
    per_s, paired_only = speed_per_s.get("value"), speed_per_s.get("method") == "paired"
    segment = Reason.NO_STREAM if paired_only else stream_segment(run)
    if not isinstance(segment, Reason):
        per_s = segment.records / segment.seconds
    if per_s is None or not run.arrivals:
        return Reason.NO_READINESS
    at_s, lines = (run.arrivals[-1][0], run.lines) if paired_only else run.arrivals[0]
    return max(0.0, at_s - lines / per_s)


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


def summarise(runs: Sequence[Run], short: Sequence[Run] = ()) -> tuple[dict[str, Any], list[Reason]]:
    """Return (the estimates of bench.json, notes) of valid runs; see `speed`."""
    if not runs:
        null = {"value": None, "reason": Reason.NO_VALID_RUN}
        names = ("speed_per_s", "bytes_per_s", "init_s", "ram_bytes", "ram_cgroup_peak_bytes", "cpu_s_per_record")
        return {name: dict(null) for name in names}, []
    speed_per_s, notes = speed(runs, short)
    cpu = [cpu_of_stream(run) for run in runs]
    if any(isinstance(c, Reason) for c in cpu):
        cpu_estimate = {"value": None, "reason": Reason.NO_SAMPLES}
    else:
        cpu_estimate = {**ratio_estimate(*zip(*cpu, strict=True)).__dict__, "scope": "runs" if len(runs) > 1 else "run"}
    peaks = [run.facts["memory"]["cgroup_peak_bytes"] for run in runs]
    start_up = start_s(runs, speed_per_s)
    if start_up.get("method") == "median":
        notes.append(Reason.TWO_START_UPS)
    return {
        "speed_per_s": speed_per_s,
        "bytes_per_s": _scaled(speed_per_s, runs[0].facts["bytes_fed"] / runs[0].facts["records_fed"]),
        "init_s": start_up,
        "ram_bytes": mean_of([ram_bytes(run) for run in runs], runs[0].facts["memory"]["source"]),
        "ram_cgroup_peak_bytes": mean_of(
            [Reason.NO_CGROUP if p is None else p for p in peaks], runs[0].facts["memory"]["cgroup_peak_source"]
        ),
        "cpu_s_per_record": cpu_estimate,
    }, notes


def _scaled(estimate: dict[str, Any], factor: float) -> dict[str, Any]:
    numbers = {name: estimate[name] * factor for name in ("value", "low", "high") if estimate.get(name) is not None}
    return {**estimate, **numbers}


def start_s(runs: Sequence[Run], speed_per_s: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return the estimate of the start-up; of two kinds of start-ups the median, with the least and the largest.

    Args:
        speed_per_s: As in `init_s`.
    """
    found = [init_s(run, speed_per_s) for run in runs]
    if not any(isinstance(f, Reason) for f in found) and throughput.two_kinds(found):
        return {"value": median(found), "low": min(found), "high": max(found), "method": "median", "scope": "runs"}
    return mean_of(
        found, "ready" if all(run.ready_s is not None for run in runs) else speed_per_s.get("method") or "stream"
    )
