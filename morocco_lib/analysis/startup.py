"""Start-up: program start to readiness."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from morocco_lib.analysis.intervals import mean_of
from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.segments import stream_segment, two_kinds
from morocco_lib.reasons import Reason


def init_s(run: Run, speed_per_s: Mapping[str, Any]) -> float | Reason:
    """Return seconds from program start to readiness; without readiness, first answer less its own share of work.

    Args:
        speed_per_s: The speed of all runs, for one too short to have its own. Of method `paired`, all answers took
            their share of work before the last one.
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


def start_s(runs: Sequence[Run], speed_per_s: Mapping[str, Any]) -> dict[str, Any]:
    """Return the estimate of the start-up; of two groups of start-ups the median with the range.

    Args:
        speed_per_s: As in `init_s`.
    """
    seconds = [init_s(run, speed_per_s) for run in runs]
    if not any(isinstance(s, Reason) for s in seconds) and two_kinds(seconds):
        low, high = min(seconds), max(seconds)
        return {"value": median(seconds), "low": low, "high": high, "method": "median", "scope": "runs"}
    ready = all(run.ready_s is not None for run in runs)
    return mean_of(seconds, "ready" if ready else speed_per_s.get("method") or "stream")
