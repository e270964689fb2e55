"""The few facts about this machine that are recorded with every run."""

import os
import platform
import re
from contextlib import suppress
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
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


def cgroup_folders(proc: Path, root: Path) -> tuple[str | None, str, dict[str, Path]]:
    """Return the version that accounts for memory, the layout in words, and this process's folder by controller."""
    lines = [line.split(":", 2) for line in read_field(proc / "self/cgroup").splitlines() if line.count(":") >= 2]
    v1 = {name: (joined, path) for _, joined, path in lines for name in joined.split(",") if joined}
    unified = next((path for _, joined, path in lines if not joined), None)
    base = root if (root / "cgroup.controllers").exists() else root / "unified"
    if "memory" in v1:
        version, mounts = "v1", {n: (root / (j if (root / j).is_dir() else n), path) for n, (j, path) in v1.items()}
    elif unified is not None and base.is_dir():
        version, mounts = "v2", dict.fromkeys(("memory", "cpu", "cpuacct"), (base, unified))
    else:
        return None, "no cgroup", {}
    # In a container the path may be the host's, and only the mount itself is there.
    own = {n: Path(f"{m}{p}") if ".." not in p and Path(f"{m}{p}").is_dir() else m for n, (m, p) in mounts.items()}
    return version, version + (" (hybrid)" if v1 and unified is not None else ""), own


def host_facts(proc: Path = PROC, cgroup_root: Path = CGROUP, clocksource: Path = CLOCKSOURCE) -> dict:
    """Return the few facts about this machine recorded with every run: cores usable, memory in bytes; None: unknown."""
    facts = {"hostname": platform.node(), "kernel": platform.release(), "machine": platform.machine()}
    facts |= {"cpu": read_field(proc / "cpuinfo", "model name"), "cores": usable_cores()}
    facts |= {
        "memory_bytes": int(read_field(proc / "meminfo", "MemTotal") or 0) * 1024,
        "python": platform.python_version(),
    }
    facts |= {"boot_id": read_field(proc / "sys/kernel/random/boot_id"), "clocksource": read_field(clocksource)}
    return {name: fact or None for name, fact in facts.items()} | {"cgroup": cgroup_folders(proc, cgroup_root)[0]}
