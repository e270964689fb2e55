"""Operating points of which none is better in everything, and how sure that is."""

from collections.abc import Sequence
from typing import Any

DRAWS = 500
CHUNK, MOST_PAIRS = 20, 20_000_000  # draws at once, which fit into the cache of a processor; pairs of points in them
FEW = 50  # points; of more, those that no draw would leave on the front are left out
SURE = 6  # standard deviations
Z = 1.96  # an interval of 95 % is so many standard deviations to either side


def front(points: Sequence[Sequence[dict[str, Any]]], draws: int = DRAWS, seed: int = 0) -> list[tuple[bool, float]]:
    """Return for each point whether it is on the Pareto front, and in which share of draws from its intervals it is.

    A point is off the front if another is at least as good in every number and better in one.

    Args:
        points: Of each its estimates {"value", "low", "high"} in one order, more being better; `low` None: no uncertainty.
        draws: Points drawn anew, each number normally distributed with its 95 % interval, independently of all others.
    Limits: time grows with the square of the number of points that are on the front in some draw.
    """
    import numpy as np

    if not points:
        return []
    centre = np.array([[e["value"] for e in point] for point in points], float)
    spread = np.array([[_spread(e) for e in point] for point in points], float)
    kept = _contenders(centre - SURE * spread, centre + SURE * spread) if len(points) > FEW else np.arange(len(points))
    on, often = np.zeros(len(points), bool), np.zeros(len(points))
    on[kept] = undominated(centre[kept])
    rng, chunk = np.random.default_rng(seed), max(1, min(CHUNK, MOST_PAIRS // len(kept) ** 2))
    for begin in range(0, draws, chunk):
        drawn = rng.normal(centre, spread, (min(chunk, draws - begin), *centre.shape))
        often[kept] += undominated(drawn[:, kept]).sum(axis=0)
    often /= draws
    return [(bool(o), float(share)) for o, share in zip(on, often, strict=True)]


def _contenders(worst, best):
    """Return the places of the points whose best is not beaten by what another one is at worst."""
    import numpy as np

    chunks = np.array_split(np.argsort(-worst.sum(axis=1)), len(worst) // FEW + 1)
    bar = worst[:0]
    for chunk in chunks:
        bar = np.concatenate([bar, worst[chunk]])
        bar = bar[undominated(bar)]

    def beaten(chunk):
        others = best[chunk][:, None]
        return ((bar >= others).all(axis=-1) & (bar > others).any(axis=-1)).any(axis=-1)

    return np.sort(np.concatenate([chunk[~beaten(chunk)] for chunk in chunks]))


def _spread(estimate: dict[str, Any]) -> float:
    return 0.0 if estimate.get("low") is None else (estimate["high"] - estimate["low"]) / (2 * Z)


def undominated(values):
    """Return which points, of an array (..., points, numbers), none of the others beats; see `front`."""
    import numpy as np

    at_least = np.ones((*values.shape[:-1], values.shape[-2]), bool)  # [..., i, j]: j is as good as i in every number
    for k in range(values.shape[-1]):
        at_least &= values[..., None, :, k] >= values[..., :, None, k]
    return ~(at_least & ~at_least.swapaxes(-1, -2)).any(axis=-1)  # as good, and i is not as good as j
