"""Accuracy of both ways of accounting, on real programs whose size is known."""

import functools
import json
from pathlib import Path

import pytest
from servers import runner, server

from morocco_lib.analysis import memory, run_files, summary, throughput
from morocco_lib.benchmark.run import RunSeries
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.data import workload
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.docker import DockerRunner
from morocco_lib.tasks import get_task

pytestmark = pytest.mark.slow
MB = 10**6
TASK = get_task("terra")
RECORD = {"premise": "a", "hypothesis": "b", "idx": 0}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measure `body.py` with these options through the protocol and return the run; each point is measured once."""

    @functools.cache
    def measure(use_cgroup: bool, *options) -> run_files.Run:
        return run_once(runner(use_cgroup), server("body", *options), tmp_path_factory.mktemp("run") / "once")

    return measure


def run_once(way, argv: list[str], folder: Path) -> run_files.Run:
    """Measure a program on one record through the protocol and return the run."""
    folder.mkdir()
    source = folder / "records.jsonl"
    source.write_text(json.dumps(RECORD) + "\n")
    load = workload.build(TASK, [RECORD], 1, 0)
    with RunSeries(Target(Program(argv, "once"), way, Limits(20)), load, source, folder, batch_size=1) as measurement:
        return run_files.read_run(measurement.run(folder, "bench"))


ways = pytest.mark.parametrize("use_cgroup", [True, False], ids=["cgroup", "proc"])
places = pytest.mark.parametrize("place", [(), ("--in-child",)], ids=["itself", "child"])


@places
def test_a_spike_between_two_samples_is_seen_by_the_kernel(measured, place):
    held = memory.ram_bytes(measured(True, "--mb", 100, "--hold", 0, *place))
    twin = memory.ram_bytes(measured(True, "--mb", 0, "--hold", 0.1, *place))
    assert held - twin == pytest.approx(100 * MB, abs=5 * MB + 2 * MB)


@ways
@pytest.mark.parametrize(("hold_s", "place"), [(0.1, ()), (0.4, ("--in-child",))], ids=["itself", "child"])
def test_300_mb_held_for_a_moment_are_seen_within_5_percent_five_times_of_five(measured, use_cgroup, hold_s, place):
    twin = memory.ram_bytes(measured(use_cgroup, "--mb", 0, "--hold", hold_s, *place))
    for number in range(5):
        held = memory.ram_bytes(measured(use_cgroup, "--mb", 300, "--hold", hold_s + number / 1e6, *place))
        assert held - twin == pytest.approx(300 * MB, rel=0.05)


@pytest.mark.parametrize(("hold_s", "place"), [(0.1, ()), (0.4, ("--in-child",))], ids=["itself", "child"])
def test_so_it_is_in_a_container(image_of, tmp_path, hold_s, place):
    way = DockerRunner(image_of(Path(server("body")[-1]).read_text()))

    def ram_bytes(mb: int, number: int) -> float:
        words = ["--mb", str(mb), "--hold", str(hold_s), *place]
        return memory.ram_bytes(run_once(way, words, tmp_path / f"{mb}-{number}"))

    twin = ram_bytes(0, 0)
    for number in range(5):
        assert ram_bytes(300, number) - twin == pytest.approx(300 * MB, rel=0.05)


@ways
@places
def test_half_a_second_of_cpu_time_is_seen_within_15_percent_and_sampled_once(measured, use_cgroup, place):
    busy, idle = (measured(use_cgroup, "--burn", burn, *place) for burn in (0.5, 0.0))
    assert busy.facts["cpu_s"] - idle.facts["cpu_s"] == pytest.approx(0.5, rel=0.15)
    # The child is seen running, then ends and is waited for, then its parent goes on for a while.
    used = [sample["cpu_s"] for sample in busy.samples]
    assert used == sorted(used)
    assert used[-1] == pytest.approx(busy.facts["cpu_s"], rel=0.15) and used[-1] <= busy.facts["cpu_s"] + 0.02


@ways
def test_the_run_states_where_its_numbers_come_from(measured, use_cgroup):
    run = measured(use_cgroup, "--mb", 100, "--hold", 0.5)
    memory, estimates = run.facts["memory"], summary._estimates([run], throughput.read([run]))[0]
    assert estimates["ram_bytes"]["method"] == f"{memory['source']} with mapped files"
    assert memory["source"] == run.facts["sampler"]["source"]
    if use_cgroup:
        assert memory["source"] == run.facts["cpu_source"] in ("cgroup v1", "cgroup v2")
        peak = estimates["ram_cgroup_peak_bytes"]
        assert peak["method"] == memory["cgroup_peak_source"] and peak["value"] >= 100 * MB
    else:
        assert (memory["source"], run.facts["cpu_source"]) == ("proc", "wait4")
        assert estimates["ram_cgroup_peak_bytes"] == {"value": None, "reason": "NO_CGROUP"}
