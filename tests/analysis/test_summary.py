"""A folder of runs -> bench.json and score.json."""

import json

import pytest
from helpers import KEYS, READINGS
from run_folders import (
    DISTINCT,
    NO,
    RECORDS,
    TERRA,
    YES,
    answers_of,
    at_once,
    cycled,
    derived,
    run_of,
    sample,
    steady,
    write_run,
)

from morocco_lib.analysis import summary
from morocco_lib.data import workload
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.formatting import runner_text
from morocco_lib.reasons import Reason
from morocco_lib.tasks import get_task

SIZE = 2 * DISTINCT
LATER = range(DISTINCT, SIZE)  # positions at which records come for the second time


# -- the whole -----------------------------------------------------------------------------------------------------
def test_a_valid_point_has_all_keys_and_every_reading_is_a_number_or_null_with_a_reason(tmp_path):
    good = derived(tmp_path / "good", {}, {})
    bad = derived(tmp_path / "bad", {"exit": {"code": 3}})
    assert sorted(good) == sorted(bad) == sorted(KEYS)
    assert (good["schema"], good["verdict"], good["reasons"]) == (1, "VALID", [])
    for result in (good, bad):
        for name in READINGS:
            reading = result[name]
            assert (reading["value"] is None) == ("reason" in reading), name
            assert reading["value"] is not None or Reason(reading["reason"]), name


def test_a_point_describes_what_was_measured(tmp_path):
    ready = {"event": "ready", "precision": "fp16", "backend": "torch", "device": ["gpu"], "t_ns": 1}
    events = {"events": [{"event": "other", "precision": "int8"}, ready]}
    result = derived(tmp_path, events, {}, protocol={"schema": 1, "stopped_by": "repeats"})
    names = ("task", "model", "runner", "image_digest", "input_size", "batch_size", "repeats", "runs")
    assert [result[n] for n in names] == ["terra", "m", "process", None, 40, 8, 2, ["runs/01", "runs/02"]]
    assert (result["precision"], result["backend"], result["device"]) == ("fp16", "torch", None)
    assert result["data"] == {"path": "val.jsonl"} and result["input"]["distinct"] == DISTINCT
    assert result["protocol"] == {"stopped_by": "repeats"}


@pytest.mark.parametrize("text", ["x" * 40, "x" * 41])
def test_what_a_ready_line_reports_is_a_short_text_or_null(text):
    reported = summary.reported({"events": [{"event": "ready", "device": text}]})
    assert reported == {"precision": None, "backend": None, "device": text if len(text) == 40 else None}


def test_settings_hold_limits_threads_and_power_limits_of_the_gpus_that_were_used():
    gpus = [
        {"used_by_run": used, "power_limit_w": watts} for used, watts in ((True, 300.0), (False, 700.0), (True, 450.5))
    ]
    ready = {"event": "ready", "threads": 4}
    facts = {"settings": {"cores": 2}, "limits": {"timeout_s": 60, "cpus": 1.5, "memory_bytes": 1000, "pids": 9}}
    found = summary.settings_of(facts | {"gpu": {"devices": gpus}, "events": [ready]})
    assert found == {
        "cores": 2,
        "limit_cpus": 1.5,
        "limit_memory_bytes": 1000,
        "power_limit_w": "300/450.5",
        "threads": 4,
    }
    bare = {"gpu": "NO_GPU", "events": [{**ready, "threads": "4"}], "limits": {"cpus": None}}
    assert summary.settings_of(facts | bare) == {"cores": 2} and summary.settings_of(bare) is None


