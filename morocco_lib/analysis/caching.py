"""Does a program know what it is fed? Judged from runs of texts that are all new, and of records of the file.

Texts within a run do not repeat, so nothing is gained by a cache that ends with the program. But runs share records of the
file, so a program gains that keeps answers from run to run, or was given them; and so does one that knows the file and does no
work on what is not in it, as only records of the file are scored. Either is faster on one kind than on the other. Pure.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from morocco_lib.analysis.predictions import read_answers
from morocco_lib.analysis.run_files import Run, read_run
from morocco_lib.analysis.segments import fed_segment
from morocco_lib.analysis.validity import (
    answer_reasons,
    clock_reasons,
    failure_reasons,
    gpu_reasons,
)
from morocco_lib.errors import UsageError
from morocco_lib.reasons import VALID, Reason, verdict

PAIRS = 3  # of runs, one of each kind; fewer have no interval worth the name
RATIO = 1.10  # of the speeds, and
RATIO_LOW = 1.05  # of the lower end of its 99 % interval: above both, the program caches
RATIO_APART = 1.25  # of the slowest repeated run to the fastest unique one: likewise; one delayed run widens intervals
LEAST_SAVED_S = 0.05  # a run; delays by the machine are as long, and so are runs of few records
BUSY_SHARE = 0.25  # of all cores, used by other processes
LEAST_S = 0.001  # of work of a run


def judge(unique_folders: Sequence[Path], repeated_folders: Sequence[Path], first_use_s: float = 0.0) -> dict[str, Any]:
    """Return how much faster records of the file are answered than new ones, and whether that means that the program knows them.

    Args:
        unique_folders, repeated_folders: Folders of finished runs (runs/NN) of new records alone, and of as many of the file
            as it has; one of each a pair, in the same order.
        first_use_s: Of the time from the first byte fed to the last answer, what is no work on records.
    Returns:
        {"value", "low", "high": ratio of the speeds, repeated by unique, with its 95 % interval, "method": "total" (first
        byte fed to last answer, less the first use), "pairs": the ratio in each pair, "fires": records of the file are
        faster, "skips": new ones are; both by records and by bytes}. Where it cannot be known {"value": None, "reason": code,
        "fires": None}: NO_VALID_RUN if any of the runs is invalid or disturbed by more than load, BUSY_MACHINE if one kind is
        faster, but other processes used the CPU and the program's CPU time does not confirm it, NO_STREAM if most of the time
        is no work, or if one kind is faster and runs are so short that this is less than 50 ms.
    Raises:
        UsageError: fewer than three pairs, or a file of a run is missing or broken.
    Limits: finds what saves a tenth of the time and 50 ms a run.
    """
    if len(unique_folders) != len(repeated_folders) or len(unique_folders) < PAIRS:
        runs = f"{len(unique_folders)} runs of unique and {len(repeated_folders)} of repeated texts"
        raise UsageError(runs, rule=f"they come in pairs, at least {PAIRS}", remedy="bench again")
    unique, repeated = ([read_run(Path(f)) for f in folders] for folders in (unique_folders, repeated_folders))
    if any(_is_invalid(run) for run in (*unique, *repeated)):
        return _unknown(Reason.NO_VALID_RUN)
    segments = [[fed_segment(run) for run in kind] for kind in (unique, repeated)]
    if any(isinstance(segment, Reason) for kind in segments for segment in kind):
        return _unknown(Reason.NO_STREAM)
    unique_s, repeated_s = ([max(LEAST_S, s.seconds - first_use_s) for s in kind] for kind in segments)
    kinds = (unique, unique_s), (repeated, repeated_s)
    ratio = compare(*([run.lines / s for run, s in zip(*kind, strict=True)] for kind in kinds))
    of_bytes = compare(*([run.facts["bytes_fed"] / s for run, s in zip(*kind, strict=True)] for kind in kinds))
    ratio |= {name: ratio[name] and of_bytes[name] for name in ("fires", "skips")}
    if ratio["fires"] or ratio["skips"]:
        slow, fast = kinds if ratio["fires"] else reversed(kinds)
        if median(slow[1]) - median(fast[1]) < LEAST_SAVED_S:
            return _unknown(Reason.NO_STREAM)
        if _machine_explains(slow[0], fast[0]):
            return _unknown(Reason.BUSY_MACHINE)
    elif first_use_s > mean(unique_s):
        return _unknown(Reason.NO_STREAM)
    return {**ratio, "method": "total"}


def compare(unique_per_s: Sequence[float], repeated_per_s: Sequence[float]) -> dict[str, Any]:
    """Return the ratio of speeds in pairs as `judge` does, without method.

    The mean of the log ratios with Student's 95 % interval. `fires` requires the ratio above 1.10 and the lower end of
    its 99 % interval above 1.05, or every repeated run above 1.25 times every unique one; `skips` the same of the inverse.
    False alarms are below 1 % for programs whose runs differ by up to 15 %, or of which one run in five is slowed to half its
    speed, on a machine that drifts by up to 10 %.
    """
    from scipy.special import stdtrit

    logs = [math.log(r / u) for u, r in zip(unique_per_s, repeated_per_s, strict=True)]
    centre, error = mean(logs), stdev(logs) / math.sqrt(len(logs))
    half, stricter = (float(stdtrit(len(logs) - 1, level)) * error for level in (0.975, 0.995))

    def faster(sign: int, slow: Sequence[float], fast: Sequence[float]) -> bool:
        clearly = sign * centre > math.log(RATIO) and sign * centre - stricter > math.log(RATIO_LOW)
        return clearly or min(fast) > RATIO_APART * max(slow)

    return {
        "value": math.exp(centre),
        "low": math.exp(centre - half),
        "high": math.exp(centre + half),
        "pairs": [math.exp(log) for log in logs],
        "fires": faster(1, unique_per_s, repeated_per_s),
        "skips": faster(-1, repeated_per_s, unique_per_s),
    }


def _unknown(reason: Reason) -> dict[str, Any]:
    return {"value": None, "reason": reason, "fires": None}


def _machine_explains(slow: Sequence[Run], fast: Sequence[Run]) -> bool:
    # Load of other processes comes and goes in seconds and may slow one kind by chance; the program's CPU time does not.
    others = [run.facts.get("others") for run in (*slow, *fast)]
    if not all(isinstance(load, dict) for load in others):
        return False
    share = mean(load["cores"] / load["of_cores"] for load in others)
    most, least = (pick([run.facts["cpu_s"] or 0.0 for run in runs]) for pick, runs in ((max, fast), (min, slow)))
    return share > BUSY_SHARE and least <= RATIO * most


def _is_invalid(run: Run) -> bool:
    # Without the load of the machine and gaps between samples: pairs of runs in turn cancel them.
    reasons = failure_reasons(run) + clock_reasons(run.facts["clock"]) + gpu_reasons(run.facts["gpu"])
    return verdict(reasons + answer_reasons(read_answers(run).checked.counts)) != VALID
