"""GPUs through NVML: a library that answers by a script, refuses, is old or loses its device."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from servers import ROOT

from morocco_lib.monitors import nvml
from morocco_lib.monitors.nvml import EnergyMeter, GpuSampler, Nvml
from morocco_lib.reasons import Reason

pynvml = pytest.importorskip("pynvml")
from servers.gpus import MIB, FakeGpu, FakeNvml, memory_of  # noqa: E402

CALLS = {  # reading: the calls that give it, newest first
    "compute": [f"nvmlDeviceGetComputeRunningProcesses{v}" for v in ("_v3", "_v2", "")],
    "graphics": [f"nvmlDeviceGetGraphicsRunningProcesses{v}" for v in ("_v3", "_v2", "")],
    "memory": ["nvmlDeviceGetMemoryInfo"],
    "energy_j": ["nvmlDeviceGetTotalEnergyConsumption"],
    "power_w": ["nvmlDeviceGetPowerUsage"],
    "utilisation_share": ["nvmlDeviceGetUtilizationRates"],
    "temperature_c": ["nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"],
    "slowed_by": ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"],
    "uuid": ["nvmlDeviceGetUUID"],
    "name": ["nvmlDeviceGetName"],
}


def only(library) -> nvml.Device:
    (device,) = Nvml(library).devices
    return device


# -- one reading ---------------------------------------------------------------------------------------------------
def test_a_new_driver_gives_everything_in_si_units():
    device = only(FakeNvml(FakeGpu(compute={7: 100 * MIB}, graphics={8: 5 * MIB})))
    assert device.identity == {"uuid": "GPU-0", "name": "Fake GPU", "persistence_mode": True, "power_limit_w": 300.0}
    assert device.idle == {
        "total_bytes": 1000 * MIB,
        "used_bytes": 10 * MIB,
        "reserved_bytes": 3 * MIB,
        "energy_j": 5.0,
        "processes": {7: 100 * MIB, 8: 5 * MIB},
        "graphics": [8],
        "power_w": 50.0,
        "utilisation_share": 0.35,
        "sm_clock_hz": 1.41e9,
        "memory_clock_hz": 1.215e9,
        "temperature_c": 40,
        "slowed_by": 0,
    }
    assert device.missing == {} and device.calls["memory"] == "nvmlDeviceGetMemoryInfo_v2"
    assert device.calls["compute"] == "nvmlDeviceGetComputeRunningProcesses_v3"


def test_of_a_pid_in_both_lists_the_larger_size_counts():
    assert nvml.merged([(1, 10), (2, None), (3, 5)], [(1, 30), (2, 4), (3, 2), (9, None)]) == {
        1: 30,
        2: 4,
        3: 5,
        9: None,
    }
    assert nvml.merged([(1, 10), (1, 20)], None) == {1: 20}
    assert nvml.merged(None, []) == {} and nvml.merged(None, None) is None


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        *((name, "NotSupported", Reason.GPU_NOT_TOLD) for name in CALLS),
        ("power_w", "NoPermission", Reason.NO_GPU_PERMISSION),
        ("power_w", "Unknown", Reason.GPU_NOT_TOLD),
        ("power_w", "GpuIsLost", Reason.GPU_LOST),
    ],
)
def test_a_call_that_is_refused_is_none_with_its_reason_and_the_others_answer(name, error, reason):
    device = only(FakeNvml(FakeGpu(), refuse=dict.fromkeys(CALLS[name], error)))
    assert {name: missing["reason"] for name, missing in device.missing.items()} == {name: reason}
    assert device.lost is (error == "GpuIsLost")
    read = {**device.identity, **device.idle, "compute": None, "graphics": None}
    assert {**read, "memory": read["used_bytes"]}[name] is None


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("compute", "FunctionNotFound"), ("compute", "AttributeError"), ("graphics", "ArgumentVersionMismatch"),
        ("temperature_c", "FunctionNotFound"), ("slowed_by", "NotSupported"),
    ],
)  # fmt: skip
def test_what_a_driver_or_binding_does_not_know_is_read_the_older_way(name, error):
    gpu = FakeGpu(compute={7: 100}, graphics={7: 100})
    for newest in range(1, len(CALLS[name])):
        newer = CALLS[name][:newest]
        refuse, gone = ({}, newer) if error == "AttributeError" else (dict.fromkeys(newer, error), ())
        library = FakeNvml(gpu, refuse=refuse, gone=gone)
        device = only(library)
        assert device.calls[name] == CALLS[name][newest] and device.missing == {}
        before = library.asked[newer[-1]]
        device.read(state=True)
        assert library.asked[newer[-1]] == before  # the call that answered is kept to


def test_memory_of_an_old_driver_is_read_by_the_first_call_and_named():
    class Old(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, gpu, version=None):
            if version is not None:
                raise pynvml.NVMLError_FunctionNotFound()
            return memory_of(gpu)

    device = only(Old(FakeGpu()))
    assert device.calls["memory"] == "nvmlDeviceGetMemoryInfo"
    assert device.idle["used_bytes"] == 13 * MIB and device.idle["reserved_bytes"] is None


def test_our_constants_are_those_of_the_binding():
    assert pynvml.nvmlMemory_v2 == nvml.MEMORY_V2
    slowed = ("HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert sum(getattr(pynvml, f"nvmlClocksEventReason{name}") for name in slowed) == nvml.SLOWED
    codes = {getattr(pynvml, f"NVML_ERROR_{name}") for name in ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND")}
    assert codes < nvml.NOT_THERE and pynvml.NVML_ERROR_GPU_IS_LOST in nvml.GONE


@pytest.mark.parametrize("size", [None, 2**64 - 1])
def test_a_size_that_is_not_available_is_none_and_never_0(size):
    device = only(FakeNvml(FakeGpu(compute={7: size}, energy=2**64 - 1, power=2**32 - 1, used=2**64 - 1)))
    assert device.idle["processes"] == {7: None}
    assert device.idle["energy_j"] is device.idle["power_w"] is device.idle["used_bytes"] is None
    assert {name: missing["reason"] for name, missing in device.missing.items()} == dict.fromkeys(
        ("energy_j", "power_w", "memory"), Reason.GPU_NOT_TOLD
    )


def test_an_unknown_call_is_not_repeated_and_a_failed_one_is():
    library = FakeNvml(FakeGpu(), refuse={"nvmlDeviceGetTotalEnergyConsumption": "NotSupported"})
    device = only(library)
    for _ in range(5):
        device.read(state=False)
    assert library.asked["nvmlDeviceGetTotalEnergyConsumption"] == 1
    assert device.missing["energy_j"] == {"reason": Reason.GPU_NOT_TOLD, "samples": 6}
    library = FakeNvml(FakeGpu(), refuse={"nvmlDeviceGetPowerUsage": "Timeout"})
    device = only(library)
    library.refuse.clear()
    assert device.read(state=True)["power_w"] == 50.0 and device.missing["power_w"]["samples"] == 1


def test_mig_instances_take_the_place_of_their_gpu():
    gpu = FakeGpu("GPU-A", temperature=66)
    gpu.mig_on, gpu.migs = True, (FakeGpu("MIG-1", compute={7: 100}), FakeGpu("MIG-2", temperature=lambda: 1 / 0))
    first, second = Nvml(FakeNvml(gpu)).devices
    assert [d.identity["uuid"] for d in (first, second)] == ["MIG-1", "MIG-2"]
    assert first.mig_of == second.mig_of == "GPU-A" and first.idle["processes"] == {7: 100}
    assert second.idle["temperature_c"] == 66  # there is one for all of them


# -- opening -------------------------------------------------------------------------------------------------------
def test_without_a_driver_nothing_is_imported(monkeypatch, tmp_path):
    monkeypatch.setattr(nvml, "DRIVER", (tmp_path / "none",))
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it would fail
    found = Nvml()
    assert (found.devices, found.reason) == ([], Reason.NO_GPU)
    found.close()


def test_a_driver_that_cannot_be_read_is_no_missing_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(nvml, "DRIVER", (tmp_path,))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Nvml().reason is Reason.GPU_NOT_SAMPLED
    for error, reason in {"DriverNotLoaded": Reason.GPU_NOT_SAMPLED, "NoPermission": Reason.NO_GPU_PERMISSION}.items():
        assert Nvml(FakeNvml(FakeGpu(), refuse={"nvmlInit": error})).reason is reason
    assert Nvml(FakeNvml(FakeGpu(), refuse={"nvmlDeviceGetCount": "Unknown"})).reason is Reason.GPU_NOT_SAMPLED


def test_a_gpu_that_may_not_be_opened_is_named():
    found = Nvml(FakeNvml(FakeGpu(), refuse={"nvmlDeviceGetHandleByIndex": "NoPermission"}))
    assert found.reason is Reason.NO_GPU_PERMISSION
    assert found.unopened == [{"index": 0, "reason": Reason.NO_GPU_PERMISSION}]
    assert Nvml(FakeNvml()).reason is Reason.NO_GPU


def test_what_was_opened_is_closed():
    library = FakeNvml(FakeGpu())
    found = Nvml(library)
    assert library.open == 1
    found.close(), found.close()
    assert library.open == 0


# -- energy --------------------------------------------------------------------------------------------------------
def test_energy_between_two_readings_is_summed_over_all_gpus(monkeypatch):
    gpus = [FakeGpu(energy=5000), FakeGpu("GPU-1", energy=7000)]
    monkeypatch.setattr(nvml, "load", lambda: FakeNvml(*gpus))
    meter = EnergyMeter()
    gpus[0].told["energy"], gpus[1].told["energy"] = 8000, 7500
    assert meter.read() == {"value": 3.5}


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (None, "NO_GPU"),
        (FakeNvml(), "NO_GPU"),
        (FakeNvml(FakeGpu(), FakeGpu("GPU-1", energy=lambda: 1 / 0)), "GPU_NOT_TOLD"),
        (FakeNvml(FakeGpu(), refuse={"nvmlInit": "NoPermission"}), "NO_GPU_PERMISSION"),
    ],
)
def test_energy_that_a_gpu_does_not_give_is_none_with_its_reason(monkeypatch, library, reason):
    monkeypatch.setattr(nvml, "load", lambda: library)
    assert EnergyMeter().read() == {"value": None, "reason": reason}
    assert library is None or library.open == 0


# -- sampling ------------------------------------------------------------------------------------------------------
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
    assert report["period_asked_s"] <= 0.05 and report["period_median_s"] < 0.05  # 20 Hz or faster
    assert (
        report["samples"] * 2 == len(lines) and report["longest_gap_s"] >= report["period_p95_s"] > 0 < report["cpu_s"]
    )
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
        time.sleep(0.15)
        facts = sampler.stop()
    (device,) = facts["devices"]
    assert facts["pids"] == [2, 20] and device["used_by_run"] and device["idle"]["processes"] == {1: 10, 3: 7}
    others = {other["pid"]: (other["peak_bytes"], other["graphics_only"]) for other in device["others"]}
    assert others == {1: (10, False), 3: (7, True), 5: (None, False)}
    assert len(lists) == nvml.PID_CHECKS


def test_without_pids_of_the_run_they_are_hidden_and_not_nobodys(tmp_path, monkeypatch):
    monkeypatch.setattr(nvml, "in_container", lambda: False)
    for named, hidden in (([], True), ([7], False)):
        gpu = FakeGpu()
        with GpuSampler(tmp_path / "gpu.jsonl", Nvml(FakeNvml(gpu))) as sampler:
            gpu.told["compute"] = {4: 10}
            sampler.watch(lambda named=named: named, 0)
            time.sleep(0.05)
            assert sampler.stop()["pids_hidden"] is hidden


def test_a_lost_gpu_is_noticed_and_the_other_sampled_on(tmp_path):
    library = FakeNvml(FakeGpu("GPU-0"), FakeGpu("GPU-1", compute={2: 10}))
    begin = time.monotonic()

    def size():
        if time.monotonic() > begin + 0.1:
            raise pynvml.NVMLError_GpuIsLost()
        return 10 * MIB

    library.gpus[0].told["used"] = size
    facts, lines = sampled(tmp_path / "gpu.jsonl", library=library, seconds=0.3)
    assert [d["lost"] for d in facts["devices"]] == [True, False]
    last = [max(line["t_ns"] for line in lines if line["gpu"] == gpu) for gpu in (0, 1)]
    assert last[0] < last[1] and facts["devices"][0]["missing"]["memory"]["reason"] == "GPU_LOST"


def test_a_call_that_never_returns_does_not_hold_up_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(nvml, "HUNG_S", 0.1)
    free = threading.Event()
    library = FakeNvml(FakeGpu())
    with GpuSampler(tmp_path / "gpu.jsonl", Nvml(library)) as sampler:
        library.gpus[0].told["used"] = lambda: free.wait(20) and 1
        sampler.watch(list, 0)
        time.sleep(0.05)
        began = time.monotonic()
        facts = sampler.stop()
    assert time.monotonic() - began < 1 and facts["devices"][0]["lost"] and facts["sampler"] is None
    free.set()
    sampler._thread.join(5)
    assert not sampler._thread.is_alive()


# -- the real binding on a library of our own ----------------------------------------------------------------------
LIBRARY = r"""
#include <string.h>
typedef unsigned int u;
typedef unsigned long long ull;
struct process { u pid; ull used; u gi, ci; };
static int list(u *n, struct process *p, u pid, ull used) {
  if (!p || *n < 1) { *n = 1; return 7; }
  p->pid = pid; p->used = used; p->gi = p->ci = 0; *n = 1;
  return 0;
}
static int text(char *s, const char *t) { strcpy(s, t); return 0; }
int nvmlInitWithFlags(u flags) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *s, u n) { return text(s, "1.2.3"); }
int nvmlSystemGetNVMLVersion(char *s, u n) { return text(s, "4.5"); }
int nvmlDeviceGetCount_v2(u *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(u i, void **h) { *h = (void *)1; return 0; }
int nvmlDeviceGetUUID(void *h, char *s, u n) { return text(s, "GPU-c"); }
int nvmlDeviceGetName(void *h, char *s, u n) { return text(s, "C"); }
int nvmlDeviceGetTotalEnergyConsumption(void *h, ull *mj) { *mj = 1ull << 40; return 0; }
int nvmlDeviceGetPowerUsage(void *h, u *mw) { *mw = 75000; return 0; }
int nvmlDeviceGetUtilizationRates(void *h, u *rates) { rates[0] = 50; rates[1] = 1; return 0; }
int nvmlDeviceGetClockInfo(void *h, u kind, u *mhz) { *mhz = kind * 1000; return 0; }
int nvmlDeviceGetTemperature(void *h, u sensor, u *c) { *c = 41; return 0; }
int nvmlDeviceGetMemoryInfo(void *h, ull *m) { m[0] = 1000; m[1] = 800; m[2] = 200; return 0; }
#ifdef OLD
int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, ull *r) { *r = 0x40; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v2(void *h, u *n, struct process *p) { return list(n, p, 42, 1ull << 33); }
int nvmlDeviceGetGraphicsRunningProcesses_v2(void *h, u *n, struct process *p) { *n = 0; return 0; }
#else
struct memory { u version; ull total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(void *h, struct memory *m) {
  if (m->version != 0x02000028) return 25;
  m->total = 1000; m->reserved = 50; m->free = 800; m->used = 150;
  return 0;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *h, ull *r) { *r = 0x40; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, u *n, struct process *p) { return list(n, p, 42, 1ull << 33); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *h, u *n, struct process *p) { return list(n, p, 43, ~0ull); }
#endif
"""
PRINT = """
import json, pynvml
from morocco_lib.monitors.nvml import Nvml
(gpu,) = Nvml(pynvml).devices
print(json.dumps([gpu.identity, gpu.idle, gpu.calls, gpu.missing]))
"""


@pytest.mark.parametrize("age", ["new", "old"])
def test_the_binding_and_a_library_in_c_are_understood(tmp_path, age):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    so = tmp_path / "libnvidia-ml.so.1"
    options = ["-shared", "-fPIC", "-w", *(["-DOLD"] if age == "old" else []), "-o", so, "-xc", "-"]
    subprocess.run(["cc", *options], input=LIBRARY, text=True, check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True)
    identity, idle, calls, missing = json.loads(done.stdout)
    assert identity == {"uuid": "GPU-c", "name": "C", "persistence_mode": None, "power_limit_w": None}
    old = age == "old"
    assert idle["processes"] == ({"42": 2**33} if old else {"42": 2**33, "43": None})
    memory = ("nvmlDeviceGetMemoryInfo", 200, None) if old else ("nvmlDeviceGetMemoryInfo_v2", 150, 50)
    assert (calls["memory"], idle["used_bytes"], idle["reserved_bytes"]) == memory
    assert calls["slowed_by"] == f"nvmlDeviceGetCurrentClocks{'Throttle' if old else 'Event'}Reasons"
    assert calls["compute"].endswith("_v2" if old else "_v3") and calls["temperature_c"] == "nvmlDeviceGetTemperature"
    readings = [idle[name] for name in ("energy_j", "power_w", "utilisation_share", "sm_clock_hz", "temperature_c")]
    assert readings == [2**40 / 1000, 75.0, 0.5, 1e9, 41] and idle["slowed_by"] == 0x40
    assert {name: found["reason"] for name, found in missing.items()} == dict.fromkeys(
        ("persistence_mode", "power_limit_w"), "GPU_NOT_TOLD"
    )
