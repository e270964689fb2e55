"""Ranks follow from numbers and their intervals, and models that these do not tell apart are tied."""

import numpy as np
import pytest

from morocco_lib.analysis import pareto
from morocco_lib.leaderboard import ranks


def of(rows, spread):
    values = np.array(rows, dtype=float)
    return ranks.rank(values, np.full(values.shape, float(spread)))


def test_models_far_apart_are_ranked_and_near_ones_tied():
    tasks = np.linspace(0, 5, 9)
    found = of([tasks + 1, tasks + 3, tasks + 1.01, tasks], 0.05)
    assert list(found.rank) == [2, 1, 2, 4] and list(found.last) == [3, 1, 3, 4]
    assert found.total == pytest.approx([3.5, 5.5, 3.51, 2.5])
    assert ((found.low < found.total) & (found.total < found.high)).all()
    half = (found.high - found.low) / 2
    assert half == pytest.approx(np.full(4, 2.5 * 0.05 / 3), rel=0.1)  # for four models jointly 2.5, for one alone 1.96
    noisy = of([tasks + 1, tasks + 3, tasks + 1.01, tasks], 5)
    assert list(noisy.rank) == [1, 1, 1, 1] and list(noisy.last) == [4, 4, 4, 4]


def test_the_tasks_that_were_chosen_are_chance_too():
    spread_out = np.array([4.0, -2, 3, -3, 5, -4, 2, -1, 5])  # better by 1 in the mean, on five tasks of nine
    assert list(of([spread_out, np.zeros(9)], 1e-3).rank) == [1, 1]
    assert list(of([np.full(9, 1.0) + spread_out / 100, np.zeros(9)], 1e-3).rank) == [1, 2]


def test_one_task_one_model_and_no_intervals():
    assert list(of([[1], [2]], 0.1).rank) == [2, 1] and list(of([[1], [1.1]], 0.1).rank) == [1, 1]
    assert list(of([[1, 2]], 0.1).last) == [1]
    assert list(of([[1], [2]], 0).rank) == [2, 1] and list(of([[1], [1]], 0).rank) == [1, 1]


def test_places_over_subsets_of_tasks():
    found = of([[9, 0, 0, 0], [1, 1, 1, 1]], 0.01)
    assert (list(found.subset_rank), list(found.subset_last)) == ([1, 1], [2, 2])
    assert list(of([[2, 2, 2, 2], [1, 1, 1, 1]], 0.01).subset_last) == [1, 2]
    assert len(ranks.subsets(9)) == 256 and min(map(len, ranks.subsets(9))) == 5
    assert len(ranks.subsets(30)) == ranks.SUBSETS and all(len(set(chosen)) >= 15 for chosen in ranks.subsets(30))


def test_the_front_says_how_sure_it_is():
    generator = np.random.default_rng(1)
    score, speed = (generator.normal(mean, 0.1, (2000, 3)) for mean in ([1, 2, 2], [5, 3, 3]))
    shares = pareto.undominated(np.stack([score, speed], axis=-1)).mean(axis=0)
    assert shares[0] == 1 and shares[1:] == pytest.approx([0.75, 0.75], abs=0.03)  # one of two alike is worse in both
    assert list(pareto.undominated(np.array([[1.0, 1.0], [1.0, 1.0], [0.5, 2.0]]))) == [1, 1, 1]
    assert list(pareto.undominated(np.array([[1.0, 1.0], [1.0, 0.5]]))) == [1, 0]


@pytest.mark.parametrize(
    ("low", "high", "spread"), [(8.04, 11.96, 1), (8.04, None, 1), (None, None, 0), (8.04, 10.5, 1)]
)
def test_an_interval_is_read_as_a_spread(low, high, spread):
    assert ranks.spread_of(10, low, high) == pytest.approx(spread, rel=1e-4)
