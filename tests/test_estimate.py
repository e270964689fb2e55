"""Facts of runs -> numbers and intervals: against closed forms, simulations with fixed seeds, and made-up arrivals."""

import json
import random

import numpy
import pytest
import scipy.stats

from morocco_lib.analysis import estimate
from morocco_lib.analysis.estimate import Run, Segment, ratio_estimate, ready_segment, speed, stream_segment
from morocco_lib.analysis.validity import answer_reasons, exit_reasons
from morocco_lib.errors import UsageError
from morocco_lib.reasons import MEANING, NOTES, Reason, verdict

RATE, INIT_S = 500.0, 1.0


# -- ratio of sums -------------------------------------------------------------------------------------------------
def test_the_ratio_is_that_of_the_sums_not_the_mean_of_ratios():
    assert ratio_estimate([100, 300], [1, 1.5]).value == pytest.approx(160)  # the mean of ratios is 150


def test_the_interval_is_the_one_computed_by_hand():
    # 6 / 4 = 1.5; residuals 0.5 and -0.5; sqrt(0.5 * 2 / 1) = 1; t(1 df) = 12.7062; 12.7062 / 4 = 3.17655
    found = ratio_estimate([2, 4], [1, 3])
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 0.0, 4.67655), abs=1e-5)


def test_the_interval_of_a_mean_is_students():
    values = [10.0, 12.5, 11.0, 13.5, 12.0]
    low, high = scipy.stats.t.interval(0.95, 4, numpy.mean(values), scipy.stats.sem(values))
    found = ratio_estimate(values, [1.0] * 5)
    assert (found.value, found.low, found.high) == pytest.approx((11.8, low, high))


@pytest.mark.parametrize("n", [2, 3, 10, 50])
def test_the_interval_is_the_linearised_one(n):
    random_numbers = numpy.random.default_rng(n)
    x, y = random_numbers.uniform(1, 3, n), random_numbers.uniform(900, 1100, n)
    ratio = y.sum() / x.sum()
    half = scipy.stats.t.ppf(0.975, n - 1) * numpy.sqrt(n * numpy.var(y - ratio * x, ddof=1)) / x.sum()
    found = ratio_estimate(y.tolist(), x.tolist())
    assert (found.value, found.low, found.high) == pytest.approx((ratio, max(0, ratio - half), ratio + half))


def test_equal_units_have_an_interval_of_no_width():
    found = ratio_estimate([100] * 4, [0.5] * 4)
    assert (found.value, found.low, found.high) == pytest.approx((200, 200, 200))


def test_one_unit_has_no_interval():
    found = ratio_estimate([100], [0.5])
    assert (found.value, found.low, found.high) == (200, None, None)


@pytest.mark.parametrize("runs", [3, 5, 10])
def test_the_interval_holds_the_truth_in_95_of_100_experiments(runs):
    noise, held = random.Random(f"coverage/{runs}"), 0
    for _ in range(2000):
        seconds = [2000 / RATE * (1 + 0.03 * noise.gauss(0, 1)) for _ in range(runs)]
        found = ratio_estimate([2000] * runs, seconds)
        held += found.low <= RATE <= found.high
    assert 0.93 <= held / 2000 <= 0.97


def test_the_interval_of_a_mean_holds_the_truth_in_95_of_100_experiments():
    noise, held = random.Random("coverage/mean"), 0
    for _ in range(2000):
        found = ratio_estimate([1.2 * (1 + 0.03 * noise.gauss(0, 1)) for _ in range(3)], [1.0] * 3)
        held += found.low <= 1.2 <= found.high
    assert 0.93 <= held / 2000 <= 0.97


# -- the stream of one run -----------------------------------------------------------------------------------------
def make_run(arrivals, *, ready_s=None, batch_size=1, exit_s=None, memory=None, samples=()) -> Run:
    facts = {
        "batch_size": batch_size,
        "bytes_fed": 500,
        "records_fed": 10,
        "phases": {"ready_s": ready_s, "exit_s": exit_s or (arrivals[-1][0] if arrivals else INIT_S) + 0.05},
        "memory": {
            "source": "cgroup v2",
            "high_water_bytes": None,
            "cgroup_peak_bytes": None,
            "cgroup_peak_source": None,
            **(memory or {}),
        },
    }
    return Run(None, facts, list(arrivals), list(samples))


