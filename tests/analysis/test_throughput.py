"""Runs -> their speed: one rule for the headline and for every run."""

import pytest
from run_folders import INIT_S, RATE, at_once, burst, derived, run_of, steady

from morocco_lib.analysis import throughput
from morocco_lib.analysis.intervals import ratio_estimate
from morocco_lib.analysis.segments import Segment
from morocco_lib.reasons import Reason


def speed(runs, short=()) -> tuple[dict, list]:
    result = throughput.read(runs, short)
    return result.estimate, list(result.notes)


# -- the method ----------------------------------------------------------------------------------------------------
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
def test_answers_held_back_are_noted_and_measured_from_readiness(arrivals):
    estimate, notes = speed([run_of(burst(1000, arrivals), ready_s=INIT_S)])
    assert estimate["value"] == pytest.approx(RATE, rel=0.001) and estimate["method"] == "ready"
    assert notes == [Reason.ANSWERS_HELD_BACK]
    assert estimate["low"] is estimate["high"] is None  # one run, one segment: nothing to take an interval from


@pytest.mark.parametrize("arrivals", [1, 4, 5, 10])
def test_answers_held_back_without_readiness_give_no_speed(arrivals):
    assert speed([run_of(burst(1000, arrivals))]) == ({"value": None, "reason": Reason.NO_STREAM}, [])


def test_a_burst_in_one_of_several_runs_takes_the_stream_from_all():
    runs = [run_of(steady(1000, 8), ready_s=INIT_S), run_of(burst(1000, 10), ready_s=INIT_S)]
    result = throughput.read(runs)
    assert result.method == "ready" and result.notes == (Reason.ANSWERS_HELD_BACK,)
    assert result.per_run == pytest.approx([RATE, RATE], rel=0.001)


def test_few_batches_are_measured_from_readiness_without_a_note():
    arrivals = steady(32 * 4, 32)
    estimate, notes = speed([run_of(arrivals, ready_s=INIT_S, batch_size=32)])
    assert estimate["value"] == pytest.approx(RATE) and estimate["method"] == "ready" and notes == []
    assert speed([run_of(arrivals, batch_size=32)])[0] == {"value": None, "reason": Reason.NO_STREAM}


@pytest.mark.parametrize("ready_s", [None, INIT_S])
def test_no_answers_at_all_give_no_speed(ready_s):
    assert speed([run_of([], ready_s=ready_s)])[0] == {"value": None, "reason": Reason.NO_STREAM}


def test_readiness_after_the_last_answer_is_not_believed():
    assert speed([run_of(steady(64, 32), ready_s=100.0)])[0] == {"value": None, "reason": Reason.NO_STREAM}


# -- the interval --------------------------------------------------------------------------------------------------
def test_one_run_has_the_interval_of_its_parts_and_says_so():
    fast_then_slow = [(INIT_S + i / 600, 1) for i in range(500)]
    fast_then_slow += [(fast_then_slow[-1][0] + i / 400, 1) for i in range(1, 501)]
    result = throughput.read([run_of(fast_then_slow)])
    estimate, parts = result.estimate, ratio_estimate(*zip(*result.segments[0].parts, strict=True))
    assert estimate["scope"] == "run" and (estimate["low"], estimate["high"]) == (parts.low, parts.high)
    assert 400 < estimate["low"] < estimate["value"] - 25 < estimate["value"] + 25 < estimate["high"] < 600


def test_an_interval_takes_two_parts_and_a_speed_some_time():
    estimates = [throughput.Throughput("stream", [Segment(20, 2.0, [(10, 1.0)] * n)]).estimate for n in (1, 2)]
    assert [(e["value"], e["low"]) for e in estimates] == [(10, None), (10, pytest.approx(10))]
    assert throughput.Throughput("paired", [Segment(10, 0.0, []), Segment(10, 2.0, []), None]).per_run == [
        None,
        5,
        None,
    ]


def test_several_runs_have_the_interval_between_runs():
    rates = [490.0, 500.0, 510.0]
    assert throughput.read([run_of(steady(1000, 8))] * 2).estimate["scope"] == "runs"
    result = throughput.read([run_of(steady(1000, 8, rate)) for rate in rates])
    expected, estimate = ratio_estimate([992] * 3, [992 / rate for rate in rates]), result.estimate
    assert [estimate[key] for key in ("value", "low", "high")] == pytest.approx(list(expected.__dict__.values()))
    assert (estimate["method"], estimate["scope"]) == ("stream", "runs")
    assert result.per_run == pytest.approx(rates)


def test_the_warm_up_left_out_of_a_stream_is_reported_with_its_run():
    slow_first = [(1.0, 10), (1.2, 10), (1.4, 10), *((1.4 + 0.1 * k, 10) for k in range(1, 61))]
    (row,) = throughput.read([run_of(slow_first)]).rows
    assert row["warm_up_s"] == pytest.approx(0.4) and row["speed_per_s"] == pytest.approx(100)
    (row,) = throughput.read([run_of(burst(1000, 1), ready_s=INIT_S)]).rows
    assert row["warm_up_s"] is None


