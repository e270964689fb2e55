"""Numbers of runs -> one number with its 95 % interval: by hand, and as numpy and scipy have it."""

import numpy
import pytest
import scipy.stats

from morocco_lib.analysis.intervals import expected_maximum, mean_of, ratio_estimate
from morocco_lib.reasons import Reason


def test_the_ratio_is_that_of_the_sums_not_the_mean_of_ratios():
    assert ratio_estimate([100, 300], [1, 1.5]).value == pytest.approx(160)  # the mean of ratios is 150


def test_the_interval_is_the_one_computed_by_hand():
    # 6 / 4 = 1.5; residuals 0.5 and -0.5; sqrt(0.5 * 2 / 1) = 1; t(1 df) = 12.7062; 12.7062 / 4 = 3.17655
    estimate = ratio_estimate([2, 4], [1, 3])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1.5, 0.0, 4.67655), abs=1e-5)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_is_the_linearised_one(n):
    random_numbers = numpy.random.default_rng(n)
    x, y = random_numbers.uniform(1, 3, n), random_numbers.uniform(900, 1100, n)
    ratio = y.sum() / x.sum()
    half = scipy.stats.t.ppf(0.975, n - 1) * numpy.sqrt(n * numpy.var(y - ratio * x, ddof=1)) / x.sum()
    estimate = ratio_estimate(y.tolist(), x.tolist())
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((ratio, max(0, ratio - half), ratio + half))


def test_one_unit_has_no_interval():
    estimate = ratio_estimate([100], [0.5])
    assert (estimate.value, estimate.low, estimate.high) == (200, None, None)


def test_numbers_of_several_runs_are_means_with_students_interval():
    estimate = mean_of([100.0, 110.0, 120.0], "cgroup v2")
    low, high = scipy.stats.t.interval(0.95, 2, 110, scipy.stats.sem([100, 110, 120]))
    assert (estimate["value"], estimate["low"], estimate["high"]) == pytest.approx((110, low, high))
    assert (estimate["method"], estimate["scope"]) == ("cgroup v2", "runs")


def test_a_number_of_one_run_has_no_interval_and_no_method_it_was_not_given():
    assert mean_of([7.0]) == {"value": 7.0, "low": None, "high": None, "scope": "run"}


def test_one_run_without_a_number_leaves_the_point_without_it():
    assert mean_of([1.0, Reason.NO_CGROUP, Reason.NO_SAMPLES]) == {"value": None, "reason": Reason.NO_CGROUP}
    assert mean_of([]) == {"value": None, "reason": Reason.NO_VALID_RUN}
    assert mean_of([1.0, 3.0])["scope"] == "runs"


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_the_expected_maximum_is_that_of_draws(n):
    draws = numpy.random.default_rng(1).standard_normal((200_000, n)).max(axis=1)
    assert expected_maximum(n) == pytest.approx(draws.mean(), abs=0.006)
