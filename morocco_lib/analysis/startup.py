"""Start-up: from the start of the program until it works on records; with records / speed it makes up the time of a run."""

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from morocco_lib.analysis.intervals import mean_of
from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.segments import two_kinds
from morocco_lib.analysis.throughput import Throughput
from morocco_lib.reasons import Reason

JITTER, JITTER_S = 0.25, 0.1  # of a start-up, and seconds, by which start-ups may differ


def init_s(run: Run, per_s: float | None) -> float | Reason:
    """Return seconds from program start to the last answer less the work on its records: what the start-up was in this run.

    Args:
        per_s: The speed of all runs.
    """
    if per_s is None or not run.arrivals:
        return Reason.NO_READINESS if run.ready_s is None else run.ready_s
    return max(0.0, run.arrivals[-1][0] - run.lines / per_s)


def start_s(runs: Sequence[Run], speed: Throughput, at_once: Sequence[Run] = ()) -> dict[str, Any]:
    """Return the estimate of the start-up; of two groups of start-ups the median with the range.

    It is when a program was ready or quiet before it was fed (method `ready`, `quiet`), if runs that were fed at once took
    no longer: what it loads when the first record comes is start-up, too. Else it is what these took in total, less the
    work on their records (`total`).

    Args:
        runs: The timed runs.
        speed: Of these.
        at_once: Runs that were fed when they were started; without any, `runs` must do.
    """
    per_s = speed.estimate["value"]
    settled = [run.settled_s for run in runs]
    if None in settled or not _confirmed(settled, [init_s(run, per_s) for run in at_once], speed.first_use_s):
        seconds, method = [init_s(run, per_s) for run in at_once or runs], "total"
    else:
        seconds, method = settled, "ready" if all(run.ready_s in settled for run in runs) else "quiet"
    if not any(isinstance(s, Reason) for s in seconds) and two_kinds(seconds):
        low, high = min(seconds), max(seconds)
        return {"value": median(seconds), "low": low, "high": high, "method": "median", "scope": "runs"}
    return mean_of(seconds, method)


def _confirmed(settled: Sequence[float], whole: Sequence[float | Reason], first_use_s: float) -> bool:
    known = [s for s in whole if not isinstance(s, Reason)]
    if not known:
        return not first_use_s
    return fmean(known) - fmean(settled) <= max(JITTER * fmean(known), JITTER_S)
