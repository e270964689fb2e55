"""Memory and CPU time of a run."""

from collections.abc import Mapping
from statistics import median_low
from typing import Any

from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.segments import MIN_ARRIVALS
from morocco_lib.reasons import Reason

OTHERS = ("mapped_bytes", "huge_bytes", "swap_bytes")  # of a sample; those of before they were counted lack them


def held_bytes(sample: Mapping[str, Any]) -> int:
    """Return what the whole tree held at a sample: `counted` of run.json says what that is."""
    return sample["anon_bytes"] + sample["shmem_bytes"] + _others(sample)


def _others(sample: Mapping[str, Any]) -> int:
    return sum(sample.get(name, 0) for name in OTHERS)


def ram_bytes(run: Run) -> float | Reason:
    """Return the peak of what the whole tree held: all but clean file cache that nobody maps, and the kernel's own.

    The largest sample, raised to the kernel's own peak less the most file cache and kernel memory ever sampled; as that
    tells nothing of mapped files at the peak, what was mapped most of the time is added.
    Limits: with the /proc source anonymous and shared memory that several processes share counts once for each.
    """
    if not run.samples:
        return Reason.NO_SAMPLES
    largest = max(map(held_bytes, run.samples))
    memory = run.facts["memory"]
    floors = [memory["high_water_bytes"] or 0]
    if memory["cgroup_peak_bytes"] is not None:
        other = max(s["file_bytes"] for s in run.samples) + max(s["kernel_bytes"] or 0 for s in run.samples)
        floors.append(memory["cgroup_peak_bytes"] - other)
    return float(max(largest, max(floors) + median_low(map(_others, run.samples))))


def method_of(memory: Mapping[str, Any]) -> str:
    """Return the method of `ram_bytes`; runs of before mapped files were counted have another one."""
    return memory["source"] + " with mapped files" * ("counted" in memory)


def cpu_of_stream(run: Run) -> tuple[float, int] | Reason:
    """Return (CPU seconds, records) from the first byte fed to the last answer; in runs of old, from the first answer."""
    marks = {s["mark"]: s["cpu_s"] for s in run.samples if "mark" in s}
    if {"fed", "last_answer"} <= marks.keys() and run.facts.get("withheld"):
        return marks["last_answer"] - marks["fed"], run.lines
    if "first_answer" not in marks or "last_answer" not in marks or len(run.arrivals) < MIN_ARRIVALS:
        return Reason.NO_SAMPLES
    return marks["last_answer"] - marks["first_answer"], run.lines - run.arrivals[0][1]
