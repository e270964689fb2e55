"""Memory that is no process's own: files that are mapped or unwritten, files in memory, helpers that go elsewhere."""

import functools
import json
from pathlib import Path
from unittest import mock

import pytest
from servers import runner, server

from morocco_lib.analysis import memory, run_files
from morocco_lib.benchmark.run import RunSeries
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.data import workload
from morocco_lib.runners import confined
from morocco_lib.runners.contract import Limits
from morocco_lib.tasks import get_task

MB = 10**6
TASK = get_task("terra")
RECORD = {"premise": "a", "hypothesis": "b", "idx": 0}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A file of 61 MB in the file cache: its pages count for whoever wrote it."""
    path = tmp_path_factory.mktemp("held") / "file"
    path.parent.chmod(0o777)
    path.write_bytes(b"\x01" * (61 * MB))
    return path


@pytest.fixture(scope="module")
def held(file, tmp_path_factory):
    """Measure `holder.py` on one record and return the run; each way is measured once."""

    possible = confined.possible()

    @functools.cache
    def measure(use_cgroup: bool, *words: str, confined: bool = True) -> run_files.Run:
        folder = tmp_path_factory.mktemp("run")
        source = folder / "records.jsonl"
        source.write_text(json.dumps(RECORD) + "\n")
        target = Target(Program(server("holder", "--file", file, *words), "holder"), runner(use_cgroup), Limits(20))
        load = workload.build(TASK, [RECORD], 1, 0)
        with (
            mock.patch("morocco_lib.runners.confined.possible", lambda: confined and possible),
            RunSeries(target, load, source, folder, batch_size=1) as series,
        ):
            return run_files.read_run(series.run(folder, "bench"))

    return measure


def more_mb(held, use_cgroup: bool, *words: str) -> float:
    """Return how many megabytes more are measured than of the program that holds none."""
    return (memory.ram_bytes(held(use_cgroup, *words)) - memory.ram_bytes(held(use_cgroup, "none"))) / MB


@pytest.mark.parametrize("way", ["file", "writes", "unwritten", "memory"])
def test_what_a_group_holds_beside_anonymous_memory_counts(held, way):
    assert more_mb(held, True, way) == pytest.approx(60, abs=4)


@pytest.mark.parametrize("way", ["file", "writes"])
def test_mapped_files_count_where_there_is_no_group(held, way):
    assert more_mb(held, False, way) == pytest.approx(60, abs=4)


@pytest.mark.parametrize("use_cgroup", [True, False])
@pytest.mark.parametrize("way", ["shared", "divided"])
def test_a_file_that_four_processes_map_counts_once(held, use_cgroup, way):
    # and the processes themselves; each share is read at a moment of its own while they map
    assert 52 < more_mb(held, use_cgroup, way) < 160


@pytest.mark.parametrize("use_cgroup", [True, False])
def test_a_helper_that_leaves_parent_session_and_cgroup_counts_and_is_named(held, use_cgroup):
    run, none = held(use_cgroup, "helper", confined=False), held(use_cgroup, "none")
    assert (memory.ram_bytes(run) - memory.ram_bytes(none)) / MB == pytest.approx(60, abs=12)  # and the process itself
    assert len(run.facts["memory"]["outside_pids"]) == use_cgroup and none.facts["memory"]["outside_pids"] == []


def test_where_we_are_root_a_helper_cannot_leave_the_cgroup(held):
    assert more_mb(held, True, "helper") == pytest.approx(60, abs=12)
    assert held(True, "helper").facts["memory"]["outside_pids"] == []


def test_a_run_states_what_is_counted(held):
    with_group, without = (held(use_cgroup, "none").facts["memory"]["counted"] for use_cgroup in (True, False))
    assert set(with_group) - set(without) == {"files in memory", "unwritten files"} and "mapped files" in without