def test_estimates_of_one_run_are_those_of_the_run(tmp_path):
    result = derived(tmp_path, {})
    assert result["reasons"] == ["SINGLE_RUN"] and result["speed_per_s"]["scope"] == "run"
    assert result["speed_per_s"]["value"] == pytest.approx(500) and result["init_s"]["value"] == 1.0
    assert result["bytes_per_s"]["value"] == pytest.approx(500 * 100)
    assert result["bytes_per_s"]["high"] == pytest.approx(100 * result["speed_per_s"]["high"])
    assert result["cpu_s_per_record"]["value"] == pytest.approx(1 / 36) and result["cpu_s_per_record"]["scope"] == "run"
    assert (result["ram_bytes"]["value"], result["ram_bytes"]["method"]) == (5000.0, "cgroup v2")
    assert (result["ram_cgroup_peak_bytes"]["value"], result["ram_cgroup_peak_bytes"]["method"]) == (
        5000,
        "memory.peak",
    )


def test_one_unproven_run_makes_the_point_unproven(tmp_path):
    proven = {"memory": True, "isolation": False}
    result = derived(tmp_path, {"proven": proven}, {"proven": proven | {"memory": False}})
    assert result["proven"] == {"memory": False, "isolation": False} and result["reasons"] == ["UNPROVEN"]
    assert result["verdict"] == "VALID" and runner_text(result) == "process: no isolation, memory unproven"
    older = derived(tmp_path / "older", {"proven": proven}, {})
    assert older["proven"] is None and older["reasons"] == []


def test_what_one_run_lacks_the_point_lacks(tmp_path):
    result = derived(tmp_path, {}, {"memory": {"cgroup_peak_bytes": None}, "samples": [sample(7)]})
    assert result["ram_cgroup_peak_bytes"] == {"value": None, "reason": "NO_CGROUP"}
    assert result["cpu_s_per_record"] == {"value": None, "reason": "NO_SAMPLES"}
    assert result["ram_bytes"]["scope"] == "runs" and result["verdict"] == "VALID"


# -- validity ------------------------------------------------------------------------------------------------------
def test_one_invalid_run_makes_the_point_invalid_and_the_others_keep_their_numbers(tmp_path):
    fast = {"arrivals": steady(SIZE, 4, 900.0)}
    result = derived(tmp_path, {**fast, "exit": {"code": 3}}, {}, {})
    assert (result["verdict"], result["reasons"]) == ("INVALID", ["NON_ZERO_EXIT"])
    assert [row["verdict"] for row in result["per_run"]] == ["INVALID", "VALID", "VALID"]
    assert [row["reasons"] for row in result["per_run"]] == [["NON_ZERO_EXIT"], [], []]
    assert result["speed_per_s"]["value"] == pytest.approx(500) and result["repeats"] == 3
    assert [row["speed_per_s"] for row in result["per_run"]] == pytest.approx([900, 500, 500])
    assert result["score"] == {"value": None, "reason": "NO_VALID_RUN"}
    assert [row["score"] for row in result["per_run"]] == [0.75] * 3


def test_a_point_without_a_valid_run_has_no_number(tmp_path):
    result = derived(tmp_path, {"answers": [*answers_of(SIZE)[:-1], '{"idx": 39, "label": "maybe"}']})
    assert result["reasons"] == ["WRONG_LABEL", "SINGLE_RUN"]
    names = ("speed_per_s", "bytes_per_s", "init_s", "ram_bytes", "ram_cgroup_peak_bytes", "cpu_s_per_record", "score")
    assert all(result[name] == {"value": None, "reason": "NO_VALID_RUN"} for name in names)
    (row,) = result["per_run"]
    assert row["problems"] == {"label": 1} and "runs/01/answers.jsonl, line 40" in row["examples"][0]
    assert row["score"] is None and row["exit"] == {"code": 0, "signal": None}


def test_reasons_are_those_of_the_runs_then_of_the_point_each_once(tmp_path):
    left = {"exit": {"left_pids": [7]}}
    result = derived(
        tmp_path, left, {**left, "exit": {"pids_refused": 1, "left_pids": [7]}}, protocol={"conformance": {"ok": False}}
    )
    assert result["reasons"] == ["LEFT_PROCESSES", "PIDS_REFUSED", "CONTRACT_BROKEN"]
    assert result["verdict"] == "VALID"


