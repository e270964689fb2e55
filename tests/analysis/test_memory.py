"""Memory and CPU time of a run."""

import pytest
from run_folders import run_of, sample, steady

from morocco_lib.analysis import memory
from morocco_lib.reasons import Reason


def test_memory_is_the_largest_sample_of_anonymous_and_shared():
    run = run_of(
        [], samples=[sample(100, 5, 900), sample(60, 50, 900), sample(70, 30)], memory={"cgroup_peak_bytes": None}
    )
    assert memory.ram_bytes(run) == 110


def test_mapped_files_huge_pages_and_swap_are_held():
    samples = [sample(100, 5, mapped_bytes=40, huge_bytes=20, swap_bytes=3), sample(120, 5)]
    assert memory.ram_bytes(run_of([], samples=samples, memory={"cgroup_peak_bytes": None})) == 168


def test_the_kernels_peak_says_nothing_of_mapped_files_so_those_of_most_samples_are_added():
    samples = [sample(100, file=30, kernel=9, mapped_bytes=mapped) for mapped in (1, 60, 70, 30, 60)]
    assert memory.ram_bytes(run_of([], samples=samples, memory={"cgroup_peak_bytes": 500})) == 500 - 30 - 9 + 60


def test_the_method_tells_runs_of_before_mapped_files_counted():
    assert memory.method_of({"source": "proc"}) == "proc"
    assert memory.method_of({"source": "proc", "counted": []}) == "proc with mapped files"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"cgroup_peak_bytes": 500}, 500 - 30 - 9),  # less the most file cache and kernel memory ever sampled
        ({"cgroup_peak_bytes": 120}, 105),
        ({"cgroup_peak_bytes": None, "high_water_bytes": 130}, 130),
    ],
)
def test_memory_is_raised_to_what_the_kernels_peak_leaves(facts, expected):
    samples = [sample(100, 5, 30, 7), sample(90, 0, 20, 9)]
    assert memory.ram_bytes(run_of([], samples=samples, memory=facts)) == expected


def test_memory_of_an_unknown_kernel_share_is_still_a_number():
    assert memory.ram_bytes(run_of([], samples=[sample(100, 5, 30, None)], memory={"cgroup_peak_bytes": 500})) == 470


def test_memory_without_samples_is_not_measured():
    assert memory.ram_bytes(run_of([])) is Reason.NO_SAMPLES


MARKS = [
    sample(cpu_s=1.0),
    sample(cpu_s=2.0, mark="ready"),
    sample(cpu_s=2.5, mark="first_answer"),
    sample(cpu_s=9.0),
    sample(cpu_s=10.5, mark="last_answer"),
    sample(cpu_s=11.0),
]


def test_cpu_time_is_that_between_the_first_and_the_last_answer():
    assert memory.cpu_of_stream(run_of(steady(1000, 8), samples=MARKS)) == (8.0, 992)


def test_cpu_time_without_both_marks_or_of_four_arrivals_is_not_measured():
    assert memory.cpu_of_stream(run_of(steady(1000, 8), samples=MARKS[:-2])) is Reason.NO_SAMPLES
    assert memory.cpu_of_stream(run_of(steady(1000, 8), samples=MARKS[3:])) is Reason.NO_SAMPLES
    assert memory.cpu_of_stream(run_of(steady(32, 8), samples=MARKS)) is Reason.NO_SAMPLES
    assert memory.cpu_of_stream(run_of(steady(40, 8), samples=MARKS)) == (8.0, 32)
