"""Facts of runs -> speed, start-up, memory, CPU and GPU, with intervals.

Within a run the speed is read from the stream of answers: lines really received, by the time they arrived, from the
first arrival on. Runs are joined as a ratio of sums, sum(records) / sum(seconds), never as a mean of ratios; its 95 %
interval is Student's t on the linearised residuals (Cochran, Sampling Techniques, 1977, ch. 6). One run alone gets the
same interval over ten consecutive parts of its stream, and says `scope: run`.
"""

import bisect
import itertools
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
MIN_ENERGY_S = 10.0  # counters go in steps, and power is a mean over up to a second
MIN_ENERGY_STEPS = 10
EDGE_SHARE = 0.01  # of that time, which may lie outside the samples
MAX_POWER_GAP_S = 1.0


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
        gpu = folder / "gpu.jsonl"
        gpu_lines = gpu.read_text(encoding="utf-8").splitlines() if isinstance(facts.get("gpu"), dict) else []
        gpu_samples = [json.loads(line) for line in gpu_lines]
        arrivals = [(chunk["t_ns"] / 1e9, chunk["lines"]) for chunk in chunks if chunk["lines"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"run in {folder} cannot be read ({error})", remedy="restore the folder or bench again"
        ) from None
    return Run(folder, facts, arrivals, samples, gpu_samples)


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


def gpu_ram_bytes(run: Run) -> float | Reason:
    """Return the peak of what all processes of the run held on all GPUs together, contexts included.

    Limits: a footprint, not a need: frameworks keep memory they have freed; peaks between two samples are missed.
    """
    gpu = run.facts["gpu"]
    if isinstance(gpu, str):
        return Reason(gpu)
    if not any(device["used_by_run"] for device in gpu["devices"]):
        return _unseen(gpu)
    ours, at_once = {str(pid) for pid in gpu["pids"]}, {}
    for sample in run.gpu_samples:
        sizes = [size for pid, size in (sample["processes"] or {}).items() if pid in ours]
        at_once.setdefault(sample["t_ns"], []).extend(sizes)
    told = [sum(sizes) for sizes in at_once.values() if sizes and None not in sizes]
    return float(max(told)) if told else Reason.GPU_NOT_TOLD


def _unseen(gpu: dict[str, Any]) -> Reason:
    for device in gpu["devices"]:
        if device["idle"]["processes"] is None:
            return Reason(device["missing"]["compute"]["reason"])
    return Reason.GPU_PIDS_HIDDEN if gpu["pids_hidden"] else Reason.GPU_NOT_USED


def gpu_energy(run: Run) -> tuple[float, int, str] | Reason:
    """Return (joules, records, method) between the first and the last answer, of the GPUs the run used.

    Method is `counter`, or `power` where a device has no counter and its power readings are integrated.
    Limits: the whole device is counted, what it draws when idle included; neither processor nor host memory is.
    """
    gpu = run.facts["gpu"]
    if isinstance(gpu, str):
        return Reason.NO_ENERGY_COUNTER
    used = [index for index, device in enumerate(gpu["devices"]) if device["used_by_run"]]
    if not used:
        return _unseen(gpu)
    if len(run.arrivals) < MIN_ARRIVALS:
        return Reason.NO_STREAM
    first_s, last_s = run.arrivals[0][0], run.arrivals[-1][0]
    if last_s - first_s < MIN_ENERGY_S:
        return Reason.BELOW_RESOLUTION
    joules, method = 0.0, "counter"
    for index in used:
        counter, power = (_points(run, index, name) for name in ("energy_j", "power_w"))
        if gpu["devices"][index]["mig_of"] is not None or not (counter or power):
            return Reason.NO_ENERGY_COUNTER  # a counter of the whole GPU tells nothing of an instance
        points, method = (counter, method) if counter else (_integrated(power), "power")
        gap_s = max((b[0] - a[0] for a, b in itertools.pairwise(points)), default=0.0)
        edge_s = EDGE_SHARE * (last_s - first_s)
        if points[0][0] > first_s + edge_s or points[-1][0] < last_s - edge_s:
            return Reason.NO_SAMPLES
        if not counter and gap_s > MAX_POWER_GAP_S:
            return Reason.NO_SAMPLES
        if any(b[1] < a[1] for a, b in itertools.pairwise(points)):
            return Reason.NO_ENERGY_COUNTER  # set back by a reset
        if len({value for t_s, value in points if first_s <= t_s <= last_s}) < MIN_ENERGY_STEPS:
            return Reason.BELOW_RESOLUTION
        joules += _at(points, last_s) - _at(points, first_s)
    return joules, run.lines - run.arrivals[0][1], method


def _points(run: Run, gpu: int, name: str) -> list[tuple[float, float]]:
    return [(s["t_ns"] / 1e9, s[name]) for s in run.gpu_samples if s["gpu"] == gpu and s.get(name) is not None]


def _integrated(power: list[tuple[float, float]]) -> list[tuple[float, float]]:
    steps = ((b[1] + a[1]) / 2 * (b[0] - a[0]) for a, b in itertools.pairwise(power))
    return list(zip((t_s for t_s, _ in power), itertools.accumulate(steps, initial=0.0), strict=True))


def _at(points: list[tuple[float, float]], t_s: float) -> float:
    # Between two points on the line through them, outside the nearest.
    after = bisect.bisect(points, (t_s, -math.inf))
    if after in (0, len(points)):
        return points[min(after, len(points) - 1)][1]
    (t0, y0), (t1, y1) = points[after - 1 : after + 1]
    return y0 + (y1 - y0) * (t_s - t0) / (t1 - t0)


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


def summarise_gpu(gpu: dict[str, Any] | str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return the estimates of bench.json that concern GPUs.

    Args:
        gpu: What the first run's `run.json` says, valid or not: without a GPU its code is the reason.
        runs: The valid runs.
    """
    if isinstance(gpu, str):
        return {
            "gpu_ram_bytes": {"value": None, "reason": gpu},
            "energy_j_per_record": {"value": None, "reason": Reason.NO_ENERGY_COUNTER},
        }
    energy = [gpu_energy(run) for run in runs]
    reasons = [found for found in energy if isinstance(found, Reason)]
    if reasons or not energy:
        energy_estimate = {"value": None, "reason": reasons[0] if reasons else Reason.NO_VALID_RUN}
    else:
        joules, records, methods = zip(*energy, strict=True)
        method = "counter" if set(methods) == {"counter"} else "power"
        spread, scope = ratio_estimate(joules, records).__dict__, "runs" if len(runs) > 1 else "run"
        energy_estimate = {**spread, "method": method, "scope": scope}
    ram = mean_of([gpu_ram_bytes(run) for run in runs], gpu["source"])
    return {"gpu_ram_bytes": ram, "energy_j_per_record": energy_estimate}