# -- pairs ---------------------------------------------------------------------------------------------------------
def test_a_paired_speed_is_the_records_over_the_time_that_a_run_took_longer_than_its_short_one():
    runs = [run_of(at_once(108, exit_s - 0.1), exit_s=exit_s) for exit_s in (3.0, 3.1, 3.2)]
    short = [run_of(at_once(8, 0.9), exit_s=exit_s) for exit_s in (1.0, 1.02, 1.04, 1.0, 1.0)]
    result = throughput.read(runs, short)
    assert result.per_run == pytest.approx([100 / 2.0, 100 / 2.08, 100 / 2.16])
    assert result.estimate["value"] == pytest.approx(300 / (2.0 + 2.08 + 2.16))
    assert result.method == "paired" and result.estimate["scope"] == "runs"


def test_a_pair_with_a_cold_start_has_no_speed_and_does_not_count():
    runs = [run_of(at_once(108, 2.9), exit_s=exit_s) for exit_s in (3.0, 3.0, 3.6)]
    result = throughput.read(runs, [run_of(at_once(8, 0.9), exit_s=1.0)] * 3)
    assert result.per_run == [pytest.approx(50), pytest.approx(50), None]
    assert result.estimate["value"] == pytest.approx(50)


def test_where_each_pair_has_a_cold_start_the_first_reason_stays():
    runs = [run_of(steady(400, 4, 2000.0, begin_s=exit_s - 0.25), exit_s=exit_s) for exit_s in (5.0, 6.0)]
    estimate, notes = speed(runs, [run_of(at_once(4, 0.9), exit_s=exit_s) for exit_s in (1.5, 1.0)])
    assert (estimate, notes) == ({"value": None, "reason": Reason.WORK_NOT_SEEN}, [Reason.WORK_NOT_SEEN])


def test_pairs_that_show_no_time_give_no_speed():
    runs = [run_of(at_once(100, 1.0), exit_s=1.1)]
    assert throughput.read(runs, [run_of(at_once(10, 1.0), exit_s=1.2)]).reason is Reason.NO_TIME_LEFT
    assert throughput.read(runs, [run_of(at_once(10, 1.0), exit_s=1.1)]).reason is Reason.NO_TIME_LEFT
    assert throughput.read(runs).method is None
    assert throughput.read([run_of(at_once(100, 1.0), exit_s=1.4)], [run_of(at_once(10, 1.0), exit_s=1.2)]).method


def test_a_container_is_timed_by_its_engine():
    clock = {"engine_start_s": 0.4, "engine_die_s": 2.4, "exit_s": 9.0}
    assert run_of(at_once(10, 2.0), phases=clock).total_s == 2.0
    assert run_of(at_once(10, 2.0), phases={**clock, "engine_die_s": None}).total_s == 9.0


# -- work before readiness -----------------------------------------------------------------------------------------
def early_worker(exit_s: float) -> dict:
    """Return a run of 400 records that worked for most of its time before its ready line."""
    return {"arrivals": steady(400, 4, 2000.0, begin_s=exit_s - 0.25), "ready_s": exit_s - 0.25, "exit_s": exit_s}


def test_every_speed_of_a_program_that_works_before_its_ready_line_follows_the_rule_of_the_headline(tmp_path):
    short = {"arrivals": at_once(4, 0.09), "ready_s": 0.08, "exit_s": 0.1}
    result = derived(tmp_path, *map(early_worker, (1.1, 1.11, 1.09)), short=[short] * 5)
    assert result["speed_per_s"]["method"] == "paired" and result["reasons"] == ["WORK_NOT_SEEN"]
    assert result["speed_per_s"]["value"] == pytest.approx(396 / 1.0, rel=0.001)
    speeds = [row["speed_per_s"] for row in result["per_run"]]
    assert speeds == pytest.approx([396 / 1.0, 396 / 1.01, 396 / 0.99], rel=0.001)  # readiness alone would say 2000
    assert [row["warm_up_s"] for row in result["per_run"]] == [None] * 3


@pytest.mark.parametrize(
    ("short_lines", "exit_s", "believed"),
    # The stream explains 396 records in 0.198 s; a run of 400 may take 1.25 times as long for what it answers more than
    # a short one of 1 s, and for jitter 25 % of that and 0.1 s.
    [(4, 1.59, True), (4, 1.61, False), (100, 1.53, True), (100, 1.55, False)],
)
def test_a_run_may_take_a_quarter_and_jitter_longer_than_its_stream_explains(short_lines, exit_s, believed):
    run = run_of(steady(400, 4, 2000.0, begin_s=exit_s - 0.25), exit_s=exit_s)
    method = throughput.read([run], [run_of(at_once(short_lines, 0.9), exit_s=1.0)]).method
    assert (method == "stream") == believed


