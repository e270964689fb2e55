"""Arrivals and ends of runs -> segments of steady work."""

import random

import pytest
from run_folders import INIT_S, RATE, at_once, burst, run_of, steady

from morocco_lib.analysis import segments
from morocco_lib.analysis.segments import fed_segment, paired_segments, ready_segment, stream_segment
from morocco_lib.reasons import Reason


def stream(arrivals, ready_s=None):
    return stream_segment(run_of(arrivals, ready_s=ready_s))


def batches(seconds, size=10, begin=1.0):
    arrivals, at = [(begin, size)], begin
    for each in seconds:
        at += each
        arrivals.append((at, size))
    return arrivals


# -- the stream ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("batch", "ready_s"), [(1, None), (32, None), (8, INIT_S)])
def test_the_first_batch_shows_only_when_the_stream_begins_and_the_rest_at_the_end_is_left_out(batch, ready_s):
    segment = stream(steady(1000, batch), ready_s)
    assert segment.records == 1000 - batch - 1000 % batch
    assert segment.records / segment.seconds == pytest.approx(RATE)


def test_a_last_arrival_as_large_as_the_others_belongs_to_the_stream():
    assert stream(steady(80, 8)).records == 72
    assert stream(steady(84, 8)).records == 72


def test_of_five_arrivals_none_is_left_out():
    arrivals = steady(39, 8)
    assert len(arrivals) == 5 and stream(arrivals).records == 31
    assert stream(arrivals[:4]) is Reason.NO_STREAM


@pytest.mark.parametrize(
    ("arrivals", "is_stream"),
    [
        ([(0.5 + i * 0.0019, 100) for i in range(10)], False),  # 17 ms: a buffer is emptied
        ([(0.5 + i * 0.0023, 100) for i in range(10)], True),
        ([(100 + i * 0.1, 100) for i in range(10)], False),  # 0.9 % of the run: all at its end
        ([(100 + i * 0.12, 100) for i in range(10)], True),
    ],
)
def test_what_comes_within_20_ms_or_1_percent_of_the_run_is_no_stream(arrivals, is_stream):
    assert (stream(arrivals) is not Reason.NO_STREAM) == is_stream


def test_arrivals_at_one_moment_are_no_stream():
    assert stream([(2.0, 8)] * 6, ready_s=1.99) is Reason.NO_STREAM


@pytest.mark.parametrize(("wait_s", "held_back"), [(1.09, False), (1.11, True)])
def test_more_than_half_of_the_streams_time_before_it_is_held_back(wait_s, held_back):
    arrivals = [(INIT_S + wait_s + 0.2 * k, 10) for k in range(10)]  # 1.8 s for 90 records, of which the first took 0.2
    assert segments.held_back(run_of(arrivals, ready_s=0.5)) == held_back


