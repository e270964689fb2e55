"""Runs -> their speed: one rule for the headline and for every run."""

import pytest
from run_folders import INIT_S, RATE, at_once, burst, derived, run_of, steady

from morocco_lib.analysis import throughput
from morocco_lib.analysis.intervals import ratio_estimate
from morocco_lib.analysis.segments import Segment
from morocco_lib.reasons import Reason


def speed(runs, *others) -> tuple[dict, list]:
    result = throughput.read(runs, *others)
    return result.estimate, list(result.notes)


# -- one size ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ready_s", [None, INIT_S])
def test_lines_are_counted_where_a_buffer_holds_many_batches(ready_s):
    # 203 lines fill the buffer; the last arrival is the rest. One arrival is not one batch.
    estimate, notes = speed([run_of(steady(2000, 203), ready_s=ready_s)])
    assert estimate["value"] == pytest.approx(RATE) and estimate["method"] == "stream" and notes == []


def test_lines_cut_by_the_buffer_disturb_by_no_more_than_one_line():
    # A buffer ends within a line: that line is counted with the next arrival, though most of it came before.
    moments = [INIT_S + 204.8 * k / RATE for k in range(1, 10)]
    arrivals = [(t, int(204.8 * k) - int(204.8 * (k - 1))) for k, t in enumerate(moments, 1)]
    arrivals.append((INIT_S + 2000 / RATE, 2000 - int(204.8 * 9)))
    assert speed([run_of(arrivals)])[0]["value"] == pytest.approx(RATE, rel=0.001)


def test_one_batch_counts_as_its_lines_even_when_it_comes_in_two_parts():
    arrivals = [part for t, n in steady(400, 8) for part in ((t, n - 3), (t + 1e-5, 3))]
    assert speed([run_of(arrivals)])[0]["value"] == pytest.approx(RATE, rel=0.01)


@pytest.mark.parametrize("arrivals", [1, 4, 5, 10])
def test_answers_held_back_are_noted_and_measured_since_feeding(arrivals):
    estimate, notes = speed([run_of(burst(1000, arrivals), ready_s=INIT_S - 0.2)])
    assert estimate["value"] == pytest.approx(RATE, rel=0.001) and estimate["method"] == "ready"
    assert notes == [Reason.ANSWERS_HELD_BACK]
    assert estimate["low"] is estimate["high"] is None  # one run, one segment: nothing to take an interval from


def test_readiness_after_feeding_is_believed_where_no_cpu_time_went_before_it():
    marks = {"fed": 0.1, "ready": 0.2, "last_answer": 0.2}
    for ready_cpu_s, method in ((0.2, "ready"), (0.4, None)):
        samples = [{"mark": mark, "cpu_s": s} for mark, s in (marks | {"ready": ready_cpu_s}).items()]
        estimate, _ = speed([run_of(burst(1000, 1), ready_s=INIT_S, fed_s=0.2, samples=samples)])
        assert estimate.get("method") == method, ready_cpu_s
        assert method is None or estimate["value"] == pytest.approx(RATE, rel=0.001)


@pytest.mark.parametrize("arrivals", [1, 4, 5, 10])
def test_answers_held_back_without_readiness_give_no_speed(arrivals):
    assert speed([run_of(burst(1000, arrivals))]) == ({"value": None, "reason": Reason.NO_STREAM}, [])


def test_a_burst_in_one_of_several_runs_takes_the_stream_from_all():
    runs = [run_of(steady(1000, 8), ready_s=INIT_S), run_of(burst(1000, 10), ready_s=INIT_S)]
    result = throughput.read(runs)
    assert result.method == "ready" and result.notes == (Reason.ANSWERS_HELD_BACK,)
    assert result.per_run == pytest.approx([RATE, RATE], rel=0.001)


