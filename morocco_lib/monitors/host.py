"""The few facts about this machine that are recorded with every run, and what names a process on it."""

import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from morocco_lib.monitors.cgroup import PROC, ROOT, groups_of
from morocco_lib.monitors.procfs import is_running, start_ticks

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
# What libraries for arrays, tokenizers and GPUs are told with.
VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM", "OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY",
    "GOMP_CPU_AFFINITY", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
CLOCKSOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")


def read_field(path: Path, field: str = "") -> str:
    """Return a file's text, or what follows `field:` in it; "" where there is none."""
    with suppress(OSError):
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        found = re.search(rf"^{field}\s*:\s*(.+?)(?: kB)?$" if field else r"(?s)(.*)", text, re.MULTILINE)
        return found[1] if found else ""
    return ""


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_facts(proc: Path = PROC, cgroup_root: Path = ROOT, clocksource: Path = CLOCKSOURCE) -> dict:
    """Return the few facts about this machine recorded with every run: cores usable, memory in bytes; None: unknown."""
    version = groups_of("self", cgroup_root, proc).version
    facts = {
        "hostname": platform.node(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": read_field(proc / "cpuinfo", "model name"),
        "cores": usable_cores(),
        "memory_bytes": int(read_field(proc / "meminfo", "MemTotal") or 0) * 1024,
        "python": platform.python_version(),
        "boot_id": read_field(proc / "sys/kernel/random/boot_id"),
        "clocksource": read_field(clocksource),
        "cgroup": version and f"v{version}",
    }
    return {name: fact or None for name, fact in facts.items()}


def this_process() -> dict[str, Any]:
    """Return what names this process: its pid, and its start and the machine's, by which it is told from a later one."""
    return {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid()), "boot_id": host_facts()["boot_id"]}


def lives(process: Mapping[str, Any]) -> bool:
    """Tell whether the process that `this_process` named still runs on this machine."""
    return process["boot_id"] == host_facts()["boot_id"] and is_running(process["pid"], process["start_ticks"])


def speed_settings(environment: Mapping[str, str], governor: Path = GOVERNOR) -> dict[str, str | int | None]:
    """Return what decides the speed of a program beside the program: variables that are set, cores usable, CPU governor."""
    found = {name: environment[name] for name in VARIABLES if name in environment}
    return {**found, "cores": usable_cores(), "governor": read_field(governor) or None}
