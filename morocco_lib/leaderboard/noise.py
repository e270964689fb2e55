"""Whether the times of one run were made from those of another. No two runs keep the same time to a nanosecond.

Two runs of one program on the same records resemble each other, batch by batch: that is no sign of a copy. What no two share
is the noise below: a thread that wakes up later, a page that is not in memory. It is some microseconds an answer.

Limits: noise that was invented, microseconds of it and more, is not found; only a second measurement shows that (--rerun).
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from morocco_lib.analysis.run_files import Run

KEPT, LEAST = 64, 8  # intervals of a run that are kept, and without which nothing is said
EQUAL_SHARE = 0.5  # of the intervals of a run that another has, too
SCALED_NS = 100.0  # what is left of the intervals of a run beside those of another, scaled; rounding leaves 1
DISTINCT_SHARE = 0.25  # of the intervals of a run; a clock of 70 ns gives more


def intervals(run: Run) -> list[int]:
    """Return the ns between the arrivals of answers, or where these are few between samples; [] where both are."""
    for times in ([round(t_s * 1e9) for t_s, _ in run.arrivals], [s["t_ns"] for s in run.samples if "t_ns" in s]):
        found = [later - earlier for earlier, later in pairwise(times)][:KEPT]
        if len(found) >= LEAST:
            return found
    return []


def is_copy(one: Sequence[int], two: Sequence[int]) -> bool:
    """Tell whether the intervals of one run are those of another: moved, cut, in another order, or all scaled alike."""
    distinct = set(one), set(two)
    if min(map(len, distinct)) >= LEAST and len(set.intersection(*distinct)) > EQUAL_SHARE * min(map(len, distinct)):
        return True
    pairs = [(a, b) for a, b in zip(one, two, strict=False) if a > 0 and b > 0]
    if len(pairs) < LEAST:
        return False
    factor = median(a / b for a, b in pairs)
    return median(abs(a - factor * b) for a, b in pairs) < SCALED_NS


def is_made_up(one: Sequence[int]) -> bool:
    """Tell whether intervals repeat as no clock's do."""
    return len(set(one)) <= DISTINCT_SHARE * len(one)
