"""Start-up of a run and of several."""

import pytest
from run_folders import INIT_S, at_once, run_of, steady

from morocco_lib.analysis import startup
from morocco_lib.reasons import Reason


def test_start_up_is_readiness_where_the_program_reports_it():
    assert startup.init_s(run_of(steady(1000, 8), ready_s=0.7), {"value": 1.0, "method": "paired"}) == 0.7


@pytest.mark.parametrize("arrivals", [steady(1000, 1), steady(1000, 32), steady(2000, 203)])
def test_start_up_without_readiness_is_the_first_answer_less_its_share_of_work(arrivals):
    assert startup.init_s(run_of(arrivals), {}) == pytest.approx(INIT_S, abs=1e-9)


def test_start_up_is_never_negative():
    assert startup.init_s(run_of([(0.01, 500), *((0.1 * k, 10) for k in range(1, 20))]), {}) == 0.0


def test_of_pairs_it_is_the_last_answer_less_all_work_even_where_the_run_has_a_stream():
    paired = {"value": 100.0, "method": "paired"}
    assert startup.init_s(run_of(at_once(200, 3.0)), paired) == 1.0
    assert startup.init_s(run_of(steady(200, 8, begin_s=2.6)), paired) == pytest.approx(1.0)


def test_a_run_too_short_for_a_speed_takes_that_of_all():
    assert startup.init_s(run_of([(1.5, 10), (1.6, 10)]), {"value": 100.0, "method": "stream"}) == pytest.approx(1.4)
    assert startup.init_s(run_of([(1.5, 10)]), {}) is startup.init_s(run_of([]), {"value": 9.0}) is Reason.NO_READINESS


def test_start_ups_of_two_groups_have_the_median_and_the_range():
    runs = [run_of(steady(40, 4), ready_s=s) for s in (1.0, 1.02, 2.0)]
    expected = {"value": 1.02, "low": 1.0, "high": 2.0, "method": "median", "scope": "runs"}
    assert startup.start_s(runs, {}) == expected
    assert startup.start_s([*runs[:2], run_of([])], {})["reason"] is Reason.NO_READINESS


@pytest.mark.parametrize(
    ("ready_s", "speed", "method"),
    [(1.0, {}, "ready"), (None, {"value": 9.0, "method": "ready"}, "ready"), (None, {}, "stream")],
)
def test_the_method_is_that_of_readiness_or_of_the_speed(ready_s, speed, method):
    runs = [run_of(steady(1000, 8), ready_s=s) for s in (1.0, ready_s)]
    assert startup.start_s(runs, speed)["method"] == method