def test_a_truncated_file_makes_a_run_invalid(tmp_path):
    result = derived(tmp_path, {"stdout_bytes": 10**6})
    assert result["reasons"] == ["LOG_TRUNCATED", "SINGLE_RUN"] and result["verdict"] == "INVALID"


@pytest.mark.parametrize("stage", summary.STAGES)
def test_so_does_one_of_a_run_beside_the_timed_ones(tmp_path, stage):
    result = derived(tmp_path, {}, **{stage: [{"stdout_bytes": 10**6}]})
    assert result["reasons"][0] == "LOG_TRUNCATED" and result["verdict"] == "INVALID"


def test_speeds_that_fall_from_run_to_run_are_drift(tmp_path):
    result = derived(tmp_path, *({"arrivals": steady(SIZE, 4, rate)} for rate in (500, 490, 480.5, 470, 459.5)))
    assert (result["verdict"], result["reasons"]) == ("DISTURBED", ["DRIFT"])
    assert result["speed_per_s"]["value"] is not None  # kept, and greyed where it is shown


# -- disturbances --------------------------------------------------------------------------------------------------
BUSY = {"others": {"cpu_s": 4.0, "cores": 1.6, "of_cores": 2, "top": [{"pid": 9, "name": "make", "cpu_s": 3.0}]}}
SLOW = {"arrivals": steady(SIZE, 4, 250.0)}


def test_what_the_machine_did_leaves_score_and_memory_and_names_who_did_it(tmp_path):
    result = derived(tmp_path, BUSY, BUSY, {})
    assert (result["verdict"], result["reasons"]) == ("DISTURBED", ["BUSY_MACHINE"])
    assert result["score"]["value"] == 0.75 and result["ram_bytes"]["value"] and result["speed_per_s"]["value"]
    assert result["disturbed_by"] == [{"pid": 9, "name": "make", "share": pytest.approx(3.0 / (4.0 / 1.6 * 2))}]


def test_the_three_processes_that_took_most_of_the_cores_time_in_all_runs_are_named():
    def disturbed(*seconds):
        top = [{"pid": pid, "name": "make", "cpu_s": s} for pid, s in enumerate(seconds)]
        return run_of([], others={"cpu_s": 4.0, "cores": 1.0, "of_cores": 2, "top": top})

    runs = [disturbed(1.0, 3.0, 0.5, 2.0), disturbed(1.5), run_of([]), run_of([], others="MACHINE_NOT_TOLD")]
    found = summary._disturbers(runs)
    assert [(process["pid"], process["share"]) for process in found] == [(1, 3 / 16), (0, 2.5 / 16), (3, 2 / 16)]
    assert summary._disturbers(runs[2:]) == []


@pytest.mark.parametrize(("requested", "speed"), [(2, 500), (3, 375), (None, 375)])
def test_a_disturbed_run_is_left_out_where_the_others_are_as_many_as_requested(tmp_path, requested, speed):
    result = derived(tmp_path, SLOW | BUSY, {}, {}, protocol={"asked": {"repeats": requested}})
    assert [row["verdict"] for row in result["per_run"]] == ["DISTURBED", "VALID", "VALID"]
    assert [row["speed_per_s"] for row in result["per_run"]] == pytest.approx([250, 500, 500])
    assert result["verdict"] == ("VALID" if requested == 2 else "DISTURBED")
    assert result["speed_per_s"]["value"] == pytest.approx(speed, rel=0.01)


def test_a_program_that_fails_on_a_busy_machine_is_invalid(tmp_path):
    result = derived(tmp_path, BUSY | {"exit": {"code": 3}}, BUSY)
    assert result["verdict"] == "INVALID" and result["score"]["value"] is None


def test_start_ups_of_two_groups_are_noted(tmp_path):
    ready = ({"arrivals": steady(SIZE, 4, begin_s=s), "ready_s": s} for s in (1.0, 2.0, 1.02))
    result = derived(tmp_path, *ready)
    assert result["reasons"] == ["TWO_START_UPS"] and result["init_s"]["method"] == "median"


