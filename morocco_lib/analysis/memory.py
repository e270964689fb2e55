"""Memory and CPU time of a run."""

from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.segments import MIN_ARRIVALS
from morocco_lib.reasons import Reason


def ram_bytes(run: Run) -> float | Reason:
    """Return the peak of anonymous and shared memory of the whole tree.

    The largest sample, raised to the kernel's own peak less the most file cache and kernel memory ever sampled.
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
