"""What a run does to NVIDIA GPUs, through NVML: memory of each process, energy, and the state the device is in.

Without a driver nothing is imported. Every reading is a number, or None with its reason counted in the device's
`missing`; where the driver does not know a call the older one is made, and `calls` names the one that answered.

Limits: NVML names processes by the host's pids; utilisation and energy are of the whole device, whoever used it.
"""

import importlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from morocco_lib.monitors.periodic import PERIOD_S, PeriodicSampler, open_samples
from morocco_lib.reasons import Reason

STATE_EVERY = 5  # samples; power and utilisation are means over longer than that, and their calls cost most
DRIVER = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"), Path("/usr/lib/wsl/lib/libnvidia-ml.so.1"))
UTILISATION_WINDOW_S = (1 / 6, 1.0)  # as NVML's reference states; which of them depends on the device
PID_NAMESPACE = "/proc/self/ns/pid"
MEMORY_V2 = 0x02000028
SLOWED = 0x08 | 0x20 | 0x40 | 0x80  # by the hardware, by heat (software, hardware), by the power brake; not by a cap
HUNG_S = 10.0
PID_CHECKS = 2  # a pid that is not the run's in two samples is another program's
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


def _largest(*sizes: int | None) -> int | None:
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
        sizes[pid] = _largest(sizes.get(pid), size)
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


class GpuSampler(PeriodicSampler):
    """Writes a JSON line a sample and device: {"t_ns", "gpu", "used_bytes", "energy_j", "processes": {pid: bytes}, ...}.

    Opened before the program starts, so that idle readings are of devices it has not touched. Without devices it does
    nothing and writes nothing.
    """

    def __init__(self, path: Path, nvml: Nvml | None = None):
        super().__init__(PERIOD_S)
        self._nvml = nvml or Nvml()
        self._out = open_samples(path) if self._nvml.devices else io.StringIO()
        self._origin_ns, self._pids, self._any_pids, self._ticks = 0, None, None, 0
        self._checks = Counter({pid: PID_CHECKS for d in self._nvml.devices for pid in d.idle["processes"] or ()})
        self._ours: set[int] = set()
        nothing = {"used_by_run": False, "peak_used_bytes": None, "state_samples": 0, "slowed_samples": 0}
        self._found = [{**nothing, "others": {}} for _ in self._nvml.devices]

    def __enter__(self) -> "GpuSampler":
        return self

    def __exit__(self, *error: object) -> None:
        self._out.close()
        if not self.is_alive:
            self._nvml.close()

    def watch(self, pids: Callable[[], list[int]], origin_ns: int) -> None:
        """Begin to sample; `pids` returns the processes of the run, times count from `origin_ns`."""
        self._pids, self._origin_ns = pids, origin_ns
        if self._nvml.devices:
            self.start()

    def sample(self) -> None:
        with self._lock, suppress(ValueError):  # of a file that was closed while a call hung
            t_ns, state = time.monotonic_ns(), self._ticks % STATE_EVERY == 0
            self._ticks += 1
            for index, (device, found) in enumerate(zip(self._nvml.devices, self._found, strict=True)):
                if device.lost:
                    continue
                reading = device.read(state)
                self._add(reading, found)
                kept = {name: value for name, value in reading.items() if name not in ("total_bytes", "graphics")}
                self._out.write(json.dumps({"t_ns": t_ns - self._origin_ns, "gpu": index, **kept}) + "\n")
            self.times_ns.append(t_ns)

    def _add(self, reading: dict[str, Any], found: dict[str, Any]) -> None:
        sizes = reading["processes"] or {}
        unknown = [pid for pid in sizes if pid not in self._ours and self._checks[pid] < PID_CHECKS]
        if unknown and self._pids:
            # Read after the device was: a pid that it lists and the run does not is another's, or ended in between.
            with suppress(OSError):
                pids = set(self._pids())
                self._ours, self._any_pids = self._ours | pids & set(unknown), self._any_pids or bool(pids)
            self._checks.update(unknown)
        found["used_by_run"] |= any(pid in self._ours for pid in sizes)
        for pid in set(sizes) - self._ours:
            other = found["others"].setdefault(pid, {"samples": 0, "peak_bytes": None, "graphics_only": True})
            other |= {"samples": other["samples"] + 1, "peak_bytes": _largest(other["peak_bytes"], sizes[pid])}
            other["graphics_only"] &= pid in reading["graphics"]
        found["peak_used_bytes"] = _largest(found["peak_used_bytes"], reading["used_bytes"])
        if reading.get("slowed_by") is not None:
            found["state_samples"] += 1
            found["slowed_samples"] += bool(reading["slowed_by"] & SLOWED)

    def stop(self) -> dict[str, Any] | Reason:
        """Stop and return the facts of `run.json`'s "gpu", or why there are none."""
        if not self._nvml.devices:
            return self._nvml.reason
        hung, sampling = not self.halt(HUNG_S), None  # a call to a GPU that fell off the bus may never return
        if not hung:
            self._pids = None  # the run has ended, and its pids may be another program's by now
            self.sample()  # so that the last answer lies between two samples
            sampling = self.report(time.monotonic_ns())
        devices = []
        for device, found in zip(self._nvml.devices, self._found, strict=True):
            others = [{"pid": pid, **other} for pid, other in sorted(found["others"].items()) if pid not in self._ours]
            facts = {**device.identity, "mig_of": device.mig_of, "idle": device.idle, **found, "others": others}
            devices.append(facts | {"lost": device.lost or hung, "calls": device.calls, "missing": device.missing})
        return {
            "source": "nvml",
            "versions": self._nvml.versions,
            "pids_hidden": in_container()
            or self._any_pids is False,  # with an engine on another machine there are none
            "utilisation_window_s": UTILISATION_WINDOW_S,
            "unopened": self._nvml.unopened,
            "pids": sorted(self._ours),
            "devices": devices,
            "sampler": sampling,
        }