def test_few_batches_are_measured_since_feeding_without_a_note():
    arrivals = steady(32 * 4, 32)
    estimate, notes = speed([run_of(arrivals, ready_s=INIT_S, batch_size=32)])
    assert estimate["value"] == pytest.approx(RATE) and estimate["method"] == "ready" and notes == []
    assert speed([run_of(arrivals, batch_size=32)])[0] == {"value": None, "reason": Reason.NO_STREAM}


@pytest.mark.parametrize(
    "facts", [{"arrivals": []}, {"arrivals": at_once(9, 0.9)}, {"arrivals": steady(9, 1), "fed_s": None}]
)
def test_where_nothing_was_fed_or_answered_there_is_no_speed(facts):
    assert speed([run_of(**facts)])[0] == {"value": None, "reason": Reason.NO_STREAM}
    assert not throughput.balanced([run_of(**facts)])


@pytest.mark.parametrize(
    ("before_cpu_s", "believed"),
    # 1 s for 90 of 100 records: 0.1 s for the first ten, a quarter of it and 0.1 s more may come before the first answer.
    [(0.44, True), (0.46, False)],
)
def test_cpu_time_between_feeding_and_the_first_answer_that_the_stream_does_not_explain_is_work(before_cpu_s, believed):
    marks = {"fed": 2.0, "first_answer": 2.0 + before_cpu_s, "last_answer": 3.0 + before_cpu_s}
    samples = [{"mark": mark, "cpu_s": s} for mark, s in marks.items()]
    run = run_of([(3.0 + k / 10, 10) for k in range(10)], samples=samples)
    expected = {"method": "stream"} if believed else {"reason": Reason.WORK_NOT_SEEN}
    assert speed([run])[0].items() >= expected.items()


# -- the interval --------------------------------------------------------------------------------------------------
def test_one_run_has_the_interval_of_its_parts_and_says_so():
    fast_then_slow = [(INIT_S + i / 600, 1) for i in range(1, 501)]
    fast_then_slow += [(fast_then_slow[-1][0] + i / 400, 1) for i in range(1, 501)]
    result = throughput.read([run_of(fast_then_slow)])
    estimate, parts = result.estimate, ratio_estimate(*zip(*result.segments[0].parts, strict=True))
    assert estimate["scope"] == "run" and (estimate["low"], estimate["high"]) == (parts.low, parts.high)
    assert 400 < estimate["low"] < estimate["value"] - 25 < estimate["value"] + 25 < estimate["high"] < 600


def test_an_interval_takes_two_parts_and_a_speed_some_time():
    estimates = [throughput.Throughput("stream", [Segment(20, 2.0, [(10, 1.0)] * n)]).estimate for n in (1, 2)]
    assert [(e["value"], e["low"]) for e in estimates] == [(10, None), (10, pytest.approx(10))]
    segments = [Segment(10, 0.0, []), Segment(10, 2.0, []), None]
    assert throughput.Throughput("paired", segments).per_run == [None, 5, None]


def test_several_runs_have_the_interval_between_runs():
    rates = [490.0, 500.0, 510.0]
    assert throughput.read([run_of(steady(1000, 8))] * 2).estimate["scope"] == "runs"
    result = throughput.read([run_of(steady(1000, 8, rate)) for rate in rates])
    expected, estimate = ratio_estimate([992] * 3, [992 / rate for rate in rates]), result.estimate
    assert [estimate[key] for key in ("value", "low", "high")] == pytest.approx(list(expected.__dict__.values()))
    assert (estimate["method"], estimate["scope"]) == ("stream", "runs")
    assert result.per_run == pytest.approx(rates)


# -- the books: first use + records / speed = the time since feeding -----------------------------------------------
@pytest.mark.parametrize(("late_s", "balances"), [(0.018, True), (0.019, False)])
def test_a_stream_explains_the_time_since_feeding_but_for_two_percent_and_two_milliseconds(late_s, balances):
    run = run_of(steady(400, 8, begin_s=INIT_S + late_s))
    assert throughput.balanced([run]) == throughput.balanced([run] * 3) == balances
    assert not throughput.balanced([run_of(burst(400, 10))])


