"""What watching a run costs: CPU of a sample with each reader over a tree of four processes, against `ps` a sample.

The sampler is the one that runs use, with everything it does beside: finding new processes, seeing how others ended,
writing the sample. Bars: 0.2 ms a sample, a tenth of `ps`, 0.3 % of a core at 10 Hz.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

from morocco_lib.monitors.cgroup import RunCgroup
from morocco_lib.monitors.processes import Processes
from morocco_lib.monitors.readers import reader_for
from morocco_lib.monitors.sampler import PERIOD_S, Sampler
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.process import ProcessHandle, ProcessRunner

SAMPLE_S, PS_SHARE, CORE_SHARE = 0.2e-3, 0.1, 0.003
SLOW_PERIOD_S = 0.1
TREE = """
import os, sys
for _ in range(3):
    if not os.fork(): break
print(flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a sample at the sampler's own rate, share of a core at 10 Hz, CPU seconds of `ps` a sample."""

    reader: str
    sample_s: float
    core_share: float
    ps_s: float

    def bars(self) -> dict[str, bool]:
        return {
            "sample": self.sample_s <= SAMPLE_S,
            "ps": self.sample_s <= PS_SHARE * self.ps_s,
            "core": self.core_share <= CORE_SHARE,
        }


def sampled(handle: ProcessHandle, period_s: float, seconds: float) -> tuple[str, float, float]:
    """Sample for a while and return (source, CPU seconds a sample, share of a core)."""
    reader = reader_for(handle)
    processes = Processes(reader.pids, handle.started_ns)
    sampler = Sampler(reader, io.StringIO(), handle.started_ns, period_s, processes)
    began = time.monotonic()
    sampler.start()
    time.sleep(seconds)
    report = sampler.stop()
    if len(processes.pids) != 4:
        raise SystemExit(f"{len(processes.pids)} processes found, there are 4")
    return report["source"], report["cpu_s"] / report["samples"], report["cpu_s"] / (time.monotonic() - began)


def ps(pids: list[int], times: int = 30) -> float:
    """Return the CPU seconds of one `ps` for these processes, those of starting and waiting for it included."""

    def used() -> float:
        both = (resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
        return sum(usage.ru_utime + usage.ru_stime for usage in both)

    argv = ["ps", "-o", "rss=,time=", "-p", ",".join(map(str, pids))]
    before = used()
    for _ in range(times):
        subprocess.run(argv, capture_output=True, check=True)
    return (used() - before) / times


def measure(use_cgroup: bool, seconds: float) -> Cost:
    handle = ProcessRunner(use_cgroup=use_cgroup).start([sys.executable, "-I", "-S", "-c", TREE], Limits())
    try:
        printed = b""
        for _, _, data in handle.chunks():
            printed += data
            if printed.count(b"\n") == 4:
                break
        source, sample_s, _ = sampled(handle, PERIOD_S, seconds)
        ps_s = ps(handle.pids())
        _, _, core_share = sampled(handle, SLOW_PERIOD_S, seconds)
        return Cost(source, sample_s, core_share, ps_s)
    finally:
        handle.kill()
        handle.wait(10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the four samplings (default 10)")
    parser.add_argument("--json", action="store_true", help="one JSON object a reader instead of the table")
    args = parser.parse_args()
    ways = [True, False]
    if (group := RunCgroup.create()) is None:
        print("no cgroup can be made here: /proc only", file=sys.stderr)
        ways = [False]
    else:
        group.remove()
    costs = [measure(use_cgroup, args.seconds) for use_cgroup in ways]
    if args.json:
        for cost in costs:
            print(json.dumps({**cost.__dict__, "bars": cost.bars()}))
    else:
        print(f"{'reader':<10} {'ms a sample':>11} {'ps ms':>6} {'of ps':>6} {'at 10 Hz':>9}  bars")
        for cost in costs:
            bars = ", ".join(f"{name} {'pass' if kept else 'FAIL'}" for name, kept in cost.bars().items())
            share = cost.sample_s / cost.ps_s
            print(
                f"{cost.reader:<10} {cost.sample_s * 1e3:>11.3f} {cost.ps_s * 1e3:>6.2f} {share:>6.3f}"
                f" {cost.core_share:>9.3%}  {bars}"
            )
    return 0 if all(all(cost.bars().values()) for cost in costs) else 1


if __name__ == "__main__":
    sys.exit(main())
