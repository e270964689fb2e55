"""Samples the GPUs during a run: memory of each process, energy, and whose processes they are."""

import io
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from morocco_lib.monitors.nvml import Nvml, in_container, largest
from morocco_lib.monitors.periodic import PERIOD_S, PeriodicSampler, open_samples
from morocco_lib.reasons import Reason

STATE_EVERY = 5  # samples; power and utilisation are means over longer than that, and their calls cost most
SLOWED = 0x08 | 0x20 | 0x40 | 0x80  # by the hardware, by heat (software, hardware), by the power brake; not by a cap
HUNG_S = 10.0
PID_CHECKS = 2  # a pid that is not the run's in two samples is another program's
UTILISATION_WINDOW_S = (1 / 6, 1.0)  # as NVML's reference states; which of them depends on the device
QUIET_SHARE = 0.1  # more than the device's share before the run is work


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
        self._worked_ns: dict[int, int] = {}  # device of the run -> when it was last found at work, or to be the run's
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
                share = reading.get("utilisation_share")
                if share is not None and found["used_by_run"]:
                    before = device.idle["utilisation_share"] or 0.0
                    if index not in self._worked_ns or share > before + QUIET_SHARE:
                        self._worked_ns[index] = t_ns
                kept = {name: value for name, value in reading.items() if name not in ("total_bytes", "graphics")}
                self._out.write(json.dumps({"t_ns": t_ns - self._origin_ns, "gpu": index, **kept}) + "\n")
            self.times_ns.append(t_ns)

    @property
    def quiet_ns(self) -> int | None:
        """Since when the GPUs that the run uses do nothing, as far as NVML tells so far; None where it uses none."""
        return max(list(self._worked_ns.values()), default=None)

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
            other |= {"samples": other["samples"] + 1, "peak_bytes": largest(other["peak_bytes"], sizes[pid])}
            other["graphics_only"] &= pid in reading["graphics"]
        found["peak_used_bytes"] = largest(found["peak_used_bytes"], reading["used_bytes"])
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
            "pids_hidden": in_container() or self._any_pids is False,  # none, with an engine on another machine
            "utilisation_window_s": UTILISATION_WINDOW_S,
            "unopened": self._nvml.unopened,
            "pids": sorted(self._ours),
            "devices": devices,
            "sampler": sampling,
        }