def late(size, first_use_s=1.0, rate=RATE):
    """Return a run whose first answers come late: it loads something when it is first used."""
    return run_of(steady(size, 4, rate, begin_s=INIT_S + first_use_s))


def test_a_stream_that_runs_of_two_sizes_confirm_is_believed_and_the_rest_is_first_use():
    result = throughput.read([late(400), late(400)], [late(100), late(200)], [late(1000)])
    assert (result.method, result.notes) == ("stream", ()) and result.estimate["value"] == pytest.approx(RATE)
    assert result.first_use_s == pytest.approx(1.0) and result.paired.value == pytest.approx(RATE)


def let_go(size, per_s=2000.0):
    """Return a run that computes 500 records a second, and lets go of the answers at another speed afterwards."""
    return run_of(steady(size, 4, per_s, begin_s=INIT_S + size / RATE - size / per_s))


@pytest.mark.parametrize("ready_s", [None, INIT_S])
def test_answers_let_go_faster_than_they_were_computed_are_not_believed(ready_s):
    runs = [let_go(size) for size in (400, 400, 100, 150)]
    for run in runs:
        run.facts["phases"]["ready_s"] = ready_s
    estimate, notes = speed(runs[:2], runs[2:])
    assert estimate["value"] == pytest.approx(RATE, rel=0.001) and estimate["method"] == "ready"
    assert notes == [Reason.ANSWERS_HELD_BACK if ready_s else Reason.WORK_NOT_SEEN]


def test_a_warm_up_is_left_out_only_where_runs_of_another_size_have_the_same_one():
    def run(size, slow):  # the first records take five times as long
        arrivals, t_s = [], INIT_S
        for done in range(4, size + 1, 4):
            t_s += 4 / RATE * (5 if done <= slow else 1)
            arrivals.append((t_s, 4))
        return run_of(arrivals)

    true = throughput.read([run(400, 40)] * 2, [run(100, 40), run(150, 40)])
    assert true.estimate["value"] == pytest.approx(RATE) and true.rows[0]["warm_up_s"] == pytest.approx(0.36)
    grows = throughput.read([run(400, 100)] * 2, [run(100, 25), run(160, 40)])
    assert grows.estimate["value"] == pytest.approx(RATE / 2, rel=0.02) and grows.rows[0]["warm_up_s"] in (None, 0)


def printed_at_the_end(size, first_use_s=0.0, noise_s=0.0):
    return run_of(at_once(size, INIT_S + first_use_s + size / RATE + noise_s))


def test_without_a_stream_the_speed_is_that_since_feeding_or_where_first_use_takes_time_that_of_pairs():
    long, small = [printed_at_the_end(400)] * 2, [printed_at_the_end(100), printed_at_the_end(200)]
    assert speed(long, small)[0] | {"low": 0, "high": 0} == {
        **{"value": pytest.approx(RATE), "low": 0, "high": 0},
        **{"method": "ready", "scope": "runs"},
    }
    long, small = [printed_at_the_end(400, 1.0)] * 2, [printed_at_the_end(100, 1.0), printed_at_the_end(200, 1.0)]
    result = throughput.read(long, small)
    assert (result.method, result.estimate["value"]) == ("paired", pytest.approx(RATE)) and result.notes == ()
    assert result.per_run == pytest.approx([RATE, RATE]) and result.first_use_s == pytest.approx(1.0)


def test_a_paired_speed_is_the_records_over_the_time_that_a_run_took_longer_than_its_smaller_one():
    longer = [printed_at_the_end(400, 1.0, noise_s) for noise_s in (0.0, 0.1, -0.1)]
    smaller = [printed_at_the_end(100, 1.0), printed_at_the_end(200, 1.0)]
    result = throughput.read(longer, smaller)
    assert result.per_run == pytest.approx([300 / 0.6, 200 / 0.5, None]) and result.estimate["scope"] == "runs"
    assert result.estimate["value"] == pytest.approx(500 / 1.1)
    assert throughput.read(longer[:1], smaller).estimate["low"] is None


