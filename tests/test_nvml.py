"""GPUs through NVML: a library that answers by a script, refuses, is old, or loses its device; and a real GPU if any."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from servers import PYTHON, ROOT, runner, server
from test_bench import KEYS, RUN_FILES, write_records

from morocco_lib.analysis import gpu as estimate_gpu
from morocco_lib.analysis.estimate import Run
from morocco_lib.analysis.gpu import gpu_energy, gpu_ram_bytes
from morocco_lib.analysis.validity import gpu_reasons
from morocco_lib.benchmark import protocol
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitors import nvml
from morocco_lib.monitors.nvml import GpuSampler, Nvml
from morocco_lib.reasons import Reason
from morocco_lib.runners.contract import Limits
from morocco_lib.tasks import get_task

pynvml = pytest.importorskip("pynvml")

MIB = 2**20
OLD = ("NotSupported", "FunctionNotFound", "ArgumentVersionMismatch")
CALLS = {  # reading: the calls that give it, newest first
    "compute": [f"nvmlDeviceGetComputeRunningProcesses{v}" for v in ("_v3", "_v2", "")],
    "graphics": [f"nvmlDeviceGetGraphicsRunningProcesses{v}" for v in ("_v3", "_v2", "")],
    "memory": ["nvmlDeviceGetMemoryInfo"],
    "energy_j": ["nvmlDeviceGetTotalEnergyConsumption"],
    "power_w": ["nvmlDeviceGetPowerUsage"],
    "utilisation_share": ["nvmlDeviceGetUtilizationRates"],
    "temperature_c": ["nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"],
    "slowed_by": ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"],
}
OPTIONAL = [*CALLS, "sm_clock_hz", "uuid", "name", "persistence_mode", "power_limit_w"]
CALLS |= {"sm_clock_hz": ["nvmlDeviceGetClockInfo"], "uuid": ["nvmlDeviceGetUUID"], "name": ["nvmlDeviceGetName"]}
CALLS |= {"persistence_mode": ["nvmlDeviceGetPersistenceMode"], "power_limit_w": ["nvmlDeviceGetEnforcedPowerLimit"]}


class FakeGpu:
    """A GPU; whatever is given as a function is asked anew at every call. Lists are {pid: bytes}."""

    def __init__(self, uuid="GPU-0", **told):
        self.uuid, self.migs, self.mig_on = uuid, (), False
        self.told = {"compute": {}, "graphics": {}, "total": 1000 * MIB, "used": 10 * MIB, "reserved": 3 * MIB}
        self.told |= {"energy": 5000, "power": 50_000, "slowed": 0, "utilisation": 35, "temperature": 40} | told

    def now(self, name):
        value = self.told[name]
        return value() if callable(value) else value


def _processes(gpu, kind):
    return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in gpu.now(kind).items()]


def _memory(gpu, version=None):
    if version is None:  # the first version counts what the driver reserves as used
        return SimpleNamespace(total=gpu.now("total"), used=gpu.now("used") + gpu.now("reserved"))
    return SimpleNamespace(total=gpu.now("total"), used=gpu.now("used"), reserved=gpu.now("reserved"))


ANSWERS = {
    "nvmlDeviceGetUUID": lambda gpu: gpu.uuid,
    "nvmlDeviceGetName": lambda gpu: "Fake GPU",
    "nvmlDeviceGetPersistenceMode": lambda gpu: 1,
    "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: 300_000,
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: gpu.now("energy"),
    "nvmlDeviceGetPowerUsage": lambda gpu: gpu.now("power"),
    "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=gpu.now("utilisation"), memory=1),
    "nvmlDeviceGetClockInfo": lambda gpu, kind: {1: 1410, 2: 1215}[kind],
    "nvmlDeviceGetTemperatureV": lambda gpu, sensor: gpu.now("temperature"),
    "nvmlDeviceGetTemperature": lambda gpu, sensor: gpu.now("temperature"),
    "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: gpu.now("slowed"),
    "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: gpu.now("slowed"),
    "nvmlDeviceGetMigMode": lambda gpu: [int(gpu.mig_on), int(gpu.mig_on)],
    "nvmlDeviceGetMaxMigDeviceCount": lambda gpu: 7,
}
for _kind in ("Compute", "Graphics"):
    for _version in ("_v3", "_v2", ""):
        ANSWERS[f"nvmlDeviceGet{_kind}RunningProcesses{_version}"] = lambda gpu, kind=_kind: _processes(
            gpu, kind.lower()
        )


class FakeNvml:
    """Answers like the binding; `refuse` is {call: the name of an error}, `gone` a call of which the binding has no word."""

    def __init__(self, *gpus, refuse=None, gone=()):
        self.gpus, self.refuse, self.gone, self.open, self.asked = gpus, refuse or {}, gone, 0, Counter()

    def check(self, call):
        self.asked[call] += 1
        if call in self.refuse:
            raise getattr(pynvml, f"NVMLError_{self.refuse[call]}")()

    def nvmlInit(self):
        self.check("nvmlInit")
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):
        return "535.54.03"

    def nvmlSystemGetNVMLVersion(self):
        return "12.535.54.03"

    def nvmlDeviceGetCount(self):
        self.check("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        self.check("nvmlDeviceGetHandleByIndex")
        return self.gpus[index]

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, index):
        if index >= len(gpu.migs):
            raise pynvml.NVMLError_NotFound()
        return gpu.migs[index]

    def __getattr__(self, call):
        if call not in ANSWERS or call in self.gone:
            raise AttributeError(call)

        def ask(*args):
            self.check(call)
            return ANSWERS[call](*args)

        return ask


def only(library) -> nvml.Device:
    (device,) = Nvml(library).devices
    return device


# -- one reading ---------------------------------------------------------------------------------------------------
def test_a_new_driver_tells_everything_in_si_units():
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
    assert nvml.merged([(1, 10), (2, None), (3, 5)], [(1, 30), (2, 4), (9, None)]) == {1: 30, 2: 4, 3: 5, 9: None}
    assert nvml.merged([(1, 10), (1, 20)], None) == {1: 20}
    assert nvml.merged(None, []) == {} and nvml.merged(None, None) is None


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("error", [*OLD, "NoPermission", "Unknown", "GpuIsLost"])
def test_a_call_that_is_refused_is_none_with_its_reason_and_the_others_answer(name, error):
    device = only(FakeNvml(FakeGpu(), refuse=dict.fromkeys(CALLS[name], error)))
    expected = {"NoPermission": Reason.NO_GPU_PERMISSION, "GpuIsLost": Reason.GPU_LOST}.get(error, Reason.GPU_NOT_TOLD)
    assert device.missing[name]["reason"] is expected and device.missing[name]["samples"] >= 1
    assert device.lost is (error == "GpuIsLost")
    read = {**device.identity, **device.idle, "compute": None, "graphics": None}
    read["memory"] = read["used_bytes"]
    assert read[name] is None
    spoilt = {name, "memory_clock_hz"} if name == "sm_clock_hz" else {name}
    assert set(device.missing) == spoilt


@pytest.mark.parametrize("name", ["compute", "graphics", "temperature_c", "slowed_by"])
@pytest.mark.parametrize("error", [*OLD, "AttributeError"])
def test_what_a_driver_or_binding_does_not_know_is_asked_the_older_way(name, error):
    gpu = FakeGpu(compute={7: 100}, graphics={7: 100})
    for newest in range(1, len(CALLS[name])):
        newer = CALLS[name][:newest]
        refuse, gone = ({}, newer) if error == "AttributeError" else (dict.fromkeys(newer, error), ())
        library = FakeNvml(gpu, refuse=refuse, gone=gone)
        device = only(library)
        assert device.calls[name] == CALLS[name][newest] and device.missing == {}
        before = library.asked[newer[-1]]
        device.read(state=True)
        assert library.asked[newer[-1]] == before  # the way that answered is kept to


def test_memory_of_an_old_driver_is_asked_the_first_way_and_says_so():
    class Old(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, gpu, version=None):
            if version is not None:
                raise pynvml.NVMLError_FunctionNotFound()
            return _memory(gpu)

    device = only(Old(FakeGpu()))
    assert device.calls["memory"] == "nvmlDeviceGetMemoryInfo"
    assert device.idle["used_bytes"] == 13 * MIB and device.idle["reserved_bytes"] is None


def test_our_constant_is_that_of_the_binding():
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


def test_what_is_not_known_is_not_asked_again_and_a_hiccup_is():
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
def test_without_a_driver_nothing_is_imported_or_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(nvml, "DRIVER", (tmp_path / "none",))
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it would fail
    began = time.perf_counter()
    found = Nvml()
    assert time.perf_counter() - began < 0.01
    assert (found.devices, found.reason) == ([], Reason.NO_GPU)
    found.close()


def test_a_driver_that_cannot_be_asked_is_no_missing_gpu(monkeypatch, tmp_path):
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


def test_a_sampler_says_how_steadily_it_sampled_and_what_it_cost(tmp_path):
    facts, lines = sampled(tmp_path / "gpu.jsonl", FakeGpu("GPU-0"), FakeGpu("GPU-1"), seconds=0.5)
    says = facts["sampler"]
    assert says["period_asked_s"] <= 0.05 and says["period_median_s"] < 0.05  # 20 Hz or faster
    assert says["samples"] * 2 == len(lines) and says["longest_gap_s"] >= says["period_p95_s"] > 0 < says["cpu_s"]
    assert [line["gpu"] for line in lines[:4]] == [0, 1, 0, 1] and lines[0]["t_ns"] == lines[1]["t_ns"]
    assert [d["uuid"] for d in facts["devices"]] == ["GPU-0", "GPU-1"]
    assert "power_w" in lines[0] and "power_w" not in lines[2]
    assert facts["utilisation_window_s"][1] == 1.0 and facts["versions"]["driver"] == "535.54.03"


def test_pids_of_the_run_are_told_from_others(tmp_path):
    gpu = FakeGpu(compute={1: 10}, graphics={3: 7})
    watcher = Nvml(FakeNvml(gpu))  # pid 1 computes before the run, pid 2 and its child 20 are the run
    gpu.told["compute"] = {1: 10, 2: 100, 20: 50, 5: None}
    with GpuSampler(tmp_path / "gpu.jsonl", watcher) as sampler:
        sampler.watch(lambda: [2, 20], time.monotonic_ns())
        time.sleep(0.1)
        facts = sampler.stop()
    (device,) = facts["devices"]
    assert facts["pids"] == [2, 20] and device["used_by_run"] and device["idle"]["processes"] == {1: 10, 3: 7}
    others = {other["pid"]: (other["peak_bytes"], other["graphics_only"]) for other in device["others"]}
    assert others == {1: (10, False), 3: (7, True), 5: (None, False)}
    assert gpu_reasons(facts) == [Reason.OTHER_GPU_PROCESS, Reason.DISPLAY_ON_GPU]


def test_the_run_is_asked_for_its_pids_only_where_there_is_a_new_one(tmp_path):
    asked = []
    gpu = FakeGpu(compute={1: 10})
    with GpuSampler(tmp_path / "gpu.jsonl", Nvml(FakeNvml(gpu))) as sampler:
        gpu.told["compute"] = {1: 10, 2: 10, 3: 10}
        sampler.watch(lambda: asked.append(1) or [2], 0)
        time.sleep(0.3)
        sampler.stop()
    assert len(asked) == nvml.ASKED_TWICE


def test_pids_that_cannot_be_told_are_hidden_and_not_nobodys(tmp_path, monkeypatch):
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
    assert gpu_reasons(facts) == [Reason.GPU_LOST]


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


# -- facts to verdicts and numbers ---------------------------------------------------------------------------------
def device(**facts):
    idle = {"processes": {}}
    known = {"uuid": "GPU-0", "mig_of": None, "idle": idle, "used_by_run": True, "others": [], "lost": False}
    return {**known, "state_samples": 100, "slowed_samples": 0, "calls": {}, "missing": {}, **facts}


def facts_of(*devices, pids_hidden=False, pids=(2, 20)):
    return {"source": "nvml", "pids_hidden": pids_hidden, "pids": list(pids), "devices": list(devices)}


def test_more_than_1_percent_slowed_samples_are_too_many():
    assert gpu_reasons(facts_of(device(slowed_samples=1))) == []
    assert gpu_reasons(facts_of(device(slowed_samples=2))) == [Reason.GPU_THROTTLED]
    assert gpu_reasons(facts_of(device(slowed_samples=9, used_by_run=False), device())) == []
    hidden = device(slowed_samples=9, used_by_run=False)
    assert gpu_reasons(facts_of(hidden, pids_hidden=True)) == [Reason.GPU_THROTTLED]


def test_others_count_where_the_run_is_and_more_than_for_a_moment():
    other = {"pid": 9, "samples": 2, "peak_bytes": 5, "graphics_only": False}
    assert gpu_reasons(facts_of(device(others=[other]))) == [Reason.OTHER_GPU_PROCESS]
    assert gpu_reasons(facts_of(device(others=[other | {"samples": 1}]))) == []
    assert gpu_reasons(facts_of(device(used_by_run=False, others=[other]), device())) == []
    assert gpu_reasons(facts_of(device(others=[other | {"graphics_only": True}]))) == [Reason.DISPLAY_ON_GPU]
    assert gpu_reasons("NO_GPU") == []


def make_run(gpu, lines=(), *, seconds=20.0, records=2000, arrivals=200) -> Run:
    arrived = [(1 + seconds * i / (arrivals - 1), records // arrivals) for i in range(arrivals)]
    return Run(None, {"gpu": gpu, "phases": {"ready_s": 1.0, "exit_s": 2 + seconds}}, arrived, [], list(lines))


def line(t_s, gpu=0, **reading):
    return {"t_ns": int(t_s * 1e9), "gpu": gpu, "processes": {}, "energy_j": None, **reading}


def test_gpu_memory_is_the_peak_of_the_sum_over_pids_and_gpus():
    lines = [
        line(1, 0, processes={"2": 100, "9": 5000}),
        line(1, 1, processes={"20": 50}),
        line(2, 0, processes={"2": 90}),
        line(2, 1, processes={"20": 80, "2": 10}),
        line(3, 0, processes={"2": None}),  # a size that was not told spoils its own sample only
        line(3, 1, processes={"20": 900}),
        line(4, 0, processes=None),
        line(4, 1, processes={}),
    ]
    assert gpu_ram_bytes(make_run(facts_of(device(), device()), lines)) == 180


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ("NO_GPU", Reason.NO_GPU),
        (facts_of(device(used_by_run=False)), Reason.GPU_NOT_USED),
        (facts_of(device(used_by_run=False), pids_hidden=True), Reason.GPU_PIDS_HIDDEN),
        (facts_of(device()), Reason.GPU_NOT_TOLD),
        (
            facts_of(
                device(
                    used_by_run=False,
                    idle={"processes": None},
                    missing={"compute": {"reason": "NO_GPU_PERMISSION", "samples": 3}},
                )
            ),
            Reason.NO_GPU_PERMISSION,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_gpu_memory_that_was_not_seen_is_none_with_its_reason(facts, reason):
    assert gpu_ram_bytes(make_run(facts, [line(1, processes={"2": None})])) is reason


def counter(t_s, watts=250, step_s=0.1):
    return 1000.0 + watts * (t_s // step_s) * step_s


def test_energy_is_what_the_counter_moved_between_the_first_and_the_last_answer():
    lines = [line(i / 50, energy_j=counter(i / 50)) for i in range(1200)]
    joules, records, method = gpu_energy(make_run(facts_of(device()), lines))
    assert joules == pytest.approx(250 * 20, rel=0.01) and records == 1990 and method == "counter"


def test_energy_of_two_gpus_is_their_sum_and_an_unused_one_is_not_in_it():
    gpus = facts_of(device(), device(used_by_run=False), device())
    lines = [
        line(i / 50, gpu, energy_j=counter(i / 50, watts))
        for i in range(1200)
        for gpu, watts in enumerate((100, 900, 50))
    ]
    assert gpu_energy(make_run(gpus, lines))[0] == pytest.approx(150 * 20, rel=0.01)


def test_power_is_integrated_where_there_is_no_counter_and_the_result_says_so():
    lines = [line(i / 10, power_w=100 + 10 * i / 10) for i in range(240)]
    joules, _, method = gpu_energy(make_run(facts_of(device()), lines))
    assert method == "power" and joules == pytest.approx(20 * (110 + 310) / 2, rel=0.001)
    found = estimate_gpu.summarise_gpu(facts_of(device()), [make_run(facts_of(device()), lines)])["energy_j_per_record"]
    assert found["method"] == "power" and found["scope"] == "run" and found["low"] is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seconds": 9.9}, Reason.BELOW_RESOLUTION),
        ({"arrivals": 4}, Reason.NO_STREAM),
        ({"energy": lambda t: 1000.0}, Reason.BELOW_RESOLUTION),
        ({"energy": lambda t: counter(t, step_s=4)}, Reason.BELOW_RESOLUTION),
        ({"energy": lambda t: counter(t) if t < 10 else 5.0 + t}, Reason.NO_ENERGY_COUNTER),
        ({"energy": lambda t: None}, Reason.NO_ENERGY_COUNTER),
        ({"until": 10}, Reason.NO_SAMPLES),
        ({"mig_of": "GPU-A"}, Reason.NO_ENERGY_COUNTER),
        ({"used_by_run": False}, Reason.GPU_NOT_USED),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_energy_that_cannot_be_had_is_none_with_its_reason(change, reason):
    change = dict(change)
    energy, until = change.pop("energy", counter), change.pop("until", 24)
    lines = [line(i / 50, energy_j=energy(i / 50)) for i in range(until * 50)]
    shape = {name: change.pop(name) for name in ("seconds", "arrivals") if name in change}
    assert gpu_energy(make_run(facts_of(device(**change)), lines, **shape)) is reason


def test_energy_has_an_interval_between_runs():
    gpu = facts_of(device())
    runs = [
        make_run(gpu, [line(i / 50, energy_j=counter(i / 50, watts, 0.02), processes={"2": 5}) for i in range(1200)])
        for watts in (240, 250, 260)
    ]
    found = estimate_gpu.summarise_gpu(gpu, runs)
    energy, ram = found["energy_j_per_record"], found["gpu_ram_bytes"]
    assert energy["value"] == pytest.approx(250 * 20 / 1990, rel=0.01) and energy["scope"] == "runs"
    assert energy["low"] < energy["value"] < energy["high"] and energy["method"] == "counter"
    assert ram == {"value": 5.0, "low": 5.0, "high": 5.0, "method": "nvml", "scope": "runs"}


# -- a whole measurement -------------------------------------------------------------------------------------------
# Says its own pid and that of its child, which is the model, and ends with it.
PARENT = """
import os, subprocess, sys
model = subprocess.Popen(sys.argv[2:])
with open(sys.argv[1] + ".new", "w") as out:
    out.write(f"{os.getpid()} {model.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
sys.exit(model.wait())
"""
RATE, WATTS = 200, 100


class Replay:
    """Two GPUs whose readings follow a run: they change with the time since the program told its pids."""

    def __init__(self, pids: Path, intruder=lambda t_s, gpu: {}, slowed=0):
        self.pids, self.began = pids, time.monotonic()
        gpus = [
            FakeGpu(
                f"GPU-{n}",
                compute=lambda n=n: self.compute(n) | intruder(self.age, n),
                graphics=lambda n=n: self.compute(n),
                used=lambda n=n: 10 * MIB + sum(self.compute(n).values()),
                energy=lambda: int(WATTS * 1000 * (time.monotonic() - self.began) // 20 * 20),
                slowed=slowed,
            )
            for n in range(2)
        ]
        self.library = FakeNvml(*gpus, FakeGpu("GPU-idle"))

    @property
    def age(self) -> float:
        return time.time() - self.pids.stat().st_mtime if self.pids.exists() else -1.0

    def compute(self, n: int) -> dict[int, int]:
        if not self.pids.exists():
            return {}
        parent, child = map(int, self.pids.read_text().split())
        spike = 400 if 0.3 < self.age < 0.5 else 0
        return {parent: 300 * MIB, child: (500 + spike) * MIB} if n == 0 else {child: 200 * MIB}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Bench a program on made-up GPUs; returns (bench.json, the first run's run.json, folder)."""

    def run(replay_of=Replay, use_cgroup=True, records=200, min_energy_s=0.5):
        replay = replay_of(tmp_path / "pids")
        monkeypatch.setattr(nvml, "load", lambda: replay.library)
        monkeypatch.setattr(estimate_gpu, "MIN_ENERGY_S", min_energy_s)
        data, folder = write_records(tmp_path / "val.jsonl", 40), tmp_path / "measured"
        folder.mkdir()
        argv = [*PYTHON, "-c", PARENT, str(tmp_path / "pids"), *server("paced", "--rate", RATE, "--init", 0.2)]
        result = protocol.bench(
            protocol.Program(argv, "fake"), get_task("terra"), data, runner(use_cgroup), Limits(timeout_s=30), folder,
            input_size=records, batch_size=4, repeats=1, seed=1,
        )  # fmt: skip
        assert replay.library is None or replay.library.open == 0
        return result, json.loads((folder / "runs/01/run.json").read_text()), folder

    return run


@pytest.mark.parametrize("use_cgroup", [True, False], ids=["cgroup", "proc"])
def test_gpu_memory_and_energy_come_out_right_end_to_end(measured, use_cgroup):
    result, facts, folder = measured(use_cgroup=use_cgroup)
    assert result["verdict"] == "VALID" and result["reasons"] == ["SINGLE_RUN"]
    assert result["gpu_ram_bytes"]["value"] == (300 + 900 + 200) * MIB and result["gpu_ram_bytes"]["method"] == "nvml"
    energy = result["energy_j_per_record"]
    assert energy["value"] == pytest.approx(2 * WATTS / RATE, rel=0.06) and energy["method"] == "counter"
    gpu = facts["gpu"]
    parent, child = map(int, (folder.parent / "pids").read_text().split())
    assert gpu["pids"] == sorted((parent, child))
    assert [d["used_by_run"] for d in gpu["devices"]] == [True, True, False]
    assert gpu["devices"][0]["idle"]["used_bytes"] == 10 * MIB
    assert gpu["devices"][0]["peak_used_bytes"] == 1210 * MIB and gpu["devices"][0]["others"] == []
    assert {path.name for path in (folder / "runs/01").iterdir()} == RUN_FILES | {"gpu.jsonl"}
    assert sorted(result) == sorted(KEYS)
    assert json.loads(json.dumps(protocol.derive(folder))) == json.loads((folder / "bench.json").read_text())


def test_an_intruder_makes_a_run_invalid(measured):
    def replay(pids):
        return Replay(pids, lambda t_s, n: {os.getpid(): 50 * MIB} if n == 0 and 0.3 < t_s < 0.6 else {})

    result, facts, _ = measured(replay, records=160)
    assert result["verdict"] == "INVALID" and "OTHER_GPU_PROCESS" in result["reasons"]
    assert result["gpu_ram_bytes"] == {"value": None, "reason": "NO_VALID_RUN"} == result["energy_j_per_record"]
    (other,) = facts["gpu"]["devices"][0]["others"]
    assert other["pid"] == os.getpid() and other["peak_bytes"] == 50 * MIB


def test_a_hot_gpu_makes_a_run_invalid(measured):
    result, _, _ = measured(lambda pids: Replay(pids, slowed=0x40), records=80)
    assert result["reasons"] == ["GPU_THROTTLED", "SINGLE_RUN"]


def test_a_power_cap_is_no_reason(measured):
    result, _, _ = measured(lambda pids: Replay(pids, slowed=0x04), records=80, min_energy_s=10)
    assert result["verdict"] == "VALID"
    assert result["energy_j_per_record"] == {"value": None, "reason": "BELOW_RESOLUTION"}


def test_a_model_that_uses_no_gpu_has_a_dash_and_not_0(measured, monkeypatch):
    monkeypatch.setattr(nvml, "in_container", lambda: False)
    result, _, _ = measured(lambda pids: SimpleNamespace(library=FakeNvml(FakeGpu())), records=40)
    assert result["gpu_ram_bytes"] == {"value": None, "reason": "GPU_NOT_USED"} == result["energy_j_per_record"]
    assert result["verdict"] == "VALID"


def test_without_a_gpu_everything_is_as_ever(measured):
    result, facts, folder = measured(lambda pids: SimpleNamespace(library=None), records=40)
    assert facts["gpu"] == "NO_GPU" and sorted(result) == sorted(KEYS)
    assert result["gpu_ram_bytes"] == {"value": None, "reason": "NO_GPU"}
    assert result["energy_j_per_record"] == {"value": None, "reason": "NO_ENERGY_COUNTER"}
    assert {path.name for path in (folder / "runs/01").iterdir()} == RUN_FILES


@pytest.mark.parametrize("text", [None, "", '{"t_ns": 1, "gp'], ids=["missing", "empty", "cut"])
def test_samples_that_were_lost_are_no_zeros(measured, text):
    _, _, folder = measured(records=40)
    path = folder / "runs/01/gpu.jsonl"
    path.unlink()
    if text is not None:
        path.write_text(text)
    if text == "":
        assert protocol.derive(folder)["gpu_ram_bytes"] == {"value": None, "reason": "GPU_NOT_TOLD"}
    elif text:
        assert "LOG_TRUNCATED" in protocol.derive(folder)["reasons"]
    else:
        with pytest.raises(UsageError, match="01"):
            protocol.derive(folder)


def test_a_program_that_cannot_start_leaves_nvml_closed(tmp_path, monkeypatch):
    library = FakeNvml(FakeGpu())
    monkeypatch.setattr(nvml, "load", lambda: library)

    class Broken:
        name = "process"

        def start(self, argv, limits):
            raise EnvironmentFailure("no", remedy="none")

    data, folder = write_records(tmp_path / "val.jsonl", 4), tmp_path / "out"
    folder.mkdir()
    with pytest.raises(EnvironmentFailure):
        protocol.bench(
            protocol.Program(["x"], "x"), get_task("terra"), data, Broken(), Limits(), folder,
            input_size=4, batch_size=1, repeats=1, seed=1,
        )  # fmt: skip
    assert library.open == 0


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
TELL = """
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
    done = subprocess.run([sys.executable, "-c", TELL], env=environment, capture_output=True, text=True, check=True)
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


# -- a real GPU ----------------------------------------------------------------------------------------------------
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


def tell(process, mib=0, seconds=0):
    process.stdin.write(f"{mib} {seconds}\n")
    assert process.stdout.readline() == "done\n"


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_of(facts, path):
    times = [line["t_ns"] / 1e9 for line in lines_of(path)]
    arrivals = [(times[0] + (times[-1] - times[0]) * i / 9, 1) for i in range(10)]
    return Run(None, {"gpu": json.loads(json.dumps(facts))}, arrivals, [], lines_of(path))


@pytest.mark.gpu
def test_memory_of_a_child_is_within_10_mib_of_what_it_took(holder, tmp_path):
    peaks = []
    for mib in (0, 512):
        path = tmp_path / f"{mib}.jsonl"
        with GpuSampler(path) as sampler:
            child = holder()
            sampler.watch(lambda pid=child.pid: [pid], time.monotonic_ns())
            tell(child, mib)
            time.sleep(0.5)
            facts = sampler.stop()
        peaks.append(gpu_ram_bytes(run_of(facts, path)))
        child.stdin.close()
        child.wait(30)
    context, full = peaks
    assert 50 * MIB < context < 2000 * MIB
    assert full - context == pytest.approx(512 * MIB, abs=10 * MIB)


@pytest.mark.gpu
def test_the_energy_counter_agrees_with_integrated_power(holder, tmp_path):
    path = tmp_path / "gpu.jsonl"
    with GpuSampler(path) as sampler:
        child = holder()
        tell(child, seconds=3)  # up to its steady power
        sampler.watch(lambda: [child.pid], time.monotonic_ns())
        tell(child, seconds=15)
        facts = sampler.stop()
    run = run_of(facts, path)
    counted, _, method = gpu_energy(run)
    assert method == "counter"
    for sample in run.gpu_samples:
        sample["energy_j"] = None
    integrated, _, method = gpu_energy(run)
    assert method == "power" and counted == pytest.approx(integrated, rel=0.1)


@pytest.mark.gpu
def test_the_idle_reading_is_of_a_gpu_nobody_of_ours_uses(holder):
    before = Nvml()
    child = holder()
    tell(child, 256)
    after = Nvml()
    for found in (before, after):
        found.close()
    grown = [b.idle["used_bytes"] - a.idle["used_bytes"] for a, b in zip(before.devices, after.devices, strict=True)]
    assert max(grown) > 256 * MIB
    assert all(child.pid not in device.idle["processes"] for device in before.devices)
    assert any(child.pid in device.idle["processes"] for device in after.devices)


@pytest.mark.gpu
def test_a_real_intruder_is_noticed(holder, tmp_path):
    with GpuSampler(tmp_path / "gpu.jsonl") as sampler:
        ours, other = holder(), holder()
        sampler.watch(lambda: [ours.pid], time.monotonic_ns())
        tell(ours), tell(other)
        time.sleep(1)
        facts = sampler.stop()
    assert Reason.OTHER_GPU_PROCESS in gpu_reasons(facts)
    assert other.pid in {pid["pid"] for device in facts["devices"] for pid in device["others"]}
