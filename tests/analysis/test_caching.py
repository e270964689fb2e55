"""Does a program know what it is fed: from speeds, and from written runs of new records and of those of a file."""

import math

import pytest
from run_folders import QUIET, at_once, burst, steady, write_run
from scipy import stats

from morocco_lib.analysis import caching
from morocco_lib.errors import UsageError
from morocco_lib.reasons import Reason

SIZE = 400


# -- speeds --------------------------------------------------------------------------------------------------------
def test_the_ratio_has_students_interval_of_the_logs():
    unique, repeated = [100, 90, 110, 95], [120, 126, 115, 133]
    ratio = caching.compare(unique, repeated)
    logs = [math.log(r / u) for u, r in zip(unique, repeated, strict=True)]
    low, high = stats.t.interval(0.95, 3, loc=sum(logs) / 4, scale=stats.sem(logs))
    assert [math.log(ratio[k]) for k in ("value", "low", "high")] == pytest.approx([sum(logs) / 4, low, high])
    assert ratio["pairs"] == pytest.approx([1.2, 1.4, 115 / 110, 1.4])


@pytest.mark.parametrize(
    ("repeated", "fires"),
    [
        ([1.09, 1.09, 1.09], False),
        ([1.11, 1.11, 1.11], True),
        ([1.12, 1.13, 1.14], True),
        ([1.10, 1.13, 1.16], False),  # the lower end of its 99 % interval is below 1
        ([3, 16, 17], True),  # one run was delayed, and yet all are 1.25 times as fast as any unique one
        ([1.2, 16, 17], False),
        ([1.26, 16, 17], True),
        ([0.5, 0.5, 0.5], False),
    ],
)
def test_it_fires_above_1_10_where_chance_or_one_run_does_not_explain_it(repeated, fires):
    found, inverse = caching.compare([1, 1, 1], repeated), caching.compare(repeated, [1, 1, 1])
    assert (found["fires"], inverse["skips"]) == (fires, fires)
    assert found["skips"] is inverse["fires"] is (repeated == [0.5, 0.5, 0.5])


# -- runs ----------------------------------------------------------------------------------------------------------
def streamed(seconds, **more):
    return {"arrivals": steady(SIZE, 8, SIZE / seconds), "ready_s": None, **more}


def held_back(seconds, **more):
    return {"arrivals": at_once(SIZE, 1 + seconds), **more}


def judged(tmp_path, unique, repeated, **options):
    """Write three pairs of runs and judge them; each kind is the options of its runs, or a list of three."""
    folders = []
    for name, kind in (("unique", unique), ("repeated", repeated)):
        runs = kind if isinstance(kind, list) else [kind] * 3
        folders.append([write_run(tmp_path / name, **run) for run in runs])
    return caching.judge(*folders, **options)


@pytest.mark.parametrize("unique", [streamed(1.0), held_back(1.0)])
@pytest.mark.parametrize("repeated", [streamed(0.5), held_back(0.5), {"arrivals": burst(SIZE, 10, rate=800)}])
def test_a_cache_is_found_however_answers_come(tmp_path, unique, repeated):
    result = judged(tmp_path, unique, repeated)
    assert (result["fires"], result["skips"]) == (True, False) and result["value"] == pytest.approx(2, rel=0.003)


def test_new_records_that_are_faster_are_not_worked_on(tmp_path):
    result = judged(tmp_path, streamed(0.5), streamed(1.0))
    assert (result["fires"], result["skips"]) == (False, True) and result["value"] == pytest.approx(0.5, rel=0.003)
    busy = {"others": QUIET | {"cores": 2.0}}  # and the CPU time of the program is the same
    assert judged(tmp_path / "busy", streamed(0.5, **busy), streamed(1.0, **busy))["reason"] == "BUSY_MACHINE"
    assert judged(tmp_path / "short", streamed(0.05), streamed(0.09))["reason"] == "NO_STREAM"


def test_records_that_are_shorter_may_be_faster(tmp_path):
    long, short = streamed(1.0, bytes_fed=100 * SIZE), streamed(0.5, bytes_fed=50 * SIZE)
    for kinds in ((long, short), (short, long)):
        result = judged(tmp_path / str(kinds[0] is long), *kinds)
        assert (result["fires"], result["skips"]) == (False, False)


