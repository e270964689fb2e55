"""Facts of runs -> reason codes, on either side of each bound."""

import pytest
from run_folders import QUIET, facts_of, run_of, steady

from morocco_lib.analysis import validity
from morocco_lib.reasons import DISTURBANCES, NOTES, Reason, verdict

FACTS = facts_of(steady(40, 4))
INVALID = set(Reason) - NOTES - DISTURBANCES


@pytest.mark.parametrize(
    ("end", "reasons"),
    [
        ({}, []),
        ({"code": 3}, ["NON_ZERO_EXIT"]),
        ({"code": None, "signal": 11}, ["KILLED"]),
        ({"code": None, "signal": 9, "timed_out": True}, ["TIMEOUT"]),
        ({"code": None, "signal": 9, "oom_killed": True}, ["OUT_OF_MEMORY", "KILLED"]),
        ({"oom_killed": True}, ["OUT_OF_MEMORY"]),  # a child was killed, and the program went on
        ({"left_pids": [7]}, ["LEFT_PROCESSES"]),
        ({"pids_refused": 7}, ["PIDS_REFUSED"]),
    ],
)
def test_the_end_of_a_run_gives_its_reasons(end, reasons):
    assert validity.exit_reasons(FACTS["exit"] | end) == reasons


@pytest.mark.parametrize(
    ("runner", "proven", "kept"),
    [
        ("process", None, True),  # of before it was recorded
        ("process", (True, False), True),
        ("process", (False, False), False),
        ("docker", (True, True), True),
        ("docker", (True, False), False),
        ("docker", (False, True), False),
    ],
)
def test_what_a_runner_promises_and_could_not_keep_is_noted(runner, proven, kept):
    facts = {"runner": runner} | ({"proven": dict(zip(("memory", "isolation"), proven, strict=True))} if proven else {})
    assert validity.proof_reasons(facts) == [Reason.UNPROVEN] * (not kept) and Reason.UNPROVEN in NOTES


@pytest.mark.parametrize(
    ("facts", "reasons"),
    [
        ({}, []),
        ({"all_fed": False}, ["INPUT_NOT_READ"]),
        ({"all_fed": False, "exit": {"left_pids": [7]}}, ["INPUT_NOT_READ"]),  # a note does not excuse it
        ({"all_fed": False, "exit": {"code": 3}}, []),  # that says enough
        ({"stdout_cut": True, "all_fed": False}, ["STDOUT_FLOODED"]),
    ],
)
def test_what_was_fed_and_printed_gives_its_reasons(facts, reasons):
    assert validity.stream_reasons(facts_of(steady(40, 4), **facts)) == reasons


@pytest.mark.parametrize(
    ("sampler", "invalid"),
    [
        ({"longest_gap_s": 1.0}, False),
        ({"longest_gap_s": 1.01}, True),
        ({"longest_gap_s": None, "gaps_s": None}, False),
        ({"gaps_s": 0.5, "watched_s": 1.0}, False),
        ({"gaps_s": 0.51, "watched_s": 5.0}, True),
        ({"gaps_s": 0.51, "watched_s": 5.2}, False),
        ({"gaps_s": 1.0, "watched_s": 10.0}, False),
    ],
)
def test_gaps_of_a_second_or_a_tenth_of_the_time_are_too_long(sampler, invalid):
    assert validity.sampler_reasons(FACTS["sampler"] | sampler) == [Reason.SAMPLER_GAPS] * invalid


def test_gaps_that_older_runs_do_not_report_are_none():
    assert validity.sampler_reasons({"longest_gap_s": 0.2, "watched_s": 1.0}) == []


@pytest.mark.parametrize(
    ("ended", "facts", "killed"),
    [
        ({"signal": 9, "t_ns": 10**9}, {}, True),
        ({"signal": 11, "t_ns": 10**9}, {}, True),
        ({"signal": 15, "t_ns": 10**9}, {}, False),  # an ordinary way to end a worker
        ({"signal": None, "t_ns": 10**9}, {}, False),
        ({"signal": 9, "t_ns": 2 * 10**9}, {}, False),  # after the last answer, which came at 1.08 s
        ({"signal": 9, "t_ns": 10**9}, {"exit": {"signal": 9}}, False),  # as the program itself
        ({"signal": 9, "t_ns": 1_080_000_000}, {}, False),
        ({"signal": 9, "t_ns": 1}, {"phases": {"last_answer_s": None}}, False),
    ],
)
def test_a_worker_that_is_killed_before_the_last_answer_makes_a_run_invalid(ended, facts, killed):
    facts = facts_of(steady(40, 4), ended_processes=[ended], **facts)
    assert validity.worker_reasons(facts) == [Reason.WORKER_KILLED] * killed