def at_the_end(size, seconds, **more):
    return {"arrivals": at_once(size, 1 + seconds), "ready_s": None, **more}


def test_a_pair_whose_larger_run_is_invalid_does_not_count(tmp_path):
    runs = [at_the_end(SIZE, 9.0, exit={"code": 3}), at_the_end(SIZE, 2.0), at_the_end(SIZE, 2.1)]
    smaller = [at_the_end(10, seconds) for seconds in (0.1, 1.0, 1.1)]
    result = derived(tmp_path, *runs, smaller=smaller)
    assert result["speed_per_s"]["value"] == pytest.approx(30 / 1.0) and result["speed_per_s"]["method"] == "paired"
    assert result["paired_per_s"]["value"] == pytest.approx(30 / 1.0)
    assert [row["speed_per_s"] for row in result["per_run"]] == [None, *[pytest.approx(30)] * 2]


def test_a_run_of_more_records_that_takes_too_long_makes_the_point_invalid(tmp_path):
    stages = {"smaller": [at_the_end(10, 1.1)] * 2, "larger": [at_the_end(400, 40.0)]}
    result = derived(tmp_path, *[at_the_end(SIZE, 2.0)] * 2, **stages)
    assert (result["verdict"], result["reasons"]) == ("INVALID", ["TIMES_DISAGREE"])


@pytest.mark.parametrize("stage", summary.STAGES)
def test_a_program_that_fails_in_any_stage_is_invalid(tmp_path, stage):
    result = derived(tmp_path, {}, {}, **{stage: [{"exit": {"code": 3}}]})
    assert (result["verdict"], result["reasons"]) == ("INVALID", ["NON_ZERO_EXIT"])


def test_quick_is_a_reason_code_and_no_fault(tmp_path):
    result = derived(tmp_path, {}, {}, protocol={"asked": {"quick": True, "repeats": 2}})
    assert (result["verdict"], result["reasons"]) == ("VALID", ["QUICK"])


def test_sound_runs_are_the_valid_ones(tmp_path):
    runs = [write_run(tmp_path, exit={"code": code}) for code in (0, 3, 0)]
    assert summary.sound_runs(tmp_path) == [runs[0], runs[2]]


# -- scores and flips ----------------------------------------------------------------------------------------------
LOAD = workload.build(get_task("terra"), RECORDS, SIZE, 1)  # what `write_run` feeds
TRUE = [position for position in range(SIZE) if LOAD.is_true(position)]
CYCLED = {"load": cycled(SIZE)}


@pytest.mark.parametrize(
    ("load", "unscored"), [(LOAD, set(range(SIZE)) - set(TRUE)), (cycled(SIZE), LATER)], ids=["recombined", "cycled"]
)
def test_the_score_is_that_of_the_first_answers_to_records_of_the_file(tmp_path, load, unscored):
    result = derived(tmp_path, {"answers": answers_of(SIZE, dict.fromkeys(unscored, NO)), "load": load})
    score = result["score"]
    assert (score["value"], score["n"], score["metrics"]) == (0.75, DISTINCT, {"accuracy": 0.75})
    assert score["majority"] == {"label": YES, "value": 0.75} and score["interval"] == "wilson 95 %"
    assert score["low"] == pytest.approx(0.531, abs=1e-3) and score["high"] == pytest.approx(0.888, abs=1e-3)


def test_records_without_labels_have_no_score(tmp_path):
    unlabelled = [{k: v for k, v in r.items() if k != "label"} for r in RECORDS]
    assert derived(tmp_path, {"load": workload.build(TERRA, unlabelled, SIZE, 1)})["score"] == {
        "value": None,
        "reason": "NO_GOLD",
    }