def test_an_honest_program_is_not_accused(tmp_path):
    unique = [streamed(1.0), streamed(1.02), streamed(0.98)]
    result = judged(tmp_path, unique, [streamed(0.99), streamed(1.01), streamed(1.0)])
    assert result["fires"] is result["skips"] is False and result["method"] == "total"
    assert result["low"] < 1 < result["high"]


def test_less_than_50_ms_a_run_accuses_nobody(tmp_path):
    saves_45 = judged(tmp_path / "a", streamed(0.1), streamed(0.055))
    assert saves_45 == {"value": None, "reason": Reason.NO_STREAM, "fires": None}
    assert judged(tmp_path / "b", streamed(0.1), streamed(0.045))["fires"] is True


def test_of_the_time_since_feeding_only_work_is_compared(tmp_path):
    result = judged(tmp_path, held_back(3.0), held_back(2.5), first_use_s=2.0)
    assert result["fires"] is True and result["value"] == pytest.approx(2)
    assert judged(tmp_path / "b", held_back(3.0), held_back(1.9), first_use_s=2.0)["fires"] is True


@pytest.mark.parametrize(("first_use_s", "known"), [(0.99, True), (1.01, False)])
def test_where_most_is_no_work_nobody_is_acquitted(tmp_path, first_use_s, known):
    result = judged(tmp_path, held_back(2.0), held_back(2.0), first_use_s=first_use_s)
    assert result["fires"] is False if known else result == {"value": None, "reason": Reason.NO_STREAM, "fires": None}


def test_runs_without_an_answer_after_feeding_show_nothing(tmp_path):
    unknown = {"value": None, "reason": Reason.NO_STREAM, "fires": None}
    assert judged(tmp_path, held_back(1.0), held_back(1.0, fed_s=5.0)) == unknown


@pytest.mark.parametrize(
    ("cores", "cpu_s", "accused"),
    [
        (0.4, (1.0, 1.0), True),  # a fifth of two cores is no reason
        (0.6, (1.0, 1.0), False),
        (0.6, (1.0, 0.95), False),
        (0.6, (1.0, 0.9), True),  # the program itself worked less
        (0.6, (None, 0.0), False),
    ],
)
def test_on_a_busy_machine_cpu_time_must_confirm_it(tmp_path, cores, cpu_s, accused):
    others = QUIET | {"cores": cores}
    unique, repeated = (streamed(s, others=others, cpu_s=c) for s, c in zip((1.0, 0.5), cpu_s, strict=True))
    result = judged(tmp_path, unique, repeated)
    busy = {"value": None, "reason": Reason.BUSY_MACHINE, "fires": None}
    assert result["fires"] is True if accused else result == busy


def test_where_the_load_of_the_machine_is_unknown_it_excuses_nothing(tmp_path):
    repeated = streamed(0.5, others="MACHINE_NOT_TOLD")
    assert judged(tmp_path, streamed(1.0, others=QUIET | {"cores": 2.0}), repeated)["fires"] is True


@pytest.mark.parametrize(
    "fault",
    [
        {"exit": {"code": 3}},
        {"all_fed": False},
        {"stdout_bytes": 10**6},
        {"clock": {"slept_s": 3.0}},
        {"gpu": {"pids_hidden": False, "devices": [{"lost": True, "used_by_run": False}]}},
        {"answers": ["{}"] * SIZE},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_one_invalid_run_takes_the_result(tmp_path, fault):
    repeated = [streamed(0.5), streamed(0.5), streamed(0.5, **fault)]
    folders = [[write_run(tmp_path / "unique", **streamed(1.0)) for _ in range(3)]]
    folders.append([write_run(tmp_path / "repeated", **run) for run in repeated])
    (folders[1][2] / "gpu.jsonl").write_text("")
    assert caching.judge(*folders) == {"value": None, "reason": Reason.NO_VALID_RUN, "fires": None}


@pytest.mark.parametrize(("unique", "repeated"), [(3, 2), (2, 2)])
def test_runs_must_come_in_three_pairs(tmp_path, unique, repeated):
    with pytest.raises(UsageError, match="in pairs, at least 3"):
        caching.judge([tmp_path] * unique, [tmp_path] * repeated)