@pytest.mark.parametrize(("exit_s", "believed"), [(12.2, True), (12.25, False)])
def test_a_warm_up_explains_its_own_time(exit_s, believed):
    # 630 records more than the short run at 600 in 6 s, a quarter more, 3 s of warm-up, and jitter of 0.35 s: 11.225 s.
    arrivals = [(1.0 + k, 10) for k in range(4)] + [(4.0 + 0.1 * k, 10) for k in range(1, 61)]
    run, short = run_of(arrivals, exit_s=exit_s), run_of(at_once(10, 0.9), exit_s=1.0)
    assert (throughput.read([run], [short]).method == "stream") == believed


def cpu_run(ready_cpu_s, last_cpu_s):
    marks = [{"mark": "ready", "cpu_s": ready_cpu_s}, {"mark": "last_answer", "cpu_s": last_cpu_s}]
    return run_of([(3.0 + k / 10, 10) for k in range(101)], ready_s=2.9, samples=marks)


@pytest.mark.parametrize(
    ("ready_cpu_s", "believed"),
    # The short run has 2 s before readiness; the run's own work of 10 s allows for 2.5 s, jitter for 0.6 s.
    [(2.1, True), (5.0, True), (5.2, False), (12.0, False)],
)
def test_cpu_time_before_readiness_that_short_runs_do_not_have_is_work(ready_cpu_s, believed):
    short_marks = [{"mark": "ready", "cpu_s": 2.0}, {"mark": "last_answer", "cpu_s": 2.1}]
    short = run_of([(3.1, 10)], ready_s=2.9, exit_s=3.2, samples=short_marks)
    estimate, notes = speed([cpu_run(ready_cpu_s, ready_cpu_s + 10)], [short])
    assert (estimate["method"] == "stream") == believed
    assert notes == ([] if believed else [Reason.WORK_NOT_SEEN])


def gpu_run(busy, *, ready_s, last_s, lines=100, reported=True, used=True):
    """Return a run whose GPU is fully used in these stretches, sampled ten times a second."""
    arrivals = [(ready_s + (last_s - ready_s) * (k + 1) / 10, lines // 10) for k in range(10)]
    samples = []
    for tick in range(1, int(last_s * 10) + 2):
        at = tick / 10
        share = sum(max(0.0, min(at, end) - max(at - 0.1, begin)) for begin, end in busy) / 0.1
        samples.append({"t_ns": int(at * 1e9), "gpu": 0, "utilisation_share": share if reported else None})
        samples.append({"t_ns": int((at + 0.05) * 1e9), "gpu": 0})  # a sample without the state of the device
    gpu = {"devices": [{"used_by_run": used}]}
    return run_of(arrivals, ready_s=ready_s, exit_s=last_s + 0.1, gpu_samples=samples, batch_size=10, gpu=gpu)


def loads_only(ready_s):
    """Return a short run: 0.5 s of GPU time to load a model; it ends so late that the clock alone says nothing."""
    short = gpu_run([(1.5, 2.1)], ready_s=2.0, last_s=2.1, lines=10)
    short.facts["phases"]["exit_s"] = ready_s + 0.2
    return short


@pytest.mark.parametrize(
    ("busy", "ready_s", "last_s", "options", "believed"),
    [
        ([(1.5, 12.0)], 2.0, 12.0, {}, True),
        ([(1.5, 2.0), (2.0, 4.0)], 2.0, 12.0, {}, True),  # a GPU that waits for the processor most of the time
        ([(1.5, 10.0)], 10.0, 12.0, {}, False),  # all was computed before readiness
        ([(1.5, 6.0), (7.0, 12.0)], 7.0, 12.0, {}, False),  # half of it
        ([(0.5, 2.6)], 2.6, 12.0, {}, False),  # and none after
        (
            [(3.0, 17.0)],
            7.0,
            17.0,
            {},
            True,
        ),  # 4.0 s, where 10 s of work, 0.5 s of a short run and a second allow 4.125
        ([(2.8, 17.0)], 7.0, 17.0, {}, False),
        ([(1.5, 10.0)], 10.0, 12.0, {"reported": False}, True),
        ([(1.5, 10.0)], 10.0, 12.0, {"used": False}, True),
    ],
)
def test_gpu_work_before_readiness_that_short_runs_do_not_have_is_work(busy, ready_s, last_s, options, believed):
    estimate, notes = speed([gpu_run(busy, ready_s=ready_s, last_s=last_s, **options)], [loads_only(ready_s)])
    assert (estimate.get("method") == "stream") == believed
    assert notes == ([] if believed else [Reason.WORK_NOT_SEEN])


def test_without_a_gpu_or_a_short_run_readiness_is_believed():
    run = gpu_run([(0.0, 10.0)], ready_s=10.0, last_s=12.0)
    assert throughput.read([run]).method == "stream"
    short = loads_only(10.0)
    assert throughput.read([run], [short]).method != "stream"
    for sample in short.gpu_samples:
        sample["utilisation_share"] = None
    assert throughput.read([run], [short]).method == "stream"
    run.facts["gpu"] = Reason.NO_GPU
    assert throughput.read([run], [loads_only(10.0)]).method == "stream"
