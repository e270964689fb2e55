"""When gaps between samples, and other programs, speak against a run."""

import pytest

from morocco_lib.analysis import validity
from morocco_lib.reasons import Reason


@pytest.mark.parametrize(
    ("longest_s", "gaps_s", "watched_s", "found"),
    [
        (0.02, 0.0, 60.0, False), (0.9, 0.9, 60.0, False), (1.1, 1.1, 600.0, True), (0.3, 0.3, 0.5, False),
        (0.3, 6.5, 60.0, True), (0.3, 5.5, 60.0, False), (None, None, None, False),
    ],
)  # fmt: skip
def test_the_rule_of_gaps(longest_s, gaps_s, watched_s, found):
    report = {"longest_gap_s": longest_s, "gaps_s": gaps_s, "watched_s": watched_s}
    assert validity.sampler_reasons(report) == [Reason.SAMPLER_GAPS] * found


def test_a_run_kept_before_gaps_were_recorded_stays_as_it_was():
    assert validity.sampler_reasons({"longest_gap_s": 0.05}) == []
    exit = {"signal": None}
    assert validity.worker_reasons({"phases": {"last_answer_s": 1.0}, "exit": exit}) == []


@pytest.mark.parametrize(
    ("cpu_s", "cores", "of_cores", "idle_share", "found"),
    [
        (0.4, 1.9, 2, 0.0, []),  # too little to tell from noise
        (5.0, 1.1, 2, 0.4, [Reason.BUSY_MACHINE]),
        (5.0, 0.9, 2, 0.5, [Reason.SHARED_MACHINE]),
        (5.0, 0.5, 2, 0.5, []),
        (5.0, 0.6, 8, 0.5, [Reason.SHARED_MACHINE]),
        (5.0, 1.7, 8, 0.04, [Reason.BUSY_MACHINE]),
        (5.0, 1.5, 8, 0.04, [Reason.SHARED_MACHINE]),
        (5.0, 1.7, 8, 0.06, [Reason.SHARED_MACHINE]),
        (50.0, 0.4, 64, 0.0, []),
    ],
)
def test_the_rule_of_other_programs(cpu_s, cores, of_cores, idle_share, found):
    others = {"cpu_s": cpu_s, "cores": cores, "of_cores": of_cores, "idle_share": idle_share}
    assert validity.machine_reasons(others) == found


def test_what_is_not_known_of_others_is_no_reason():
    assert validity.machine_reasons(Reason.MACHINE_NOT_TOLD) == []


@pytest.mark.parametrize(
    ("number", "exit_signal", "t_s", "found"),
    [
        (9, None, 1.9, [Reason.WORKER_KILLED]),
        (11, None, 1.9, [Reason.WORKER_KILLED]),
        (9, None, 2.1, []),  # after the last answer
        (15, None, 1.9, []),
        (13, None, 1.9, []),
        (None, None, 1.9, []),  # ended by itself, or it is not known how
        (9, 9, 1.9, []),  # the program as a whole
    ],
)
def test_the_rule_of_killed_workers(number, exit_signal, t_s, found):
    ended = {"pid": 7, "t_ns": int(t_s * 1e9), "signal": number, "code": None}
    facts = {"phases": {"last_answer_s": 2.0}, "exit": {"signal": exit_signal}, "ended_processes": [ended]}
    assert validity.worker_reasons(facts) == found
