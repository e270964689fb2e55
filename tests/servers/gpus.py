"""NVIDIA GPUs that answer by a script, through a stand-in for the NVML binding."""

import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pynvml

MIB = 2**20


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


def memory_of(gpu, version=None):
    if version is None:  # the first version counts what the driver reserves as used
        return SimpleNamespace(total=gpu.now("total"), used=gpu.now("used") + gpu.now("reserved"))
    return SimpleNamespace(total=gpu.now("total"), used=gpu.now("used"), reserved=gpu.now("reserved"))


ANSWERS = {
    "nvmlDeviceGetUUID": lambda gpu: gpu.uuid,
    "nvmlDeviceGetName": lambda gpu: "Fake GPU",
    "nvmlDeviceGetPersistenceMode": lambda gpu: 1,
    "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: 300_000,
    "nvmlDeviceGetMemoryInfo": memory_of,
    "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: gpu.now("energy"),
    "nvmlDeviceGetPowerUsage": lambda gpu: gpu.now("power"),
    "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=gpu.now("utilisation"), memory=1),
    "nvmlDeviceGetClockInfo": lambda gpu, kind: {1: 1410, 2: 1215}[kind],
    "nvmlDeviceGetTemperatureV": lambda gpu, sensor: {0: gpu.now("temperature")}[sensor],
    "nvmlDeviceGetTemperature": lambda gpu, sensor: {0: gpu.now("temperature")}[sensor],
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
        spike = 400 if 0.3 < self.age < 0.8 else 0
        return {parent: 300 * MIB, child: (500 + spike) * MIB} if n == 0 else {child: 200 * MIB}
