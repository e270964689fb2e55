"""How often runs that look for a cache accuse: simulated honest programs and caches."""

import math
import random

import pytest

from morocco_lib.analysis import caching

NOISE = [(0.01, 0.0), (0.03, 0.0), (0.05, 0.0), (0.15, 0.0), (0.03, 0.2)]  # of a run; share of runs at half speed


def experiment(rng: random.Random, noise: float, drift: float, gain: float, slowed: float = 0.0) -> bool:
    """Return whether runs that vary by `noise`, on a machine that drifts by up to `drift` in all, speak against a program."""
    slope, speeds = rng.uniform(-drift, drift), {"unique": [], "repeated": []}
    kinds = ("unique", "repeated")
    for place, kind in enumerate((*kinds, *reversed(kinds), *kinds)):
        true = gain if kind == "repeated" else 1.0
        true *= 0.5 if rng.random() < slowed else 1.0
        speeds[kind].append(true * math.exp(slope * place / 5 + rng.gauss(0, noise)))
    found = caching.compare(**{f"{kind}_per_s": of_kind for kind, of_kind in speeds.items()})
    return found["fires"] or found["skips"]


@pytest.mark.parametrize("drift", [0.0, 0.1])
@pytest.mark.parametrize(("noise", "slowed"), NOISE)
def test_honest_programs_are_accused_less_than_once_in_a_hundred(noise, slowed, drift):
    rng = random.Random(f"{noise}/{slowed}/{drift}")
    assert sum(experiment(rng, noise, drift, 1.0, slowed) for _ in range(5000)) <= 50


@pytest.mark.parametrize(("noise", "slowed"), NOISE)
def test_a_cache_before_nine_tenths_of_the_work_is_found_in_99_of_100(noise, slowed):
    rng = random.Random(f"{noise}/{slowed}")
    gain = 1 / 0.145  # of 80 records four are new
    assert sum(experiment(rng, noise, 0.1, gain, slowed) for _ in range(500)) >= 495
