"""Operating points of which none is better in everything, and how sure that is."""

from collections.abc import Sequence
from typing import Any

DRAWS = 500
FEW = 100  # points; of more, each is held against the best alone before those that are left are held against each other
Z = 1.96  # an interval of 95 % is so many standard deviations to either side


def front(points: Sequence[Sequence[dict[str, Any]]], draws: int = DRAWS, seed: int = 0) -> list[tuple[bool, float]]:
    """Return for each point whether it is on the Pareto front, and in which share of draws from its intervals it is.

    A point is off the front if another is at least as good in every number and better in one.

    Args:
        points: Of each its estimates {"value", "low", "high"} in one order, more being better; `low` None: no uncertainty.
        draws: Points drawn anew, each number normally distributed with its 95 % interval, independently of all others.
    """
    import numpy as np

    if not points:
        return []
    centre = np.array([[e["value"] for e in point] for point in points], float)
    spread = np.array([[_spread(e) for e in point] for point in points], float)
    rng, on, often = np.random.default_rng(seed), np.zeros(len(points), bool), np.zeros(len(points))
    best = np.argsort(-centre.argsort(axis=0).argsort(axis=0).sum(axis=1))[:FEW]
    on[_on_front(centre, best)] = True
    if len(points) <= FEW:
        often += undominated(rng.normal(centre, spread, (draws, *centre.shape))).sum(axis=0)
    else:
        for _ in range(draws):
            often[_on_front(rng.normal(centre, spread), np.flatnonzero(on))] += 1
    often /= draws
    return [(bool(o), float(share)) for o, share in zip(on, often, strict=True)]


def _on_front(values, best):
    """Return the places of the points that no other one beats; the more of these are among `best`, the sooner."""
    import numpy as np

    left = np.flatnonzero(~_beaten(values, values[best]))
    return left[undominated(values[left])]  # one that is beaten beats none that its better does not


def _spread(estimate: dict[str, Any]) -> float:
    return 0.0 if estimate.get("low") is None else (estimate["high"] - estimate["low"]) / (2 * Z)


def undominated(values):
    """Return which points, of an array (..., points, numbers), none of the others beats; see `front`."""
    return ~_beaten(values, values)


def _beaten(values, others):
    """Return which points one of the others beats."""
    import numpy as np

    at_least = np.ones((*values.shape[:-1], others.shape[-2]), bool)  # [..., i, j]: j is as good as i in every number
    better = ~at_least  # in one
    for k in range(values.shape[-1]):
        one, other = values[..., :, None, k], others[..., None, :, k]
        at_least &= other >= one
        better |= other > one
    return (at_least & better).any(axis=-1)