def test_flips_are_counted_within_runs_and_from_run_to_run(tmp_path):
    runs = [
        {"answers": answers_of(SIZE, {0: NO, 20: NO, 21: NO}), **CYCLED},
        {"answers": answers_of(SIZE, {1: NO}), **CYCLED},
        {"answers": answers_of(SIZE), **CYCLED},
    ]
    result = derived(tmp_path, *runs)
    # Between: the second run differs from the first in places 0 and 1, the third in place 0.
    assert result["flips"] == {"value": (1 + 1 + 0) + 3, "compared": 3 * DISTINCT + 2 * DISTINCT}
    assert result["reasons"] == ["TEXTS_REPEAT", "FLIPS"] and result["verdict"] == "VALID"


def test_records_that_were_made_are_no_flips_and_repeat_nothing(tmp_path):
    other = workload.build(get_task("terra"), RECORDS, SIZE, 2)
    made = [position for position in range(SIZE) if not other.is_true(position)]
    result = derived(tmp_path, {}, {"load": other, "answers": answers_of(SIZE, dict.fromkeys(made, NO))})
    assert result["flips"] == {"value": 0, "compared": DISTINCT} and result["reasons"] == []


@pytest.mark.parametrize(("size", "noted"), [(1020, False), (1019, True)])
def test_more_than_one_flip_in_1000_is_noted(tmp_path, size, noted):
    run = {"arrivals": steady(size, 8), "answers": answers_of(size, {size - 1: NO}), "load": cycled(size)}
    result = derived(tmp_path, run)
    assert result["flips"] == {"value": 1, "compared": size - DISTINCT}
    assert ("FLIPS" in result["reasons"]) == noted


# -- other stages --------------------------------------------------------------------------------------------------
def test_cold_starts_are_a_number_of_their_own(tmp_path):
    cold = [{"arrivals": at_once(5, s + 0.01), "ready_s": s, "fed_s": 0.0} for s in (2.0, 2.1, 2.2)]
    result = derived(tmp_path, {}, {}, cold=cold)
    assert result["cold_init_s"]["value"] == pytest.approx(2.1) and result["init_s"]["value"] == 1.0
    failed = derived(tmp_path / "failed", {}, {}, cold=[*cold, {"exit": {"code": 3}}])
    assert failed["cold_init_s"] == {"value": None, "reason": "NO_VALID_RUN"}


def test_what_was_not_measured_says_why(tmp_path):
    result = derived(tmp_path / "a", {})
    assert result["cold_init_s"] == {"value": None, "reason": "NOT_ASKED"}
    assert result["kept_answers"] == {"value": None, "reason": "NOT_ASKED", "fires": None}
    assert derived(tmp_path / "b", {}, protocol={"cold": "CACHES_KEPT"})["cold_init_s"]["reason"] == "CACHES_KEPT"


def probe(seconds):
    return [{"arrivals": steady(SIZE, 4, SIZE / seconds)}] * 3


@pytest.mark.parametrize(("repeated_s", "reason"), [(0.5, "CACHED_ANSWERS"), (2.0, "WORK_SKIPPED"), (1.0, None)])
def test_a_program_that_knows_records_of_the_file_is_invalid(tmp_path, repeated_s, reason):
    stages = {"cached/unique": probe(1.0), "cached/repeated": probe(repeated_s)}
    result = derived(tmp_path / "probed", {}, {}, protocol={"cached": {"size": SIZE}}, **stages)
    assert (result["verdict"], result["reasons"]) == (("INVALID", [reason]) if reason else ("VALID", []))
    found = result["kept_answers"]
    assert found["value"] == pytest.approx(1 / repeated_s) and found["method"] == "total"
    assert derived(tmp_path / "not", {}, {}, **stages)["kept_answers"]["reason"] == "NOT_ASKED"


def test_where_records_cannot_be_recombined_it_is_said_that_a_cache_was_not_looked_for(tmp_path):
    result = derived(tmp_path, CYCLED, CYCLED, protocol={"cached": "TEXTS_REPEAT"})
    assert result["kept_answers"] == {"value": None, "reason": "TEXTS_REPEAT", "fires": None}
    assert (result["verdict"], result["reasons"]) == ("VALID", ["TEXTS_REPEAT"])


