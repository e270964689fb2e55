"""Which points are on the front, and how often in draws from their intervals."""

import numpy as np
import pytest

from morocco_lib.analysis import pareto
from morocco_lib.analysis.pareto import front


def point(*values, half=0.0):
    return [{"value": v, "low": v - half if half else None, "high": v + half if half else None} for v in values]


def test_points_that_another_equals_or_beats_in_everything_are_off_the_front():
    points = [point(1, 3), point(2, 2), point(3, 1), point(2, 1), point(2, 2)]
    assert [on for on, _ in front(points)] == [True, True, True, False, True]
    assert [share for _, share in front(points)] == [1, 1, 1, 0, 1]  # nothing is uncertain
    assert front([]) == []


def test_a_point_within_the_interval_of_a_better_one_is_on_the_front_as_often_as_it_wins():
    # Both equal in the first number; the second differs by one standard deviation of the difference: P = 0.159.
    one, other = point(1, 10), point(1, 10)
    one[1] |= {"low": 10 - 1.96, "high": 10 + 1.96}
    other[1] |= {"value": 10 - 2**0.5, "low": 10 - 2**0.5 - 1.96, "high": 10 - 2**0.5 + 1.96}
    (on, often), (off, seldom) = front([one, other], draws=4000)
    assert (on, off) == (True, False)
    assert often == pytest.approx(0.841, abs=0.02) and seldom == pytest.approx(0.159, abs=0.02)


def test_of_many_points_the_front_is_that_of_all_though_few_are_compared(monkeypatch):
    values = np.random.default_rng(1).normal(size=(900, 3))
    points = [point(*row, half=0.1) for row in values]
    few = front(points, draws=20)
    monkeypatch.setattr(pareto, "FEW", len(points))
    assert few == front(points, draws=20) and 10 < sum(on for on, _ in few) < sum(share > 0 for _, share in few) < 500
