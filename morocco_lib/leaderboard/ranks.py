"""Numbers of models on tasks, with intervals -> ranks that say no more than the measurements do. Pure: arrays in, arrays out.

A total is the mean over tasks. Each number is drawn anew from its own 95 % interval, which holds what runs and records leave
open (parametric bootstrap), and the tasks are drawn with replacement, the same for all models, as their totals are compared on
the same tasks. A model ranks above another where the interval of their difference, of all pairs jointly at 95 % (max-|t|:
Westfall and Young, 1993; ranks from it: Mogstad et al., Review of Economic Studies, 2024), is above 0. Few tasks show little of
how tasks differ: the joint bound is widened by Student's t over the normal quantile.
"""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS, LEVEL = 2000, 0.95
NORMAL = 1.959964  # the 97.5 % quantile
SUBSETS = 2000  # of tasks, at most


@dataclass(frozen=True)
class Ranking:
    """Of each model, in the order given.

    Attributes:
        total, low, high: The mean over these tasks with its interval, of all models jointly.
        rank, last: Where it ranks at best, and at worst: models whose ranges overlap are tied.
        subset_rank, subset_last: The best and the worst place by the mean over any half of the tasks or more.
        draws: Of the totals, (DRAWS, models): runs and records drawn, tasks as they are.
    """

    total: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rank: np.ndarray
    last: np.ndarray
    subset_rank: np.ndarray
    subset_last: np.ndarray
    draws: np.ndarray


def rank(values: np.ndarray, spreads: np.ndarray, seed: int = 1) -> Ranking:
    """Rank models by their means over tasks, the highest first.

    Args:
        values: (models, tasks).
        spreads: Standard deviation of each value.
    """
    models, tasks = values.shape
    generator = np.random.default_rng(seed)
    total = values.mean(axis=1)
    cells = values + spreads * generator.standard_normal((DRAWS, models, tasks))
    draws = cells.mean(axis=2)
    bound = _quantile(np.abs(_over(draws - total, draws.std(axis=0))).max(axis=1))
    half = bound * draws.std(axis=0)

    weights = np.stack(
        [np.bincount(drawn, minlength=tasks) for drawn in generator.integers(tasks, size=(DRAWS, tasks))]
    )
    moved = np.einsum("dmt,dt->dm", cells, weights / tasks) - total
    spread = np.stack([(moved - moved[:, [m]]).std(axis=0) for m in range(models)])  # of each pair
    largest = np.zeros(DRAWS)
    for m in range(models):
        largest = np.maximum(largest, np.abs(_over(moved - moved[:, [m]], spread[m])).max(axis=1))
    above = total[:, None] - total > _few(tasks) * _quantile(largest) * spread
    of_subsets = np.stack([values[:, list(chosen)].mean(axis=1) for chosen in subsets(tasks)])
    places = 1 + (of_subsets[:, :, None] < of_subsets[:, None, :]).sum(axis=2)
    return Ranking(
        total, total - half, total + half, 1 + above.sum(axis=0), models - above.sum(axis=1), places.min(axis=0), places.max(axis=0), draws
    )  # fmt: skip


def _over(numbers: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return np.divide(numbers, spread, out=np.zeros_like(numbers), where=spread > 0)


def _quantile(values: np.ndarray) -> float:
    return float(np.quantile(values, LEVEL))


def _few(tasks: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(tasks - 1, 0.975)) / NORMAL if tasks > 1 else 1.0


def subsets(tasks: int) -> Sequence[tuple[int, ...]]:
    """Return the subsets of half of the tasks or more; of many tasks some, drawn by seed."""
    least = math.ceil(tasks / 2)
    if 2**tasks <= 2 * SUBSETS:
        sizes = range(least, tasks + 1)
        return [chosen for size in sizes for chosen in itertools.combinations(range(tasks), size)]
    generator = random.Random(1)
    drawn = (generator.sample(range(tasks), generator.randint(least, tasks)) for _ in range(SUBSETS))
    return [tuple(chosen) for chosen in drawn]


def spread_of(value: float, low: float | None, high: float | None) -> float:
    """Return the standard deviation that a 95 % interval stands for; 0 without one, of half an interval that of its half."""
    ends = [abs(end - value) for end in (low, high) if end is not None]
    return max(ends, default=0.0) / NORMAL