@pytest.mark.parametrize(
    ("others", "reasons"),
    [
        ({"cpu_s": 9, "cores": 1.0}, ["SHARED_MACHINE"]),  # half of two cores
        ({"cpu_s": 9, "cores": 1.01}, ["BUSY_MACHINE"]),
        ({"cpu_s": 0.49, "cores": 1.9}, []),  # for a moment
        ({"cpu_s": 0.5, "cores": 1.9}, ["BUSY_MACHINE"]),
        ({"cpu_s": 9, "cores": 0.41, "idle_share": 0.04}, ["BUSY_MACHINE"]),
        ({"cpu_s": 9, "cores": 0.41, "idle_share": 0.05}, []),
        ({"cpu_s": 9, "cores": 0.4, "idle_share": 0.0}, []),
        ({"cpu_s": 9, "cores": 0.41, "idle_share": None}, []),
        ({"cpu_s": 9, "cores": 0.5}, []),
        ({"cpu_s": 9, "cores": 0.51}, ["SHARED_MACHINE"]),
        ({"cpu_s": 9, "cores": 0.51, "of_cores": 5}, ["SHARED_MACHINE"]),
        ({"cpu_s": 9, "cores": 0.51, "of_cores": 6}, []),
        ({"cpu_s": 9, "cores": 1.0, "of_cores": 10}, []),
        ({"ray_cores": 0.011}, ["RAY_BUSY"]),
        ({"ray_cores": 0.01}, []),
        ({"cpu_s": 9, "cores": 1.01, "ray_cores": 0.5}, ["RAY_BUSY", "BUSY_MACHINE"]),
    ],
)
def test_other_processes_make_a_machine_shared_and_then_busy(others, reasons):
    assert validity.machine_reasons(QUIET | others) == reasons


@pytest.mark.parametrize(
    ("changed", "well", "disturbed"),
    [
        ({}, True, False),
        ({"exit": {"left_pids": [7]}}, True, False),  # a note
        ({"exit": {"code": 3}}, False, False),
        ({"others": {"cpu_s": 9, "cores": 2.0}}, True, True),
        (
            {"others": {"cpu_s": 9, "cores": 2.0}, "exit": {"code": 3}},
            False,
            False,
        ),  # the program failed, whatever else
    ],
)
def test_a_program_that_fails_is_told_from_a_machine_that_disturbs(changed, well, disturbed):
    run = run_of(steady(40, 4), **changed)
    assert (validity.ended_well(run), bool(validity.disturbances(run))) == (well, disturbed)


def test_what_is_unknown_of_the_machine_says_nothing():
    assert validity.log_reasons(True) == [Reason.LOG_TRUNCATED] and validity.log_reasons(False) == []
    assert validity.machine_reasons("MACHINE_NOT_TOLD") == []
    assert validity.gpu_reasons("NO_GPU") == []


def test_clocks_that_were_set_or_slept():
    assert validity.clock_reasons({"wall_moved_s": 0.0, "slept_s": None}) == []
    assert validity.clock_reasons({"wall_moved_s": -3.0, "slept_s": None}) == [Reason.CLOCK_TROUBLE]
    assert validity.clock_reasons({"wall_moved_s": 0.0, "slept_s": 5.0}) == [Reason.MACHINE_SLEPT]


@pytest.mark.parametrize(
    ("speeds", "drifts"),
    [
        ([100, 98, 96.1, 94, 91.9], True),
        ([91.9, 94, 96.1, 98, 100], True),
        ([100, 90, 80, 70], False),  # too few
        ([100.0] * 5, False),
        ([100, 99, 98.1, 97, 96], False),  # steady, and within 5 %
        ([100, 98, 96, 94, 92.0], True),  # a line without any scatter
        ([100, 98.6, 97.2, 95.8, 94.4], True),  # by 5.8 % from the first to the last
        ([100, 98.8, 97.6, 96.4, 95.2], False),  # 4.9 %
        ([100, 92, 105, 90, 97, 88], False),  # chance
        ([100, 96, 97, 93, 91], False),  # equal runs look so in 15 of 1,000 experiments
    ],
)
def test_a_trend_of_more_than_5_percent_is_drift(speeds, drifts):
    assert validity.drift_reasons(speeds) == [Reason.DRIFT] * drifts


