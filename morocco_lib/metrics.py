"""Pure: gold and predictions -> numbers. No task, file or clock is known here."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A 95 % confidence interval and how it was made."""

    low: float
    high: float
    method: str


def accuracy(gold: Sequence, predictions: Sequence) -> float:
    """Return the share of predictions equal to gold, 0..1; both sequences have the same length above 0."""
    if not gold:
        raise ValueError("accuracy of no records")
    return sum(g == p for g, p in zip(gold, predictions, strict=True)) / len(gold)


def wilson_interval(successes: int, n: int, z: float = 1.959963984540054) -> Interval:
    """Return Wilson's score interval of a share.

    Args:
        successes: How many of `n` succeeded.
        n: Number of independent trials, above 0.
        z: Normal quantile; the default gives 95 %.
    Limits: records drawn in groups (the same premise twice) are not independent; the interval is then too narrow.
    Source: E. B. Wilson, JASA 22 (1927), 209-212.
    """
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half), "wilson 95 %")
