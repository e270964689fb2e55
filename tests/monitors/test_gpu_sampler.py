"""The GPU sampler, on GPUs that answer by a script: whose processes they are, lost GPUs, calls that hang."""

import json
import threading
import time

import pytest
from helpers import wait_until

from morocco_lib.monitors import gpu_sampler
from morocco_lib.monitors.gpu_sampler import GpuSampler
from morocco_lib.monitors.nvml import Nvml

pynvml = pytest.importorskip("pynvml")
from servers.gpus import MIB, FakeGpu, FakeNvml  # noqa: E402


def sampled(path, *gpus, pids=(), seconds=0.1, library=None):
    """Return (facts, lines) of sampling for a moment."""
    library = library or FakeNvml(*gpus)
    with GpuSampler(path, Nvml(library)) as sampler:
        sampler.watch(lambda: list(pids), time.monotonic_ns())
        time.sleep(seconds)
        facts = sampler.stop()
    assert library.open == 0
    return json.loads(json.dumps(facts)), [json.loads(line) for line in path.read_text().splitlines()]


def test_samples_come_at_20_hz_or_faster_from_every_gpu(tmp_path):
    facts, lines = sampled(tmp_path / "gpu.jsonl", FakeGpu("GPU-0"), FakeGpu("GPU-1"), seconds=0.25)
    report = facts["sampler"]
    assert report["period_asked_s"] <= 0.05 and report["period_median_s"] < 0.05
    assert report["samples"] * 2 == len(lines) and report["cpu_s"] > 0
    assert [line["gpu"] for line in lines[:4]] == [0, 1, 0, 1] and lines[0]["t_ns"] == lines[1]["t_ns"]
    assert [d["uuid"] for d in facts["devices"]] == ["GPU-0", "GPU-1"]
    assert "power_w" in lines[0] and "power_w" not in lines[2]
    assert facts["utilisation_window_s"][1] == 1.0 and facts["versions"]["driver"] == "535.54.03"


def test_pids_of_the_run_are_told_from_others_and_are_listed_only_for_a_new_one(tmp_path):
    lists = []
    gpu = FakeGpu(compute={1: 10}, graphics={3: 7})
    opened = Nvml(FakeNvml(gpu))  # pid 1 computes before the run, pid 2 and its child 20 are the run
    gpu.told["compute"] = {1: 10, 2: 100, 20: 50, 5: None}
    with GpuSampler(tmp_path / "gpu.jsonl", opened) as sampler:
        sampler.watch(lambda: lists.append(1) or [2, 20], time.monotonic_ns())
        assert wait_until(lambda: len(sampler.times_ns) >= 4)
        facts = sampler.stop()
    (device,) = facts["devices"]
    assert facts["pids"] == [2, 20] and device["used_by_run"] and device["idle"]["processes"] == {1: 10, 3: 7}
    others = {other["pid"]: (other["peak_bytes"], other["graphics_only"]) for other in device["others"]}
    assert others == {1: (10, False), 3: (7, True), 5: (None, False)}
    assert max(other["samples"] for other in device["others"]) == facts["sampler"]["samples"]
    assert len(lists) == 2  # a process may have ended between two readings, not between three


def test_gpus_of_the_run_are_quiet_since_they_last_worked(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_sampler, "STATE_EVERY", 1)
    other, gpu = FakeGpu("GPU-0", compute={1: 10}, utilisation=90), FakeGpu("GPU-1", utilisation=10)
    with GpuSampler(tmp_path / "gpu.jsonl", Nvml(FakeNvml(other, gpu))) as sampler:
        sampler._pids = lambda: [2]
        sampler.sample()
        assert sampler.quiet_ns is None  # it uses none
        gpu.told["compute"] = {2: 10}
        found = []
        for share in (15, 15, 60, 20, 10, 30):  # a tenth is others'
            gpu.told["utilisation"] = share
            sampler.sample()
            found.append((sampler.times_ns[-1], sampler.quiet_ns))
    times = [t_ns for t_ns, _ in found]
    assert [times.index(quiet_ns) for _, quiet_ns in found] == [0, 0, 2, 2, 2, 5]


def test_without_pids_of_the_run_they_are_hidden_and_not_nobodys(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_sampler, "in_container", lambda: False)
    for named, hidden in (([], True), ([7], False)):
        gpu = FakeGpu()
        with GpuSampler(tmp_path / "gpu.jsonl", Nvml(FakeNvml(gpu))) as sampler:
            gpu.told["compute"] = {4: 10}
            sampler.watch(lambda named=named: named, 0)
            assert wait_until(lambda: len(sampler.times_ns) >= 2)
            assert sampler.stop()["pids_hidden"] is hidden


def test_a_lost_gpu_is_noticed_and_the_other_sampled_on(tmp_path):
    library = FakeNvml(FakeGpu("GPU-0"), FakeGpu("GPU-1", compute={2: 10}))
    readings = []

    def size():
        readings.append(1)
        if len(readings) > 3:
            raise pynvml.NVMLError_GpuIsLost()
        return 10 * MIB

    library.gpus[0].told["used"] = size
    facts, lines = sampled(tmp_path / "gpu.jsonl", library=library, seconds=0.3)
    assert [d["lost"] for d in facts["devices"]] == [True, False]
    last = [max(line["t_ns"] for line in lines if line["gpu"] == gpu) for gpu in (0, 1)]
    assert last[0] < last[1] and facts["devices"][0]["missing"]["memory"]["reason"] == "GPU_LOST"


def test_a_call_that_never_returns_does_not_hold_up_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_sampler, "HUNG_S", 0.1)
    free, asked = threading.Event(), threading.Event()
    library = FakeNvml(FakeGpu())
    with GpuSampler(tmp_path / "gpu.jsonl", Nvml(library)) as sampler:
        library.gpus[0].told["used"] = lambda: asked.set() or (free.wait(20) and 1)
        sampler.watch(list, 0)
        assert asked.wait(20)
        began = time.monotonic()
        facts = sampler.stop()
    assert time.monotonic() - began < 1 and facts["devices"][0]["lost"] and facts["sampler"] is None
    free.set()
    sampler._thread.join(5)
    assert not sampler._thread.is_alive()
