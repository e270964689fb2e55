"""GPUs through NVML: a library that answers by a script, refuses, is old or loses its device."""

import sys

import pytest

from morocco_lib.monitors import nvml
from morocco_lib.monitors.gpu_sampler import SLOWED
from morocco_lib.monitors.nvml import EnergyMeter, Nvml
from morocco_lib.reasons import Reason

pynvml = pytest.importorskip("pynvml")
from servers.gpus import MIB, FakeGpu, FakeNvml, memory_of  # noqa: E402

CALLS = {name: [call for call, *_ in calls] for name, (_, calls) in nvml.READINGS.items()}  # newest first


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
    both = nvml.merged([(1, 10), (2, None), (3, 5)], [(1, 30), (2, 4), (3, 2), (9, None)])
    assert both == {1: 30, 2: 4, 3: 5, 9: None}
    assert nvml.merged([(1, 10), (1, 20)], None) == {1: 20}
    assert nvml.merged(None, []) == {} and nvml.merged(None, None) is None


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        *((name, "NotSupported", Reason.GPU_NOT_TOLD) for name in ("compute", "memory", "energy_j", "uuid")),
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
    [("compute", "AttributeError"), ("graphics", "ArgumentVersionMismatch"), ("temperature_c", "FunctionNotFound")],
)
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


def test_our_constants_and_calls_are_those_of_the_binding():
    assert all(hasattr(pynvml, call) for calls in CALLS.values() for call in calls)
    assert pynvml.nvmlMemory_v2 == nvml.MEMORY_V2
    slowed = ("HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert sum(getattr(pynvml, f"nvmlClocksEventReason{name}") for name in slowed) == SLOWED
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