def steady(records: int, batch: int, rate: float = RATE) -> list[tuple[float, int]]:
    """Return the arrivals of a program that flushes every batch."""
    ends = [min(end, records) for end in range(batch, records + batch, batch)]
    begins = [0, *ends[:-1]]
    return [(INIT_S + end / rate, end - begin) for begin, end in zip(begins, ends, strict=True)]


def burst(records: int, arrivals: int) -> list[tuple[float, int]]:
    """Return the arrivals of a program that prints all its answers at the end, within a millisecond."""
    return [(INIT_S + records / RATE + i / arrivals / 1000, records // arrivals) for i in range(arrivals)]


readiness = pytest.mark.parametrize("ready_s", [None, INIT_S], ids=["no-readiness", "readiness"])


@readiness
@pytest.mark.parametrize("batch", [1, 8, 32])
def test_the_speed_of_a_regular_stream_is_exact(ready_s, batch):
    run = make_run(steady(1000, batch), ready_s=ready_s, batch_size=batch)
    segment = stream_segment(run)
    assert segment.records / segment.seconds == pytest.approx(RATE)
    rest = 1000 % batch  # what is left at the end is not in it
    assert segment.records == 1000 - batch - rest  # the first batch tells only when the stream begins
    assert speed([run])[0]["method"] == "stream"


@readiness
def test_lines_are_counted_where_a_buffer_holds_many_batches(ready_s):
    # 203 lines fill the buffer; the last arrival is the rest. One arrival is not one batch.
    run = make_run(steady(2000, 203), ready_s=ready_s, batch_size=8)
    found, notes = speed([run])
    assert found["value"] == pytest.approx(RATE) and found["method"] == "stream" and notes == []


def test_lines_cut_by_the_buffer_disturb_by_no_more_than_one_line():
    # A buffer ends within a line: that line is counted with the next arrival, though most of it came before.
    moments = [INIT_S + 204.8 * k / RATE for k in range(1, 10)]
    arrivals = [(t, int(204.8 * k) - int(204.8 * (k - 1))) for k, t in enumerate(moments, 1)]
    arrivals.append((INIT_S + 2000 / RATE, 2000 - int(204.8 * 9)))
    assert speed([make_run(arrivals)])[0]["value"] == pytest.approx(RATE, rel=0.001)


def test_one_batch_counts_as_its_lines_even_when_it_comes_in_two_parts():
    arrivals = [part for t, n in steady(400, 8) for part in ((t, n - 3), (t + 1e-5, 3))]
    assert speed([make_run(arrivals, batch_size=8)])[0]["value"] == pytest.approx(RATE, rel=0.01)


@pytest.mark.parametrize("arrivals", [1, 2, 4, 5, 10])
def test_answers_held_back_are_told_and_timed_from_readiness(arrivals):
    run = make_run(burst(1000, arrivals), ready_s=INIT_S, batch_size=8)
    assert stream_segment(run) is Reason.ANSWERS_HELD_BACK
    found, notes = speed([run])
    assert found["value"] == pytest.approx(RATE, rel=0.001) and found["method"] == "ready"
    assert notes == [Reason.ANSWERS_HELD_BACK]
    assert found["low"] is found["high"] is None  # one run, one stretch: nothing to take an interval from


@pytest.mark.parametrize("arrivals", [1, 4, 5, 10])
def test_answers_held_back_without_readiness_give_no_speed(arrivals):
    run = make_run(burst(1000, arrivals), batch_size=8)
    assert stream_segment(run) is Reason.NO_STREAM
    assert speed([run]) == ({"value": None, "reason": Reason.NO_STREAM}, [])
    assert estimate.init_s(run) is Reason.NO_READINESS


def test_a_burst_of_a_long_run_is_no_stream():
    slow_burst = [(100 + i / 100, 100) for i in range(10)]  # 90 ms after 100 s
    assert stream_segment(make_run(slow_burst)) is Reason.NO_STREAM
    assert isinstance(stream_segment(make_run([(t - 99, n) for t, n in slow_burst])), Segment)


def test_a_burst_of_a_short_run_is_no_stream():
    quick_burst = [(0.5 + i / 600, 100) for i in range(10)]  # 15 ms after half a second
    assert stream_segment(make_run(quick_burst)) is Reason.NO_STREAM
    assert isinstance(stream_segment(make_run([(0.5 + i / 300, 100) for i in range(10)])), Segment)


def test_a_burst_in_one_of_several_runs_takes_the_stream_from_all():
    runs = [make_run(steady(1000, 8), ready_s=INIT_S), make_run(burst(1000, 10), ready_s=INIT_S)]
    found, notes = speed(runs)
    assert found["method"] == "ready" and found["value"] == pytest.approx(RATE, rel=0.001)
    assert notes == [Reason.ANSWERS_HELD_BACK]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_fewer_than_five_arrivals_are_no_stream(count):
    arrivals = steady(32 * count, 32)
    with_readiness = make_run(arrivals, ready_s=INIT_S, batch_size=32)
    assert stream_segment(with_readiness) is Reason.NO_STREAM  # few batches, and none of them held back
    found, notes = speed([with_readiness])
    assert found["value"] == pytest.approx(RATE) and found["method"] == "ready" and notes == []
    assert speed([make_run(arrivals, batch_size=32)])[0] == {"value": None, "reason": Reason.NO_STREAM}


def test_five_arrivals_are_a_stream():
    assert stream_segment(make_run(steady(160, 32), ready_s=INIT_S, batch_size=32)).records == 128


def test_no_answers_at_all_give_no_speed():
    for ready_s in (None, INIT_S):
        run = make_run([], ready_s=ready_s)
        assert speed([run])[0]["value"] is None
        assert isinstance(stream_segment(run), Reason) and isinstance(ready_segment(run), Reason)


def test_readiness_after_the_last_answer_is_not_believed():
    run = make_run(steady(64, 32), ready_s=100.0, batch_size=32)
    assert speed([run])[0] == {"value": None, "reason": Reason.NO_STREAM}


def test_a_slow_machine_does_not_turn_a_stream_into_answers_held_back():
    noise = random.Random("jitter")
    arrivals = sorted((t + noise.uniform(0, 0.05), n) for t, n in steady(1000, 32))
    run = make_run(arrivals, ready_s=INIT_S, batch_size=32)
    found, notes = speed([run])
    assert found["method"] == "stream" and notes == [] and found["value"] == pytest.approx(RATE, rel=0.03)


# -- intervals of a speed ------------------------------------------------------------------------------------------
def test_the_parts_of_a_stream_are_ten_and_make_up_the_whole():
    run = make_run(steady(1000, 7), batch_size=7)
    segment = stream_segment(run)
    assert len(segment.parts) == 10
    assert sum(n for n, _ in segment.parts) == segment.records
    assert sum(s for _, s in segment.parts) == pytest.approx(segment.seconds)
    assert all(n == pytest.approx(segment.records / 10, abs=7) for n, _ in segment.parts)


def test_one_run_has_the_interval_of_its_parts_and_says_so():
    fast_then_slow = [(INIT_S + i / 600, 1) for i in range(500)]
    fast_then_slow += [(fast_then_slow[-1][0] + i / 400, 1) for i in range(1, 501)]
    found, _ = speed([make_run(fast_then_slow)])
    assert found["scope"] == "run" and found["low"] < found["value"] < found["high"]
    assert found["low"] > 400 and found["high"] < 600
    assert found["high"] - found["low"] > 50


def test_several_runs_have_the_interval_between_runs():
    rates = [490.0, 500.0, 510.0]
    runs = [make_run(steady(1000, 8, rate), batch_size=8) for rate in rates]
    found, _ = speed(runs)
    expected = ratio_estimate([992] * 3, [992 / rate for rate in rates])
    assert [found[key] for key in ("value", "low", "high")] == pytest.approx(list(expected.__dict__.values()))
    assert (found["method"], found["scope"]) == ("stream", "runs")
    assert found["low"] < 490 and found["high"] > 510


# -- start-up ------------------------------------------------------------------------------------------------------
def test_start_up_is_readiness_where_it_is_told():
    assert estimate.init_s(make_run(steady(1000, 8), ready_s=0.7)) == 0.7


@pytest.mark.parametrize("arrivals", [steady(1000, 1), steady(1000, 32), steady(2000, 203)])
def test_start_up_without_readiness_is_the_first_answer_less_its_share_of_work(arrivals):
    assert estimate.init_s(make_run(arrivals)) == pytest.approx(INIT_S, abs=1e-9)


def test_start_up_is_never_negative():
    assert estimate.init_s(make_run([(0.01, 500), *((0.1 * k, 10) for k in range(1, 20))])) == 0.0


# -- memory and CPU ------------------------------------------------------------------------------------------------
def sample(anon=0, shmem=0, file=0, kernel=0, cpu_s=0.0, **more):
    return {"anon_bytes": anon, "shmem_bytes": shmem, "file_bytes": file, "kernel_bytes": kernel, "cpu_s": cpu_s} | more


def test_memory_is_the_largest_sample_of_anonymous_and_shared():
    samples = [sample(100, 5, 900), sample(60, 50, 900), sample(70, 30)]
    assert estimate.ram_bytes(make_run([], samples=samples)) == 110


def test_memory_is_raised_to_what_the_kernels_peak_leaves():
    samples = [sample(100, 5, 30, 7), sample(90, 0, 20, 9)]
    assert estimate.ram_bytes(make_run([], samples=samples, memory={"cgroup_peak_bytes": 500})) == 500 - 30 - 9
    assert estimate.ram_bytes(make_run([], samples=samples, memory={"cgroup_peak_bytes": 120})) == 105
    assert estimate.ram_bytes(make_run([], samples=samples, memory={"high_water_bytes": 130})) == 130


def test_memory_of_an_unknown_kernel_share_is_still_a_number():
    samples = [sample(100, 5, 30, None)]
    assert estimate.ram_bytes(make_run([], samples=samples, memory={"cgroup_peak_bytes": 500})) == 470


def test_memory_without_samples_is_not_measured():
    assert estimate.ram_bytes(make_run([], memory={"cgroup_peak_bytes": 500})) is Reason.NO_SAMPLES


def test_cpu_time_is_that_between_the_first_and_the_last_answer():
    samples = [
        sample(cpu_s=1.0),
        sample(cpu_s=2.0, mark="ready"),
        sample(cpu_s=2.5, mark="first_answer"),
        sample(cpu_s=9.0),
        sample(cpu_s=10.5, mark="last_answer"),
        sample(cpu_s=11.0),
    ]
    run = make_run(steady(1000, 8), batch_size=8, samples=samples)
    assert estimate.cpu_of_stream(run) == (8.0, 992)
    found = estimate.summarise([run])[0]["cpu_s_per_record"]
    assert found["value"] == pytest.approx(8 / 992) and found["scope"] == "run"
    assert estimate.cpu_of_stream(make_run(steady(1000, 8), samples=samples[:-2])) is Reason.NO_SAMPLES


def test_one_run_without_a_number_leaves_the_point_without_it():
    found = estimate.mean_of([1.0, Reason.NO_CGROUP, Reason.NO_SAMPLES])
    assert found == {"value": None, "reason": Reason.NO_CGROUP}


def test_numbers_of_several_runs_are_means_with_intervals():
    found = estimate.mean_of([100.0, 110.0, 120.0], "cgroup v2")
    half = scipy.stats.t.ppf(0.975, 2) * 10 / 3**0.5
    assert (found["value"], found["low"], found["high"]) == pytest.approx((110, 110 - half, 110 + half))
    assert (found["method"], found["scope"]) == ("cgroup v2", "runs")


def test_no_valid_run_gives_no_number_and_the_reason():
    estimates, notes = estimate.summarise([])
    assert notes == [] and len(estimates) == 6
    assert all(found == {"value": None, "reason": Reason.NO_VALID_RUN} for found in estimates.values())


# -- from files ----------------------------------------------------------------------------------------------------
def write_run(folder, **broken):
    facts = {
        "phases": {"ready_s": 0.5, "exit_s": 2.0},
        "batch_size": 1,
        "lines": 1,
        "stdout_bytes": 12,
        "stdout_cut": False,
    }
    facts["sampler"] = {"samples": 1}
    files = {
        "answers.jsonl": '{"idx": 0}\n\n',
        "run.json": json.dumps(facts),
        "chunks.jsonl": '{"t_ns": 1000000000, "bytes": 9, "lines": 1}\n{"t_ns": 1200000000, "bytes": 3, "lines": 0}\n',
        "samples.jsonl": json.dumps(sample(1)) + "\n",
    }
    for name, text in (files | broken).items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def test_a_run_is_read_as_it_was_written(tmp_path):
    run = estimate.read_run(write_run(tmp_path))
    assert run.arrivals == [(1.0, 1)]  # an arrival that ends no line is no answer
    assert run.ready_s == 0.5 and run.lines == 1 and len(run.samples) == 1 and not run.truncated


CHUNK = '{"t_ns": 1000000000, "bytes": 12, "lines": 1}\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("answers.jsonl", '{"idx": 0}\n'),
        ("chunks.jsonl", ""),
        ("chunks.jsonl", CHUNK.replace("12", "9")),
        ("chunks.jsonl", CHUNK + '{"t_ns": 1, "lin'),
        ("samples.jsonl", ""),
        ("samples.jsonl", json.dumps(sample(1, mark="ready")) + "\n"),
        ("samples.jsonl", json.dumps(sample(1)) + "\n" + '{"anon'),
    ],
)
def test_a_file_that_ends_too_soon_is_told(tmp_path, name, text):
    whole = write_run(tmp_path, **{"chunks.jsonl": CHUNK})
    assert not estimate.read_run(whole).truncated
    (tmp_path / name).write_text(text)
    assert estimate.read_run(whole).truncated


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", None),
        ("run.json", '{"phases": {'),
        ("chunks.jsonl", None),
        ("chunks.jsonl", '{"t_ns": 1, "lin\n'),
        ("chunks.jsonl", '{"bytes": 1}\n'),
        ("chunks.jsonl", "[1]\n"),
        ("samples.jsonl", "\xff\n"),
    ],
)
def test_a_broken_run_is_named(tmp_path, name, text):
    with pytest.raises(UsageError, match=tmp_path.name):
        estimate.read_run(write_run(tmp_path, **{name: text}))


