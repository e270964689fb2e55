"""Start-up of a run and of several."""

import pytest
from run_folders import INIT_S, RATE, at_once, run_of, steady

from morocco_lib.analysis import startup
from morocco_lib.analysis.segments import Segment
from morocco_lib.analysis.throughput import Throughput
from morocco_lib.reasons import Reason

NONE = Throughput(None, [], Reason.NO_STREAM)


def speed_of(per_s=RATE, first_use_s=0.0, method="stream"):
    return Throughput(method, [Segment(100, 100 / per_s, [])], first_use_s=first_use_s)


def held(ready_s=None, quiet_s=None, fed_s=INIT_S, began_s=INIT_S, size=400):
    """Return a run that was fed late."""
    return run_of(steady(size, 8, begin_s=began_s), ready_s=ready_s, quiet_s=quiet_s, fed_s=fed_s)


def fed_at_once(start_s, size=8):
    return run_of(steady(size, 8, begin_s=start_s), fed_s=0.001)


@pytest.mark.parametrize(
    ("run", "settled_s"),
    [
        (held(ready_s=0.7), 0.7),
        (held(ready_s=0.7, quiet_s=0.79), 0.7),
        (held(ready_s=0.7, quiet_s=0.81), 0.81),  # still busy after it said that it was ready
        (held(quiet_s=0.6), 0.6),
        (held(ready_s=1.2, quiet_s=0.6), 0.6),  # printed when it had been fed
        (held(), None),
    ],
)
def test_a_run_has_settled_when_it_is_ready_or_quiet_before_it_is_fed(run, settled_s):
    assert run.settled_s == settled_s


@pytest.mark.parametrize("arrivals", [steady(1000, 1), steady(1000, 32), steady(2000, 203), at_once(500, INIT_S + 1)])
def test_the_start_up_of_a_run_is_its_time_to_the_last_answer_less_all_work(arrivals):
    assert startup.init_s(run_of(arrivals), RATE) == pytest.approx(INIT_S, abs=1e-9)


def test_start_up_is_never_negative_and_without_a_speed_it_is_readiness():
    assert startup.init_s(run_of(at_once(500, 0.5)), RATE) == 0.0
    assert startup.init_s(run_of(at_once(500, 0.5), ready_s=0.2), None) == 0.2
    assert startup.init_s(run_of([]), RATE) is startup.init_s(run_of(at_once(5, 1.0)), None) is Reason.NO_READINESS


def test_start_up_is_when_the_program_settled_where_starts_that_were_fed_at_once_took_no_longer():
    runs = [held(ready_s=s) for s in (0.7, 0.72)]
    found = startup.start_s(runs, speed_of(), [fed_at_once(0.8)])
    assert (found["value"], found["method"]) == (pytest.approx(0.71), "ready")
    runs = [held(quiet_s=0.7), held(ready_s=0.7)]
    assert startup.start_s(runs, speed_of(), [fed_at_once(0.8)])["method"] == "quiet"


@pytest.mark.parametrize(("start_s", "confirmed"), [(0.93, True), (0.94, False), (0.2, True)])
def test_a_start_may_take_a_quarter_longer(start_s, confirmed):
    found = startup.start_s([held(ready_s=0.7)], speed_of(method="paired"), [fed_at_once(start_s)])
    assert (found["value"], found["method"]) == (
        pytest.approx(0.7 if confirmed else start_s),
        "ready" if confirmed else "total",
    )
    found = startup.start_s([held(ready_s=0.01, quiet_s=0.02)], speed_of(), [fed_at_once(0.11)])
    assert found["method"] == "ready"  # a tenth of a second says nothing


def test_what_is_loaded_at_first_use_is_start_up():
    starts = [fed_at_once(s) for s in (3.0, 3.1, 3.2)]
    found = startup.start_s([held(ready_s=0.1, began_s=INIT_S + 2.9)] * 3, speed_of(first_use_s=2.9), starts)
    assert found["value"] == pytest.approx(3.1) and found["method"] == "total" and found["low"] < 3.0


def test_without_starts_that_were_fed_at_once_the_runs_must_do():
    assert startup.start_s([held(ready_s=0.7)], speed_of())["value"] == 0.7
    lazy = startup.start_s([held(ready_s=0.7, began_s=1.5)], speed_of(first_use_s=0.5))
    assert lazy["value"] == pytest.approx(1.5) and lazy["method"] == "total"
    assert startup.start_s([held()], NONE) == {"value": None, "reason": Reason.NO_READINESS}


def test_start_ups_of_two_groups_have_the_median_and_the_range():
    runs = [held(ready_s=s, fed_s=2.5, began_s=2.5) for s in (1.0, 1.02, 2.0)]
    expected = {"value": 1.02, "low": 1.0, "high": 2.0, "method": "median", "scope": "runs"}
    assert startup.start_s(runs, speed_of()) == expected
