"""Pure: gold and predictions -> numbers. No task, file or clock is known here."""

import math
import re
import string
from collections import Counter
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


def wilson_interval(successes: int, n: int) -> Interval:
    """Return Wilson's score interval of a share, 95 %.

    Args:
        successes: How many of `n` succeeded.
        n: Number of independent trials, above 0.
    Limits: records drawn in groups (the same premise twice) are not independent; the interval is then too narrow.
    Source: E. B. Wilson, JASA 22 (1927), 209-212.
    """
    p, z = successes / n, 1.959963984540054  # of the normal distribution, 97.5 % lie below
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half), "wilson 95 %")


# -- ReCoRD's string metrics ---------------------------------------------------------------------------------------
def normalise_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation and English articles, collapse whitespace.

    Source: ReCoRD evaluation (Zhang et al., 2018); Russian quotes and dashes stay, as there.
    """
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(gold: str, prediction: str) -> float:
    """Return 1 if two answers are the same after normalisation, else 0."""
    return float(normalise_answer(gold) == normalise_answer(prediction))


def token_f1(gold: str, prediction: str) -> float:
    """Return the F1 of the tokens two answers share after normalisation."""
    right, given = normalise_answer(gold).split(), normalise_answer(prediction).split()
    shared = (Counter(right) & Counter(given)).total()
    return 2 * shared / (len(right) + len(given)) if shared else 0.0


# -- intervals of what is not a share ------------------------------------------------------------------------------
def bootstrap_interval(statistics, value, draws: int = 2000, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval of a value of column sums, units drawn with replacement.

    Args:
        statistics: Shape (units, k): what each unit (a record, a passage) adds to the sums.
        value: Function from sums of shape (draws, k) to values of shape (draws,).
    Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), ch. 13.
    """
    return _quantiles([statistics], value, draws, seed)


def paired_interval(one, other, value, draws: int = 2000, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval of value(one) - value(other), both over the same units in each draw.

    Args: see `bootstrap_interval`; `one` and `other` hold the same units in the same order.
    """
    return _quantiles([one, other], lambda a, b: value(a) - value(b), draws, seed)


def _quantiles(tables, value, draws: int, seed: int) -> Interval:
    import numpy as np

    tables = [np.asarray(table, dtype=float) for table in tables]
    rng, n = np.random.default_rng(seed), len(tables[0])
    values = []
    for _ in range(0, draws, 200):  # 200 draws at a time keep memory flat on large splits
        counts = rng.multinomial(n, np.full(n, 1 / n), size=200)
        values.append(value(*(counts @ table for table in tables)))
    low, high = np.quantile(np.concatenate(values), (0.025, 0.975))
    return Interval(float(low), float(high), "bootstrap 95 %")


# -- confusion tables: scores of their sums, and cells to draw bootstrap samples from --------------------------------
def confusion_cells(gold: Sequence, predictions: Sequence, labels: Sequence):
    """Return an array of shape (records, labels x labels): 1 in the cell (right, given) of each record."""
    import numpy as np

    place = {label: k for k, label in enumerate(labels)}
    cells = np.zeros((len(gold), len(labels) ** 2))
    cells[np.arange(len(gold)), [place[g] * len(labels) + place[p] for g, p in zip(gold, predictions, strict=True)]] = 1
    return cells


def _square(sums):
    size = math.isqrt(sums.shape[1])
    return sums.reshape(-1, size, size)


def accuracy_of(sums):
    """Return accuracies, shape (draws, labels x labels) -> (draws,)."""
    square = _square(sums)
    return square.trace(axis1=1, axis2=2) / square.sum(axis=(1, 2))


def f1_of(sums):
    """Return the F1 of each label, 0 for one neither right nor given; (draws, labels x labels) -> (draws, labels)."""
    square = _square(sums)
    right = square.diagonal(axis1=1, axis2=2)
    both = square.sum(axis=1) + square.sum(axis=2)
    return 2 * right / both.clip(min=1)


def macro_f1_of(sums):
    """Return the unweighted mean of the F1 of every label, shape (draws,)."""
    return f1_of(sums).mean(axis=1)


def mcc_of(sums):
    """Return Matthews' correlation, shape (draws,); 0 where one side has a single class."""
    import numpy as np

    square = _square(sums)
    n, given, right = square.sum(axis=(1, 2)), square.sum(axis=1), square.sum(axis=2)
    covariance = square.trace(axis1=1, axis2=2) * n - (given * right).sum(axis=1)
    spread = np.sqrt((n**2 - (given**2).sum(axis=1)) * (n**2 - (right**2).sum(axis=1)))
    return np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0)


# -- correlation of numbers --------------------------------------------------------------------------------------------
def moments(one: Sequence[float], other: Sequence[float]):
    """Return what each pair of numbers adds to the sums of `pearson_of`, shape (pairs, 6).

    Both sides are shifted and scaled into -1 to 1 first, which no correlation feels, so that sums of squares stay exact.
    """
    import numpy as np

    scaled = []
    for values in (np.asarray(one, dtype=float), np.asarray(other, dtype=float)):
        values = values / max(np.abs(values).max(), 1)  # the mean of large numbers overflows
        values = values - values.mean()
        scaled.append(values / (np.abs(values).max() or 1))
    x, y = scaled
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def pearson_of(sums):
    """Return Pearson's correlations, shape (draws, 6) -> (draws,); 0 where one side is constant."""
    import numpy as np

    n, x, y, xx, yy, xy = sums.T
    spread = np.sqrt((n * xx - x * x).clip(min=0) * (n * yy - y * y).clip(min=0))
    return np.divide(n * xy - x * y, spread, out=np.zeros_like(spread), where=spread > 1e-12 * n * n)


def ranks(values: Sequence[float]):
    """Return the places of numbers in their order from 1; equal ones share the mean of theirs."""
    import numpy as np

    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]