def test_the_cache_is_looked_for_beside_the_first_use(tmp_path):
    def late(size, seconds):
        return {"arrivals": steady(size, 4, size / seconds, begin_s=2.0)}

    stages = {"cached/unique": [late(SIZE, 2.0)] * 3, "cached/repeated": [late(SIZE, 1.0)] * 3}
    runs, smaller = [late(SIZE, 2.0)] * 3, [late(SIZE // 2, 1.0)] * 3
    found = derived(tmp_path, *runs, protocol={"cached": {}}, smaller=smaller, **stages)["kept_answers"]
    assert found["value"] == pytest.approx(2)


# -- sweeps --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("wrong", "noted"), [(0, False), (1, True)])
def test_a_point_is_compared_with_the_first_of_its_sweep(tmp_path, wrong, noted):
    write_run(tmp_path / "batch-1", batch_size=1, answers=answers_of(SIZE, dict.fromkeys(TRUE[:wrong], NO)))
    result = derived(tmp_path / "batch-8", {}, {}, protocol={"against": "../batch-1"})
    assert result["batch_flips"] == {"against_batch_size": 1, "value": wrong, "compared": DISTINCT}
    assert result["reasons"] == ["BATCH_FLIPS"] * noted


def test_as_many_other_answers_as_are_allowed_are_not_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "FLIP_SHARE", 1 / DISTINCT)
    write_run(tmp_path / "batch-1", batch_size=1, answers=answers_of(SIZE, dict.fromkeys(TRUE[:1], NO)))
    assert derived(tmp_path / "batch-8", {}, {}, protocol={"against": "../batch-1"})["reasons"] == []


def test_a_sweep_is_of_one_task(tmp_path):
    other = write_run(tmp_path / "batch-1")
    load = json.loads((other / "workload.json").read_text())
    (other / "workload.json").write_text(json.dumps({**load, "task": "rcb"}))
    with pytest.raises(UsageError, match="is of task rcb; a sweep is of one task, here terra"):
        derived(tmp_path / "batch-8", {}, protocol={"against": "../batch-1"})


# -- eval ----------------------------------------------------------------------------------------------------------
def evaluated(tmp_path, **run):
    write_run(tmp_path, steady(DISTINCT, 4), **run)
    return summary.derive_eval(tmp_path)


def test_predictions_are_written_in_the_order_of_the_records_with_their_own_idx(tmp_path):
    texts, result = evaluated(tmp_path, answers=answers_of(DISTINCT)[::-1])
    assert [json.loads(line)["idx"] for line in texts["preds.jsonl"].splitlines()] == [
        record["idx"] for record in RECORDS
    ]
    assert result["score"]["value"] == 0.75 and (result["task"], result["batch_size"]) == ("terra", 8)


def test_the_table_for_a_leaderboard_is_the_first_that_a_task_has(tmp_path, monkeypatch):
    table = get_task("rte").submissions[0]
    monkeypatch.setattr(get_task("terra"), "submissions", (table,), raising=False)
    texts, _ = evaluated(tmp_path)
    head, *rows = texts[table.file].splitlines()
    assert head == "index\tprediction" and len(rows) == DISTINCT


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"exit": {"code": 3}}, r"m ended with .*NON_ZERO_EXIT.*a program exits 0 when every record was answered"),
        ({"all_fed": False}, "INPUT_NOT_READ"),
        ({"stdout_bytes": 10**6}, "LOG_TRUNCATED"),
        ({"answers": answers_of(DISTINCT - 1)}, "1 x missing-idx"),
    ],
)
def test_a_program_that_failed_has_no_score(tmp_path, run, message):
    with pytest.raises(InvalidResult, match=message):
        evaluated(tmp_path, records_fed=DISTINCT, **run)


def test_a_busy_machine_does_not_touch_a_score(tmp_path):
    assert evaluated(tmp_path, others={"cpu_s": 9, "cores": 2.0})[1]["score"]["value"] == 0.75