@pytest.mark.parametrize("seconds", [INIT_S + 1.0, INIT_S + 1.1])
def test_pairs_that_show_no_time_give_no_speed(seconds):
    runs = [run_of(at_once(100, INIT_S + 1.0))]
    assert throughput.read(runs, [run_of(at_once(10, seconds))]).reason is Reason.NO_TIME_LEFT


def test_where_time_grows_faster_than_records_the_speed_is_that_since_feeding():
    quadratic = [run_of(at_once(n, INIT_S + (n / 400) ** 2)) for n in (400, 400, 100, 200)]
    assert throughput.read(quadratic[:2], quadratic[2:]).estimate["value"] == pytest.approx(400)


def test_a_program_that_is_slow_only_with_few_records_is_found_out_by_the_stream_or_by_more_of_them():
    # 500 records a second, but with fewer than 400 it takes its time so that 2000 records a second would explain the rest.
    def slow(size):
        return 0.6 + size / 2000 if size < 400 else size / RATE

    streaming = [run_of([(INIT_S + slow(n) * (k + 1) / 20, n // 20) for k in range(20)]) for n in (400, 100, 200, 1000)]
    assert throughput.balanced(streaming[:1])  # needs no other size
    silent = [run_of(at_once(n, INIT_S + slow(n))) for n in (400, 400, 100, 200, 1000)]
    assert throughput.read(silent[:2], silent[2:4]).estimate["value"] == pytest.approx(2000)
    assert throughput.read(silent[:2], silent[2:4], silent[4:]).notes == (Reason.TIMES_DISAGREE,)
    late_stream = [
        run_of([(INIT_S + slow(n) * (0.2 + k / 25), n // 20) for k in range(1, 21)]) for n in (400, 100, 200)
    ]
    assert Reason.TIMES_DISAGREE in throughput.read([late_stream[0]] * 3, [*late_stream[1:], late_stream[1]]).notes


@pytest.mark.parametrize(("off", "as_expected"), [(1.029, True), (1.031, False), (0.971, True), (0.969, False)])
def test_a_run_of_more_records_may_be_off_by_three_percent(off, as_expected):
    larger = run_of(at_once(1000, INIT_S + off * (1.0 + 1000 / RATE)))
    notes = throughput.read([late(400)] * 2, [late(100), late(200)], [larger]).notes
    assert (notes == ()) == as_expected
    assert throughput.read([late(400)] * 2, [late(100), late(200)], [run_of([])]).notes == (Reason.TIMES_DISAGREE,)


def test_every_speed_of_a_program_that_works_before_its_ready_line_follows_the_rule_of_the_headline(tmp_path):
    def run(size, rate=RATE):
        end_s = INIT_S + size / rate
        return {"arrivals": steady(size, 4, 4000.0, begin_s=end_s - size / 4000), "ready_s": end_s - size / 4000}

    runs, smaller = [run(400, rate) for rate in (500, 495, 505)], [run(100), run(200), run(120)]
    result = derived(tmp_path, *runs, smaller=smaller)
    assert result["speed_per_s"]["method"] == "ready" and result["reasons"] == ["WORK_NOT_SEEN"]
    assert [row["speed_per_s"] for row in result["per_run"]] == pytest.approx([500, 495, 505], rel=0.001)
    assert [row["warm_up_s"] for row in result["per_run"]] == [None] * 3  # the stream would say 4000


def test_a_container_is_timed_by_its_engine():
    clock = {"engine_start_s": 0.4, "engine_die_s": 2.4, "exit_s": 9.0}
    assert run_of(at_once(10, 2.0), phases=clock).total_s == 2.0
    assert run_of(at_once(10, 2.0), phases={**clock, "engine_die_s": None}).total_s == 9.0
