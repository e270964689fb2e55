"""What a run does to NVIDIA GPUs, through NVML: memory of each process, energy, and the state the device is in.

Without a driver nothing is imported. Every reading is a number, or None with its reason counted in the device's
`missing`; where the driver does not know a call the older one is made, and `calls` names the one that answered.

Limits: NVML names processes by the host's pids; utilisation and energy are of the whole device, whoever used it.
"""

import importlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from morocco_lib.reasons import Reason

DRIVER = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"), Path("/usr/lib/wsl/lib/libnvidia-ml.so.1"))
PID_NAMESPACE = "/proc/self/ns/pid"
MEMORY_V2 = 0x02000028
NOT_THERE = {2, 3, 13, 25, 26}  # wrong argument, not supported, no such function, wrong version, deprecated
FORBIDDEN, GONE = {4, 17}, {15, 16, 28}


def load() -> Any:
    """Return the NVML binding, None where there is no NVIDIA driver; raises ImportError without the binding."""
    if not any(path.exists() for path in DRIVER):
        return None
    return importlib.import_module("pynvml")


def in_container() -> bool:
    """Tell whether our pids differ from the host's, whose namespace has the same number on every Linux."""
    return os.path.islink(PID_NAMESPACE) and os.readlink(PID_NAMESPACE) != "pid:[4026531836]"


def reason_of(error: Exception) -> Reason:
    """Return the reason code of an error of NVML."""
    known = {**dict.fromkeys(GONE, Reason.GPU_LOST), **dict.fromkeys(FORBIDDEN, Reason.NO_GPU_PERMISSION)}
    return known.get(getattr(error, "value", None), Reason.GPU_NOT_TOLD)


def _available(value: int | None) -> int | None:
    return None if value in (None, 2**64 - 1, 2**32 - 1) else value  # NVML's values for "not available"


def largest(*sizes: int | None) -> int | None:
    return max((size for size in sizes if size is not None), default=None)


def _times(factor: float) -> Callable[[int], float | None]:
    return lambda value: None if _available(value) is None else round(value * factor, 6)


def _memory(info: Any) -> dict[str, int] | None:
    found = {name: _available(getattr(info, name, None)) for name in ("total", "used", "reserved")}
    return None if found["used"] is None else {f"{name}_bytes": size for name, size in found.items()}


def _sizes(processes: Iterable[Any]) -> list[tuple[int, int | None]]:
    return [(process.pid, _available(process.usedGpuMemory)) for process in processes]


def _lists(kind: str) -> list[tuple]:
    return [(f"nvmlDeviceGet{kind}RunningProcesses{version}",) for version in ("_v3", "_v2", "")]


# reading: (what converts the answer, the calls to try, newest first, each with its arguments)
READINGS: dict[str, tuple[Callable, list[tuple]]] = {
    "uuid": (str, [("nvmlDeviceGetUUID",)]),
    "name": (str, [("nvmlDeviceGetName",)]),
    "persistence_mode": (bool, [("nvmlDeviceGetPersistenceMode",)]),
    "power_limit_w": (_times(1e-3), [("nvmlDeviceGetEnforcedPowerLimit",)]),
    "compute": (_sizes, _lists("Compute")),
    "graphics": (_sizes, _lists("Graphics")),
    "memory": (_memory, [("nvmlDeviceGetMemoryInfo", MEMORY_V2), ("nvmlDeviceGetMemoryInfo",)]),
    "energy_j": (_times(1e-3), [("nvmlDeviceGetTotalEnergyConsumption",)]),
    "power_w": (_times(1e-3), [("nvmlDeviceGetPowerUsage",)]),
    "utilisation_share": (lambda rates: _times(0.01)(rates.gpu), [("nvmlDeviceGetUtilizationRates",)]),
    "sm_clock_hz": (_times(1e6), [("nvmlDeviceGetClockInfo", 1)]),
    "memory_clock_hz": (_times(1e6), [("nvmlDeviceGetClockInfo", 2)]),
    "temperature_c": (_available, [("nvmlDeviceGetTemperatureV", 0), ("nvmlDeviceGetTemperature", 0)]),
    "slowed_by": (_available, [(f"nvmlDeviceGetCurrentClocks{word}Reasons",) for word in ("Event", "Throttle")]),
}
IDENTITY = ("uuid", "name", "persistence_mode", "power_limit_w")
STATE = ("power_w", "utilisation_share", "sm_clock_hz", "memory_clock_hz", "temperature_c", "slowed_by")
OF_PARENT = {"sm_clock_hz", "memory_clock_hz", "temperature_c", "slowed_by"}  # a MIG instance shares these


