"""System load during a run: CPU time that neither the run, nor we, nor the container engine used.

Of the cores that we may run on: what we measure runs on these, too, and others may be measured on the rest.
"""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morocco_lib.monitors.cgroup import PROC
from morocco_lib.monitors.procfs import TICK_S, read_stat
from morocco_lib.reasons import Reason

# Names as in /proc, cut to 15 characters.
ENGINE = ("dockerd", "containerd", "containerd-shim", "runc", "docker-proxy")
RAY = re.compile(r"raylet|gcs_server|ray::")
SCRIPT_OF_RAY = re.compile(rb"site-packages/ray/[\w/]*?(\w+)\.py\0|\0-m\0ray\.([\w.]+)\0")
TOP = 3


@dataclass(frozen=True)
class Times:
    """CPU times since the machine started, in seconds over our cores, and those of each process.

    `processes` is {(pid, start in clock ticks): (name, CPU seconds)}; `own_s` is of this process, all threads.
    """

    t_ns: int
    cores: int
    busy_s: float
    idle_s: float
    steal_s: float
    own_s: float
    processes: dict[tuple[int, int], tuple[str, float]]


def read(proc: Path = PROC) -> Times | None:
    """Return the times now, None where /proc/stat has none; a few milliseconds for a hundred processes.

    Busy is everything but idle, waiting for storage, and stolen by the host; what virtual machines of ours used is in it.
    """
    try:
        lines = [line.split() for line in (proc / "stat").read_text().splitlines() if line.startswith("cpu")]
        ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        cores = lines[1:] if len(ours) >= len(lines) - 1 else [line for line in lines if line[0] in ours]
        times = [sum(int(line[k]) for line in cores) * TICK_S for k in range(1, 9)]
        user, nice, system, idle, iowait, irq, softirq, steal = times
    except (OSError, ValueError, IndexError):
        return None
    own_s, busy_s = time.process_time(), user + nice + system + irq + softirq
    if not busy_s + idle:  # some sandboxes show zeros
        return None
    return Times(time.monotonic_ns(), len(cores), busy_s, idle + iowait, steal, own_s, _processes(proc))


def _processes(proc: Path) -> dict[tuple[int, int], tuple[str, float]]:
    found = {}
    for entry in os.scandir(proc):
        if entry.name.isdigit() and (stat := read_stat(entry.name, proc)):
            name, fields = stat
            name = _script_of_ray(proc / entry.name) or name if name.startswith("python") else name
            found[int(entry.name), int(fields[19])] = name, (int(fields[11]) + int(fields[12])) * TICK_S
    return found


def _script_of_ray(process: Path) -> str | None:
    """Return a name for a Python that runs a script of Ray, None for any other."""
    try:
        found = SCRIPT_OF_RAY.search((process / "cmdline").read_bytes())
    except OSError:  # it has ended
        return None
    return f"ray::{(found[1] or found[2]).decode()}" if found else None


def others(
    before: Times | None,
    after: Times | None,
    run_cpu_s: float | None,
    run_pids: Iterable[int] = (),
    engine: bool = False,
) -> dict[str, Any] | Reason:
    """Return what `run.json` keeps of other processes' CPU time between two readings, or why that is not known.

    Args:
        run_cpu_s: CPU seconds of the run in between.
        run_pids: Its processes, as far as they are known: they are not listed among the others.
        engine: A container engine worked for the run; its processes do not count as others then.
    Returns:
        `cpu_s` of others on our cores, `cores` they kept busy on average `of_cores`, the shares of these cores' time that was
        idle and that the host stole, and the three other processes that used most (`top`); of processes of Ray, where there are
        any, what they kept busy (`ray_cores`).
    Limits: what an engine's short helpers used, our own children that are not the run, and the kernel's threads count
        as others. Where the kernel counts by ticks, a few hundredths of a second are noise. `top` misses processes that
        ended in between.
    """
    if before is None or after is None or run_cpu_s is None:
        return Reason.MACHINE_NOT_TOLD
    used = {}
    for process, (name, cpu_s) in after.processes.items():
        used[process] = name, cpu_s - before.processes.get(process, (name, 0.0))[1]
    served = {process for process, (name, _) in used.items() if engine and name in ENGINE}
    engine_s = sum(used[process][1] for process in served)
    busy_s = after.busy_s - before.busy_s
    cpu_s = max(0.0, busy_s - run_cpu_s - (after.own_s - before.own_s) - engine_s)
    seconds = (after.t_ns - before.t_ns) / 1e9
    idle_s, steal_s = after.idle_s - before.idle_s, after.steal_s - before.steal_s
    whole_s = busy_s + idle_s + steal_s
    not_others = {os.getpid(), *run_pids}
    top = [
        {"pid": pid, "name": name, "cpu_s": round(used_s, 2)}
        for (pid, start), (name, used_s) in used.items()
        if used_s > 0 and pid not in not_others and (pid, start) not in served
    ]
    ray_s = [used_s for name, used_s in used.values() if RAY.match(name)]
    return {
        "cpu_s": cpu_s,
        "cores": cpu_s / seconds,
        **({"ray_cores": sum(ray_s) / seconds} if ray_s else {}),
        "of_cores": after.cores,
        "idle_share": idle_s / whole_s if whole_s else None,
        "steal_share": steal_s / whole_s if whole_s else None,
        "top": sorted(top, key=lambda process: -process["cpu_s"])[:TOP],
    }


def look(seconds: float) -> dict[str, Any] | Reason:
    """Return what other processes do now, watched for so long; as `others` does."""
    before = read()
    time.sleep(seconds)
    return others(before, read(), 0.0)
