"""Numbers of runs -> one number with its 95 % interval.

Runs are combined as a ratio of sums, sum(records) / sum(seconds), never as a mean of ratios; the interval is Student's t on the
linearised residuals (Cochran, Sampling Techniques, 1977, ch. 6).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from morocco_lib.reasons import Reason


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


def expected_maximum(n: int) -> float:
    """Return the expected maximum of n draws of a standard normal: by how many standard deviations the best of n is too good.

    Limits: scores of few records, or of runs of two kinds (learnt or not), are not normal.
    Source: H. A. David, H. N. Nagaraja, Order Statistics (2003), ch. 3.
    """
    import numpy as np
    from scipy.special import ndtr

    z = np.linspace(-9, 9, 6001)
    density = n * np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * ndtr(z) ** (n - 1)
    return float(np.sum(z * density) * (z[1] - z[0]))


def estimate_of(ratios: Sequence[tuple[float, float] | Reason], method: str | None = None) -> dict[str, Any]:
    """Return a bench.json estimate of a ratio over runs: value, interval, `method` and scope, or null with its reason.

    Args:
        ratios: (numerator, denominator) of each run, or why there is none; then the first reason is that of the estimate.
    """
    reasons = [ratio for ratio in ratios if isinstance(ratio, Reason)]
    if reasons or not ratios:
        return {"value": None, "reason": reasons[0] if reasons else Reason.NO_VALID_RUN}
    scope = "runs" if len(ratios) > 1 else "run"
    estimate = asdict(ratio_estimate(*zip(*ratios, strict=True)))
    return {**estimate, **({"method": method} if method else {}), "scope": scope}


def mean_of(values: Sequence[float | Reason], method: str | None = None) -> dict[str, Any]:
    """Return a bench.json estimate of one number a run; see `estimate_of`."""
    return estimate_of([v if isinstance(v, Reason) else (v, 1.0) for v in values], method)