class Device:
    """One GPU, or one MIG instance of it, with its readings before a run started (`idle`)."""

    def __init__(self, library: Any, handle: Any, parent: Any = None):
        self._library, self._handle, self._parent = library, handle, parent
        self._calls = {name: list(calls) for name, (_, calls) in READINGS.items()}
        self.calls: dict[str, str] = {}
        self.missing: dict[str, dict[str, Any]] = {}
        self.lost = False
        self.identity = {name: self._read(name) for name in IDENTITY}
        self.mig_of = None if parent is None else self._read("uuid", parent)
        self.idle = self.read(state=True)

    def _read(self, name: str, handle: Any = None) -> Any:
        reason = self.missing.get(name, {}).get("reason", Reason.GPU_NOT_TOLD)
        if handle is None:
            handle = self._parent if name in OF_PARENT and self._parent is not None else self._handle
        for known in self._calls[name]:
            call, *args = known
            try:
                value = READINGS[name][0](getattr(self._library, call)(handle, *args))
            except Exception as error:  # whatever a driver and a binding of other versions do, the run goes on
                reason, code = reason_of(error), getattr(error, "value", None)
                if code in NOT_THERE or not isinstance(code, int):
                    continue
                self.lost |= reason is Reason.GPU_LOST
                break
            if value is None:
                reason = Reason.GPU_NOT_TOLD
                break
            self.calls[name], self._calls[name] = f"{call}{'_v2' if MEMORY_V2 in args else ''}", [known]
            return value
        else:
            if name not in self.calls:  # the driver knows none of the calls: not tried again
                self._calls[name] = []
        self.missing[name] = {"reason": reason, "samples": self.missing.get(name, {}).get("samples", 0) + 1}
        return None

    def read(self, state: bool) -> dict[str, Any]:
        """Return the device's readings now; with `state` also power, clocks and the like."""
        compute, graphics = self._read("compute"), self._read("graphics")
        found = {**(self._read("memory") or dict.fromkeys(("total_bytes", "used_bytes", "reserved_bytes")))}
        found |= {"energy_j": self._read("energy_j"), "processes": merged(compute, graphics)}
        found["graphics"] = sorted({pid for pid, _ in graphics or ()} - {pid for pid, _ in compute or ()})
        return found | ({name: self._read(name) for name in STATE} if state else {})


def merged(compute: list | None, graphics: list | None) -> dict[int, int | None] | None:
    """Return {pid: bytes}, the larger where a pid is in both lists (each gives the full size); None without lists."""
    if compute is None and graphics is None:
        return None
    sizes: dict[int, int | None] = {}
    for pid, size in (*(compute or ()), *(graphics or ())):
        sizes[pid] = largest(sizes.get(pid), size)
    return sizes


class Nvml:
    """The GPUs of this machine; `library` is the binding.

    Opening never fails: `reason` is why there are no devices, `error` what was raised, if anything was.
    """

    def __init__(self, library: Any = None):
        self.devices: list[Device] = []
        self.unopened: list[dict[str, Any]] = []
        self.reason, self.error, self.versions = Reason.NO_GPU, None, {"driver": None, "nvml": None}
        self._library = None
        try:
            library = library or load()
            if library is None:
                return
            library.nvmlInit()
            self._library = library
            count = library.nvmlDeviceGetCount()
        except Exception as error:
            self.error, reason = error, reason_of(error)
            self.reason = Reason.GPU_NOT_SAMPLED if reason is Reason.GPU_NOT_TOLD else reason
            return
        with suppress(Exception):
            self.versions["driver"] = str(library.nvmlSystemGetDriverVersion())
            self.versions["nvml"] = str(library.nvmlSystemGetNVMLVersion())
        for index in range(count):
            try:
                handle = library.nvmlDeviceGetHandleByIndex(index)
            except Exception as error:
                self.reason = reason_of(error)
                self.unopened.append({"index": index, "reason": self.reason})
                continue
            instances = [Device(library, instance, handle) for instance in _instances(library, handle)]
            self.devices += instances or [Device(library, handle)]

    def close(self) -> None:
        if self._library is not None:
            with suppress(Exception):
                self._library.nvmlShutdown()
            self._library = None


def _instances(library: Any, handle: Any) -> list[Any]:
    found = []
    with suppress(Exception):  # GPUs before Ampere do not know the call
        if library.nvmlDeviceGetMigMode(handle)[0]:
            for index in range(library.nvmlDeviceGetMaxMigDeviceCount(handle)):
                with suppress(Exception):  # slots may be empty
                    found.append(library.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
    return found


class EnergyMeter:
    """Reads the energy counters of all GPUs when made and at `read`.

    Limits: whatever else ran on those GPUs is included; the counters move in steps, so some seconds at least are needed.
    """

    def __init__(self) -> None:
        self._began = _joules()

    def read(self) -> dict[str, Any]:
        """Return {"value": joules} since it was made, or {"value": None, "reason": code}."""
        ended = _joules()
        for joules in (self._began, ended):
            if isinstance(joules, str):
                return {"value": None, "reason": str(joules)}
        return {"value": ended - self._began}


def _joules() -> float | Reason:
    gpus = Nvml()
    gpus.close()
    for device in gpus.devices:
        if device.idle["energy_j"] is None:
            return device.missing["energy_j"]["reason"]
    return sum(device.idle["energy_j"] for device in gpus.devices) if gpus.devices else gpus.reason