# -- verdicts ------------------------------------------------------------------------------------------------------
WELL = {"code": 0, "signal": None, "oom_killed": False, "timed_out": False, "left_pids": [], "pids_refused": 0}


@pytest.mark.parametrize(
    ("end", "reasons", "expected"),
    [
        ({}, [], "VALID"),
        ({"code": 3}, ["NON_ZERO_EXIT"], "INVALID"),
        ({"code": None, "signal": 11}, ["KILLED"], "INVALID"),
        ({"code": None, "signal": 9, "timed_out": True}, ["TIMEOUT"], "INVALID"),
        ({"code": None, "signal": 9, "oom_killed": True}, ["OUT_OF_MEMORY", "KILLED"], "INVALID"),
        ({"oom_killed": True}, ["OUT_OF_MEMORY"], "INVALID"),  # a child was killed, and the program went on
        ({"left_pids": [7]}, ["LEFT_PROCESSES"], "VALID"),
        ({"pids_refused": 7}, ["PIDS_REFUSED"], "VALID"),
    ],
)
def test_the_end_of_a_run_gives_its_reasons(end, reasons, expected):
    found = exit_reasons(WELL | end)
    assert found == reasons and verdict(found) == expected


def test_every_broken_rule_of_answers_has_a_reason():
    rules = ["broken-line", "idx", "unknown-idx", "duplicate-idx", "missing-idx", "label"]
    for rule in rules:
        (reason,) = answer_reasons({rule: 2})
        assert verdict([reason]) == "INVALID"
    assert len(answer_reasons(dict.fromkeys(rules, 1))) == len(rules) and answer_reasons({}) == []


def test_every_reason_is_explained_and_notes_do_not_invalidate():
    assert set(MEANING) == set(Reason)
    assert verdict(NOTES) == "VALID" and verdict([]) == "VALID"
    for reason in set(Reason) - NOTES:
        assert verdict([reason, *NOTES]) == "INVALID"