def test_the_parts_of_a_stream_are_ten_and_make_up_the_whole():
    segment = stream(steady(1000, 7))
    assert len(segment.parts) == 10
    assert sum(n for n, _ in segment.parts) == segment.records
    assert sum(s for _, s in segment.parts) == pytest.approx(segment.seconds)
    assert all(n == pytest.approx(segment.records / 10, abs=7) for n, _ in segment.parts)
    bursts = [(1.0 + 0.1 * (k // 10), 10) for k in range(50)]
    assert all(s > 0 for _, s in stream(bursts).parts)


# -- readiness -----------------------------------------------------------------------------------------------------
def test_from_readiness_all_records_count():
    segment = ready_segment(run_of([(2.0, 10), (5.0, 90)], ready_s=1.0))
    assert (segment.records, segment.seconds) == (100, 4.0)


def test_from_feeding_all_records_count():
    segment = fed_segment(run_of([(2.0, 10), (5.0, 90)], fed_s=1.5))
    assert (segment.records, segment.seconds) == (100, 3.5)
    assert ready_segment(run_of([(2.0, 10), (5.0, 90)], ready_s=1.0, fed_s=1.5)) == segment
    assert fed_segment(run_of([(2.0, 10)], fed_s=2.0)) is fed_segment(run_of([])) is Reason.NO_STREAM
    assert fed_segment(run_of([(2.0, 10)], fed_s=None)) is Reason.NO_STREAM


def test_of_pairs_the_difference_counts_and_a_run_without_one_has_none():
    runs, smaller = [run_of(at_once(100, 3.0), fed_s=f) for f in (1.0, 0.5, 1.0)], [run_of(at_once(40, 2.0), fed_s=1.5)]
    first, *others = paired_segments(runs, [*smaller, run_of([])])
    assert (first.records, first.seconds) == (60, 1.5) and others == [None, None]


def test_without_readiness_or_after_the_last_answer_there_is_none():
    assert ready_segment(run_of([(2.0, 10)])) is ready_segment(run_of([], ready_s=1.0)) is Reason.NO_READINESS
    assert ready_segment(run_of([(2.0, 10)], ready_s=2.0)) is Reason.NO_STREAM


@pytest.mark.parametrize(
    ("arrivals", "ready_s", "held_back"),
    [
        ([(5.0, 40)], 1.0, True),
        ([(5.0, 39)], 1.0, False),  # fewer than five batches of 8 could not be a stream
        # 20 in 2 s: as many took as long before, and half of it again is held back.
        ([(3.9, 20), (5.9, 20)], 1.0, False),
        ([(4.1, 20), (6.1, 20)], 1.0, True),
        ([(5.0, 40)], None, False),
        ([], 1.0, False),
    ],
)
def test_answers_are_held_back_where_batches_were_enough(arrivals, ready_s, held_back):
    assert segments.held_back(run_of(arrivals, ready_s=ready_s)) == held_back


def test_a_warm_up_may_be_left_in():
    run = run_of(batches([0.2, 0.21, 0.19, *WOBBLE * 12]))
    assert stream_segment(run, False).records == 630 and stream_segment(run, False).warm_up_s == 0


# -- warm-up -------------------------------------------------------------------------------------------------------
WOBBLE = [0.1, 0.102, 0.098, 0.101, 0.099]


def test_a_warm_up_is_found_and_left_out():
    segment = stream(batches([0.2, 0.21, 0.19, *WOBBLE * 12]))
    assert segment.warm_up_s == pytest.approx(0.6)
    assert segment.records == 600 and segment.records / segment.seconds == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize(
    ("seconds", "left_out"),
    [
        (WOBBLE * 12, 0),
        ([0.1] * 30 + [0.2] * 3 + [0.1] * 30, 0),  # a pause in the middle
        ([0.119, 0.12, 0.118] * 3 + WOBBLE * 12, 0),  # slower by less than a fifth
        ([0.125, 0.126, 0.124] * 3 + WOBBLE * 12, 90),  # by a quarter
        ([0.2] * 40 + [0.1] * 20, 0),  # most of the run: this is how it works
        ([0.2] * 19 + [0.1] * 41, 190),
        ([0.2] * 24 + [0.1] * 36, 200),  # a third at most
        ([0.19] + [0.08, 0.12] * 30, 0),  # 4.4 standard errors: the noise of so few
        ([0.22] + [0.08, 0.12] * 30, 10),  # 5.9
        ([0.1275] * 20 + [0.08, 0.12] * 20, 0),  # 4.94, with what is uncertain of the rest
        ([0.1281] * 20 + [0.08, 0.12] * 20, 200),  # 5.04
        ([12.0] * 3 + [10.0] * 57, 0),  # by a fifth and no more
        ([0.2] * 3 + [0.1] * 27 + [0.6] + [0.1] * 29, 0),  # a pause in the later half is noise
        ([0.2] * 3 + [0.1] * 26 + [0.6] + [0.1] * 30, 30),  # before it is not
        ([0.2] * 3 + [0.1] * 7, 30),  # five of the later half are enough
        ([0.2] * 2 + [0.1] * 6, 0),  # too few after it
    ],
)
def test_what_is_a_warm_up_and_what_is_not(seconds, left_out):
    segment = stream(batches(seconds))
    assert segment.records == 10 * len(seconds) - left_out and (segment.warm_up_s > 0) == (left_out > 0)


def test_long_texts_answered_first_are_no_warm_up():
    arrivals = batches([0.3] * 6 + [0.1, 0.101, 0.099] * 20)
    long_first = [300] * 70 + [100] * (10 * len(arrivals) - 70)
    assert segments.warm_up(arrivals, lambda: [100] * 670) == 6
    assert segments.warm_up(arrivals, lambda: long_first) == 0
    assert segments.warm_up(arrivals, lambda: None) == 6
    assert segments.warm_up(arrivals, lambda: [100] * 600) == 0  # lines are missing
    arrivals = batches([300.0] * 6 + [100.0] * 60)
    for size, place in ((250, 0), (249, 6)):  # a byte of them takes 1.2 times as long, and more
        assert segments.warm_up(arrivals, lambda size=size: [size] * 70 + [100] * 600) == place


def test_sizes_are_read_only_where_a_warm_up_shows():
    def fail():
        raise AssertionError("read")

    assert segments.warm_up(batches(WOBBLE * 12), fail) == 0


# -- start-ups -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seconds", "fast"),
    [
        ([1.0, 1.02, 1.5], 2),
        ([1.5, 1.0, 1.51, 0.98, 1.02], 3),
        ([1.0, 1.25], 0),
        ([1.0, 1.26], 1),
        ([0.05, 0.05, 0.14], 0),  # 0.1 s at least
        ([0.05, 0.05, 0.16], 2),
        ([1.0, 1.3, 1.6, 1.9], 0),  # no two groups
        ([1.0, 1.3, 1.65], 0),  # a gap of 0.35 beside a range of 0.3
        ([1.0, 1.3, 1.68], 2),
        ([1.0, 1.5, 1.6, 1.95], 0),  # the range of the slower group counts
        ([1.0, 1.4, 1.45, 1.9], 0),  # and all of the faster one's
        ([1.0], 0),
        ([], 0),
    ],
)
def test_two_groups_of_start_ups(seconds, fast):
    assert segments.two_kinds(seconds) == fast


def test_jitter_of_the_machine_is_no_warm_up_and_nothing_held_back():
    noise = random.Random("jitter")
    arrivals = sorted((t + noise.uniform(0, 0.05), n) for t, n in steady(1000, 32))
    segment = stream(arrivals, ready_s=INIT_S)
    assert segment.warm_up_s == 0 and segment.records / segment.seconds == pytest.approx(RATE, rel=0.03)


def test_a_burst_at_the_end_is_no_stream():
    assert stream(burst(1000, 10)) is Reason.NO_STREAM