def test_every_broken_rule_of_answers_has_its_reason():
    rules = {
        **{"broken-line": "BROKEN_LINE", "idx": "WRONG_IDX", "unknown-idx": "UNKNOWN_IDX"},
        **{"duplicate-idx": "DUPLICATE_IDX", "missing-idx": "MISSING_IDX", "label": "WRONG_LABEL"},
    }
    for rule, reason in rules.items():
        assert validity.answer_reasons({rule: 2}) == [reason]
    assert validity.answer_reasons({"label": 0}) == []


@pytest.mark.parametrize(
    ("changed", "problems", "reason"),
    [
        ({"exit": {"code": 3}}, {}, "NON_ZERO_EXIT"),
        ({"all_fed": False}, {}, "INPUT_NOT_READ"),
        ({"ended_processes": [{"signal": 9, "t_ns": 1}]}, {}, "WORKER_KILLED"),
        ({"sampler": {"longest_gap_s": 3.0}}, {}, "SAMPLER_GAPS"),
        ({"others": {"cpu_s": 9, "cores": 2.0}}, {}, "BUSY_MACHINE"),
        ({"clock": {"slept_s": 9.0}}, {}, "MACHINE_SLEPT"),
        ({"gpu": {"pids_hidden": False, "devices": [{"lost": True, "used_by_run": False}]}}, {}, "GPU_LOST"),
        ({}, {"label": 1}, "WRONG_LABEL"),
    ],
)
def test_none_of_the_reasons_against_a_run_is_left_out(changed, problems, reason):
    run = run_of(steady(40, 4), **changed)
    assert validity.run_reasons(run, problems) == [reason]
    assert validity.run_reasons(run_of(steady(40, 4)), {}) == []


# -- GPUs ----------------------------------------------------------------------------------------------------------
def gpu(*devices, pids_hidden=False):
    base = {"used_by_run": True, "others": [], "lost": False, "state_samples": 100, "slowed_samples": 0}
    return {"pids_hidden": pids_hidden, "devices": [base | device for device in devices]}


OTHER = {"pid": 9, "samples": 2, "peak_bytes": 5, "graphics_only": False}
UNUSED = {"used_by_run": False}


@pytest.mark.parametrize(
    ("facts", "reasons"),
    [
        (gpu({"slowed_samples": 1}), []),
        (gpu({"slowed_samples": 2}), ["GPU_THROTTLED"]),  # more than 1 %
        (gpu({"slowed_samples": 9, **UNUSED}, {}), []),
        (gpu({"slowed_samples": 9, **UNUSED}), []),
        (gpu({"slowed_samples": 9, **UNUSED}, pids_hidden=True), ["GPU_THROTTLED"]),
        (gpu({"lost": True}), ["GPU_LOST"]),
        (gpu({"lost": True, **UNUSED}, {}), []),
        (gpu({"lost": True, **UNUSED}), ["GPU_LOST"]),
        (gpu({"others": [OTHER]}), ["OTHER_GPU_PROCESS"]),
        (gpu({"others": [OTHER | {"samples": 1}]}), []),  # it may be the run's own, and have ended
        (gpu({"others": [OTHER], **UNUSED}, {}), []),
        (gpu({"others": [OTHER | {"graphics_only": True}]}), ["DISPLAY_ON_GPU"]),
    ],
)
def test_what_happens_on_the_gpus_of_a_run_gives_its_reasons(facts, reasons):
    assert validity.gpu_reasons(facts) == reasons


# -- verdicts ------------------------------------------------------------------------------------------------------
def test_notes_leave_a_result_valid_disturbances_do_not_and_every_other_reason_is_against_the_program():
    assert verdict(NOTES) == verdict([]) == "VALID"
    assert {verdict([reason, *NOTES]) for reason in DISTURBANCES} == {"DISTURBED"}
    assert {verdict([reason, *NOTES, *DISTURBANCES]) for reason in INVALID} == {"INVALID"}
    assert {Reason.SINGLE_RUN, Reason.WORK_NOT_SEEN} <= NOTES and Reason.CACHED_ANSWERS in INVALID
