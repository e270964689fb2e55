"""Memory, energy and intruders on a real GPU."""

import json
import subprocess
import sys
import time

import pytest

from morocco_lib.analysis.gpu import gpu_energy, gpu_ram_bytes
from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.validity import gpu_reasons
from morocco_lib.monitors import nvml
from morocco_lib.monitors.gpu_sampler import GpuSampler
from morocco_lib.monitors.nvml import Nvml
from morocco_lib.reasons import Reason

pytestmark = pytest.mark.gpu
MIB = 2**20

HOLD = """
import sys, torch
grip = torch.zeros(1, device="cuda")
torch.cuda.synchronize()
for line in sys.stdin:
    mib, seconds = map(float, line.split())
    if mib:
        grip = torch.zeros(int(mib) * 2**20, dtype=torch.uint8, device="cuda")
    begin, a = __import__("time").monotonic(), torch.zeros(4096, 4096, device="cuda") if seconds else None
    while seconds and __import__("time").monotonic() < begin + seconds:
        a = a @ a
        torch.cuda.synchronize()
    print("done", flush=True)
"""


@pytest.fixture
def real_gpu():
    found = Nvml()
    found.close()
    if not found.devices:
        pytest.skip(f"no GPU that NVML opens here ({found.reason})")
    torch = pytest.importorskip("torch", reason="torch is not installed, and a GPU is filled with it")
    if not torch.cuda.is_available():
        pytest.skip("this torch finds no GPU")
    if nvml.in_container():
        pytest.skip("in a container the GPU's pids are not ours")


@pytest.fixture
def holder(real_gpu):
    """Start programs that hold GPU memory when told to; returns a function that starts one and waits for its context."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.stdin.close()
        process.wait(30)


def hold(process, mib=0, seconds=0):
    process.stdin.write(f"{mib} {seconds}\n")
    assert process.stdout.readline() == "done\n"


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_of(facts, path):
    times = [line["t_ns"] / 1e9 for line in lines_of(path)]
    arrivals = [(times[0] + (times[-1] - times[0]) * i / 9, 1) for i in range(10)]
    return Run(None, {"gpu": json.loads(json.dumps(facts))}, arrivals, [], lines_of(path))


def test_memory_of_a_child_is_within_10_mib_of_what_it_took(holder, tmp_path):
    peaks = []
    for mib in (0, 512):
        path = tmp_path / f"{mib}.jsonl"
        with GpuSampler(path) as sampler:
            child = holder()
            sampler.watch(lambda pid=child.pid: [pid], time.monotonic_ns())
            hold(child, mib)
            time.sleep(0.5)
            facts = sampler.stop()
        peaks.append(gpu_ram_bytes(run_of(facts, path)))
        child.stdin.close()
        child.wait(30)
    context, full = peaks
    assert 50 * MIB < context < 2000 * MIB
    assert full - context == pytest.approx(512 * MIB, abs=10 * MIB)


def test_the_energy_counter_agrees_with_integrated_power(holder, tmp_path):
    path = tmp_path / "gpu.jsonl"
    with GpuSampler(path) as sampler:
        child = holder()
        hold(child, seconds=3)  # up to its steady power
        sampler.watch(lambda: [child.pid], time.monotonic_ns())
        hold(child, seconds=15)
        facts = sampler.stop()
    run = run_of(facts, path)
    counted, _, method = gpu_energy(run)
    assert method == "counter"
    for sample in run.gpu_samples:
        sample["energy_j"] = None
    integrated, _, method = gpu_energy(run)
    assert method == "power" and counted == pytest.approx(integrated, rel=0.1)


def test_the_idle_reading_is_of_a_gpu_nobody_of_ours_uses(holder):
    before = Nvml()
    child = holder()
    hold(child, 256)
    after = Nvml()
    for found in (before, after):
        found.close()
    grown = [b.idle["used_bytes"] - a.idle["used_bytes"] for a, b in zip(before.devices, after.devices, strict=True)]
    assert max(grown) > 256 * MIB
    assert all(child.pid not in device.idle["processes"] for device in before.devices)
    assert any(child.pid in device.idle["processes"] for device in after.devices)


def test_a_real_intruder_is_noticed(holder, tmp_path):
    with GpuSampler(tmp_path / "gpu.jsonl") as sampler:
        ours, other = holder(), holder()
        sampler.watch(lambda: [ours.pid], time.monotonic_ns())
        hold(ours), hold(other)
        time.sleep(1)
        facts = sampler.stop()
    assert Reason.OTHER_GPU_PROCESS in gpu_reasons(facts)
    assert other.pid in {pid["pid"] for device in facts["devices"] for pid in device["others"]}
