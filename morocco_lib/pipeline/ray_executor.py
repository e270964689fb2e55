"""A plan on the machines of a Ray cluster: each part of it on one of them, as `--shard` has parts; results meet in a bucket.

A part has whole tasks with all their models and a slot to itself: what is compared is measured on one machine, alone there. Ray
chooses machines and notices when one is lost; what is run again is decided here, and what is finished is in the bucket.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from itertools import chain
from pathlib import Path
from typing import Any

import psutil

from morocco_lib.errors import EnvironmentFailure
from morocco_lib.monitors.host import read_field
from morocco_lib.pipeline.signals import Signals

SLOT = "bench_slot"  # a resource of a machine: as many as parts may be measured there at once, one a GPU, or one
CPUS = Path("/sys/devices/system/cpu")
ATTEMPTS = 20  # at a part whose machine is lost; a long one on machines that are taken away every two hours loses many
AWAY_S = 1800  # so long may there be no machine with a slot
START = f"""ray start --address HEAD:6379 --resources '{{"{SLOT}": 1}}'"""


def run(
    parts: Mapping[str, Sequence[str]], root: Path, say: Callable[[str], None], address: str = "auto",
    environment: Mapping[str, str] = {}, first: bool = False,
) -> int:  # fmt: skip
    """Run commands of morocco on the machines of a cluster, one a slot; what they say is printed as they say it.

    Args:
        parts: What a part is called -> the arguments of `morocco`.
        root: Project root; the project is at the same place on each machine.
        address: Of the cluster's head; "auto": of the cluster that this machine is in.
        environment: Variables for the parts, beside those that `ray start` was given on their machine.
        first: Let the others wait for the first part.
    Returns:
        The worst exit code.
    Raises:
        EnvironmentFailure: no cluster, no machine with a slot, or a part lost its machine twenty times.
    """
    ray = _connected(address)
    try:
        with redirect_stdout(sys.stderr), Signals() as signals:  # after Ray, which takes SIGTERM for itself
            slots, gpus = (ray.cluster_resources().get(name, 0) for name in (SLOT, "GPU"))
            say(f"{len(parts)} parts of whole tasks, {slots:.0f} slots: each task is measured on one machine")
            remote = ray.remote(num_cpus=0, num_gpus=min(gpus, 1), resources={SLOT: 1}, max_retries=0)(_part)
            begun = [(name, (list(argv), str(root), dict(environment))) for name, argv in parts.items()]
            waves = [wave for wave in ([begun[:1], begun[1:]] if first else [begun]) if wave]
            return max(_wave(ray, remote, dict(wave), say, signals.check) for wave in waves)
    finally:
        ray.shutdown()  # ends what still runs


def _connected(address: str) -> Any:
    try:
        os.environ |= dict.fromkeys(("RAY_USAGE_STATS_ENABLED", "RAY_DEDUP_LOGS", "RAY_COLOR_PREFIX"), "0")
        import ray
    except ImportError:
        raise EnvironmentFailure("there is no ray here", remedy="pip install 'morocco-lib[ray]'") from None
    try:
        ray.init(address=address, logging_level="ERROR", namespace="morocco")
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        seen = str(error).strip().partition("\n")[0]
        raise EnvironmentFailure(
            f"no Ray cluster at {address}: {seen}",
            remedy="`ray start` on this machine, with the version and the token of the others: see docs/cluster.md",
        ) from None
    return ray


def _wave(ray: Any, remote: Any, parts: dict[str, tuple], say: Callable[[str], None], check: Callable[[], None]) -> int:
    def begin(name: str) -> Any:
        return remote.options(name=name).remote(*parts[name])  # what it says has the name before it

    running, lost, codes, seen_s = {begin(name): name for name in parts}, Counter(), [], -AWAY_S
    try:
        while running:
            ended, _ = ray.wait([*running], timeout=1)
            check()
            for task in ended:
                name = running.pop(task)
                try:
                    where, code = ray.get(task)
                except ray.exceptions.RayTaskError as error:
                    rule = f"the project is in {parts[name][1]} on each machine"
                    raise EnvironmentFailure(f"{name} did not start: {error.cause}", rule=rule) from None
                except ray.exceptions.RayError as error:
                    lost[name] += 1
                    if lost[name] == ATTEMPTS:
                        remedy = "run the plan again: what is done is kept"
                        raise EnvironmentFailure(f"{name} has lost {ATTEMPTS} machines", remedy=remedy) from None
                    say(
                        f"{name}: its machine is lost ({type(error).__name__}); what it finished is kept, the rest runs elsewhere"
                    )
                    running[begin(name)] = name
                else:
                    say(f"{name}: {where} has ended it with exit code {code}")
                    codes.append(code)
            if ray.cluster_resources().get(SLOT):
                seen_s = time.monotonic()
            elif running and time.monotonic() - seen_s > AWAY_S:
                rule = "each part needs one to itself"
                raise EnvironmentFailure(f"no machine of the cluster has a {SLOT}", rule=rule, remedy=START)
        return max(codes)
    finally:
        for task in running:
            ray.cancel(task)  # as Ctrl-C
        ray.wait([*running], num_returns=len(running), timeout=60) if running else None


def _part(argv: list[str], root: str, environment: dict[str, str]) -> tuple[str, int]:
    """Run a command on this machine; returns its address and the exit code. The command ends with us."""
    import ray

    raylet = psutil.Process().parent()
    env = raylet.environ() | environment  # as of `ray start`: ours has one thread for OpenMP
    if gpus := [str(gpu) for gpu in ray.get_gpu_ids()]:
        here = ray.get_runtime_context().get_node_id()
        machine = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
        if machine[SLOT] > 1:  # one a GPU
            known = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
            number = known.index(gpus[0]) if gpus[0] in known else int(gpus[0])
            os.sched_setaffinity(0, cores_of_part(raylet.cpu_affinity(), number, int(machine["GPU"])))
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    words = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "morocco_lib", *argv]
    with subprocess.Popen(words, cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno()) as program:
        try:
            code = program.wait()
            return ray.util.get_node_ip_address(), code if code >= 0 else 128 - code
        finally:
            program.terminate()


def cores_of_part(cpus: Iterable[int], number: int, count: int, known: Path = CPUS) -> list[int]:
    """Return the CPUs of part `number` of `count` that are measured on a machine at once: whole cores; all where these are too few."""
    cores: dict[tuple[int, int], list[int]] = {}
    for cpu in cpus:
        socket, core = (read_field(known / f"cpu{cpu}/topology" / n) for n in ("physical_package_id", "core_id"))
        cores.setdefault((int(socket or 0), int(core or cpu)), []).append(cpu)
    near = [cores[place] for place in sorted(cores)]  # of one socket, and then of the next
    first, end = (n * len(near) // count for n in (number, number + 1))
    return sorted(chain.from_iterable(near[first:end] if len(near) >= count else near))
