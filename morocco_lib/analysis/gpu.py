"""Facts of runs -> GPU memory and energy; see `summary`."""

import itertools
from collections.abc import Sequence
from typing import Any

from morocco_lib.analysis.intervals import estimate_of, mean_of
from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.segments import MIN_ARRIVALS
from morocco_lib.reasons import Reason

MIN_ENERGY_S = 10.0  # counters go in steps, and power is a mean over up to a second
MIN_ENERGY_STEPS = 10
EDGE_SHARE = 0.01  # of the time measured, which may lie outside the samples
MAX_POWER_GAP_S = 1.0


def gpu_ram_bytes(run: Run) -> float | Reason:
    """Return the peak of what all processes of the run held on all GPUs together, contexts included.

    Limits: a footprint, not a need: frameworks keep memory they have freed; peaks between two samples are missed.
    """
    gpu = run.facts["gpu"]
    if isinstance(gpu, str):
        return Reason(gpu)
    if not any(device["used_by_run"] for device in gpu["devices"]):
        return _why_none(gpu)
    ours, at_once = {str(pid) for pid in gpu["pids"]}, {}
    for sample in run.gpu_samples:
        sizes = [size for pid, size in (sample["processes"] or {}).items() if pid in ours]
        at_once.setdefault(sample["t_ns"], []).extend(sizes)
    totals = [sum(sizes) for sizes in at_once.values() if sizes and None not in sizes]
    return float(max(totals)) if totals else Reason.GPU_NOT_TOLD


def _why_none(gpu: dict[str, Any]) -> Reason:
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
        return _why_none(gpu)
    if len(run.arrivals) < MIN_ARRIVALS:
        return Reason.NO_STREAM
    first_s, last_s = run.arrivals[0][0], run.arrivals[-1][0]
    if last_s - first_s < MIN_ENERGY_S:
        return Reason.BELOW_RESOLUTION
    import numpy as np

    joules, method = 0.0, "counter"
    for index in used:
        counter, power = (_points(run, index, name) for name in ("energy_j", "power_w"))
        if gpu["devices"][index]["mig_of"] is not None or not (counter or power):
            return Reason.NO_ENERGY_COUNTER  # the counter is of the whole GPU, not of an instance
        points, method = (counter, method) if counter else (_integrated(power), "power")
        gap_s = max((b[0] - a[0] for a, b in itertools.pairwise(points)), default=0.0)
        edge_s = EDGE_SHARE * (last_s - first_s)
        if points[0][0] > first_s + edge_s or points[-1][0] < last_s - edge_s:
            return Reason.NO_SAMPLES
        if not counter and gap_s > MAX_POWER_GAP_S:
            return Reason.NO_SAMPLES
        if any(b[1] < a[1] for a, b in itertools.pairwise(points)):
            return Reason.NO_ENERGY_COUNTER  # reset
        if len({value for t_s, value in points if first_s <= t_s <= last_s}) < MIN_ENERGY_STEPS:
            return Reason.BELOW_RESOLUTION
        first_j, last_j = np.interp((first_s, last_s), *zip(*points, strict=True))
        joules += float(last_j - first_j)
    return joules, run.lines - run.arrivals[0][1], method


def _points(run: Run, gpu: int, name: str) -> list[tuple[float, float]]:
    return [(s["t_ns"] / 1e9, s[name]) for s in run.gpu_samples if s["gpu"] == gpu and s.get(name) is not None]


def _integrated(power: list[tuple[float, float]]) -> list[tuple[float, float]]:
    steps = ((b[1] + a[1]) / 2 * (b[0] - a[0]) for a, b in itertools.pairwise(power))
    return list(zip((t_s for t_s, _ in power), itertools.accumulate(steps, initial=0.0), strict=True))


def summarise_gpu(gpu: dict[str, Any] | str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return the estimates of bench.json that concern GPUs.

    Args:
        gpu: That of the first run's run.json, valid or not: without a GPU its code is the reason.
        runs: The valid runs.
    """
    if isinstance(gpu, str):
        return {
            "gpu_ram_bytes": {"value": None, "reason": gpu},
            "energy_j_per_record": {"value": None, "reason": Reason.NO_ENERGY_COUNTER},
        }
    energy = [gpu_energy(run) for run in runs]
    measured = [e for e in energy if not isinstance(e, Reason)]
    method = "power" if any(method == "power" for _, _, method in measured) else "counter"
    per_record = estimate_of([e if isinstance(e, Reason) else e[:2] for e in energy], method)
    ram = mean_of([gpu_ram_bytes(run) for run in runs], gpu["source"])
    return {"gpu_ram_bytes": ram, "energy_j_per_record": per_record}
