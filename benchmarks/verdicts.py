"""How often are clean measurements called INVALID or DISTURBED? Simulated ones, judged by all of the kit's own rules.

    python benchmarks/verdicts.py                              2,000 benches of 3, 5 or 10 runs
    python benchmarks/verdicts.py --experiments 200 --seed 7 --json

An experiment is what `morocco bench` leaves behind of an honest program on a quiet machine: short runs, timed runs,
runs of other sizes where the protocol makes them, and three pairs of runs that look for a cache, each a folder
with the files and facts of the protocol, judged by `summary.derive`. Speed varies by 0.5 to 3 % between runs; batches
vary by 5 to 30 % and one in a hundred is held up for some milliseconds; samples come late; other processes take up to a
tenth of a core; the wall clock is slewed; in a fifth of the experiments the first start is cold; half have a GPU whose
power is capped at times and on which a process of the run is seen once before it can be named. Counters are whole
ticks, as the kernel's are.

Prints alarms by code, of the runs and of whole experiments, and exits with 1 if more than 1 % of either are INVALID or
DISTURBED.
"""

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from morocco_lib import fileio
from morocco_lib.analysis import summary, throughput
from morocco_lib.analysis.caching import PAIRS
from morocco_lib.analysis.run_files import Run, read_run
from morocco_lib.analysis.startup import start_s
from morocco_lib.benchmark import extent, protocol
from morocco_lib.data import workload
from morocco_lib.monitors import clocks, gpu_sampler, periodic, system_load
from morocco_lib.reasons import DISTURBANCES, NOTES, Reason, verdict
from morocco_lib.tasks import get_task

TASK = get_task("terra")
BOUND = 0.01
BATCHES = 40
PROGRAMS = {  # and their shares
    **{"stream": 0.3, "no readiness": 0.1, "held back": 0.15, "held back, no readiness": 0.15},
    **{"lazy": 0.15, "lazy, held back, no readiness": 0.15},  # loads when it is fed
}
COLD_FIRST, COLD_FACTOR = 0.2, 2.0
GPU_SHARE = 0.5
LATE_BATCH, LATE_S = 0.01, 0.005
LATE_SAMPLE, LATE_SAMPLE_S = 0.001, 0.05
TICK_S = 0.01
SLEW = 5e-4  # the most that time synchronisation slews by
POWER_CAP = 0x04

# What a clean simulated run states as the engine, the kernel or the program would; noise has no part in it, so an alarm
# would be a fault of a rule. Only real programs show whether the facts themselves are right.
AS_STATED = [
    Reason.NON_ZERO_EXIT, Reason.KILLED, Reason.OUT_OF_MEMORY, Reason.TIMEOUT, Reason.LEFT_PROCESSES,
    Reason.PIDS_REFUSED, Reason.WORKER_KILLED, Reason.INPUT_NOT_READ, Reason.STDOUT_FLOODED, Reason.BROKEN_LINE,
    Reason.WRONG_IDX, Reason.UNKNOWN_IDX, Reason.DUPLICATE_IDX, Reason.MISSING_IDX, Reason.WRONG_LABEL, Reason.FLIPS,
    Reason.LOG_TRUNCATED, Reason.GPU_LOST,
]  # fmt: skip
WITH_NOISE = [
    Reason.CLOCK_TROUBLE, Reason.MACHINE_SLEPT, Reason.SAMPLER_GAPS, Reason.BUSY_MACHINE, Reason.SHARED_MACHINE,
    Reason.DRIFT, Reason.CACHED_ANSWERS, Reason.WORK_SKIPPED, Reason.GPU_THROTTLED, Reason.OTHER_GPU_PROCESS, Reason.DISPLAY_ON_GPU,
    Reason.TWO_START_UPS, Reason.WORK_NOT_SEEN, Reason.TIMES_DISAGREE, Reason.ANSWERS_HELD_BACK,
]  # fmt: skip
NOT_SIMULATED = {
    Reason.RAY_BUSY: "no cluster runs beside what is simulated",
    Reason.CONTRACT_BROKEN: "the check of the contract needs a program to run",
    Reason.BATCH_FLIPS: "needs a model and two batch sizes",
    Reason.EVAL_FLIPS: "needs a model and an eval step",
    Reason.TEXTS_REPEAT: "says that a task cannot recombine its records",
    Reason.SINGLE_RUN: "says what was requested",
    Reason.QUICK: "says what was requested",
    Reason.UNPROVEN: "needs a program that leaves its cgroup, or a mount that may be written",
}


@dataclass(frozen=True)
class Bench:
    """What stays the same in an experiment."""

    program: str
    repeats: int
    batch: int
    per_s: float
    init_s: float
    between: float
    within: float
    cores: int
    run_cores: float
    others_cores: float
    gpu: bool
    cold_first: bool

    @property
    def reports_ready(self) -> bool:
        return "no readiness" not in self.program

    @property
    def streams(self) -> bool:
        return "held back" not in self.program

    @property
    def lazy(self) -> bool:
        return self.program.startswith("lazy")


def drawn(rng: np.random.Generator) -> Bench:
    batch, cores = int(rng.choice([4, 8])), int(rng.choice([2, 4, 16]))
    work_s = rng.uniform(1.0, 4.0)
    return Bench(
        program=str(rng.choice(list(PROGRAMS), p=list(PROGRAMS.values()))),
        repeats=int(rng.choice([3, 5, 10])),
        batch=batch,
        per_s=BATCHES * batch / work_s,
        init_s=rng.uniform(0.3, 4.0),
        between=rng.uniform(0.005, 0.03),
        within=rng.uniform(0.05, 0.3),
        cores=cores,
        run_cores=rng.uniform(0.5, cores),
        others_cores=rng.uniform(0.0, 0.1),
        gpu=bool(rng.random() < GPU_SHARE),
        cold_first=bool(rng.random() < COLD_FIRST),
    )


# -- the files of one run ------------------------------------------------------------------------------------------
@cache
def records() -> list[dict]:
    rng = np.random.default_rng(1)
    words = ["дом", "река", "человек", "идёт", "новый", "вчера", "сказал", "город", "большой", "книга"]

    def text(least: int, most: int) -> str:
        return " ".join(rng.choice(words, size=rng.integers(least, most)))

    return [{"premise": text(5, 60), "hypothesis": text(3, 12), "idx": idx} for idx in range(64)]


@cache
def description(size: int, true: int | None = None) -> str:
    """Return workload.json of a run of so many records, of which so many are of the file."""
    load = workload.build(TASK, records(), size, 1, true)
    return json.dumps({**load.describe(), "source": {"path": "records.jsonl"}}, ensure_ascii=False)


@cache
def answers(size: int) -> bytes:
    return b"".join(b'{"idx": %d, "label": "entailment"}\n' % idx for idx in range(size))


def write_run(
    folder: Path,
    rng: np.random.Generator,
    made: Bench,
    size: int,
    load: str,
    *,
    fed_at_once: bool = False,
    cold: bool = False,
) -> Path:
    """Write runs/NN of a run of `size` records into `folder` and return it."""
    path = folder / "runs" / f"{1 + sum(1 for _ in (folder / 'runs').glob('*')):02d}"
    path.mkdir(parents=True)
    speed = made.per_s * math.exp(made.between * rng.standard_normal())
    seconds = made.batch / speed * rng.gamma(made.within**-2, made.within**2, -(-size // made.batch))
    seconds += (rng.random(len(seconds)) < LATE_BATCH) * rng.exponential(LATE_S, len(seconds))
    init_s = made.init_s * (COLD_FACTOR if cold else 1.0) * (1 + 0.03 * rng.standard_normal())
    fed_s = 0.001 if fed_at_once else (0.0 if made.lazy else init_s) + rng.uniform(0.1, 0.13)
    begin_s = fed_s + init_s if made.lazy else max(fed_s, init_s)
    ends = begin_s + np.cumsum(seconds)
    counts = np.minimum(made.batch, size - made.batch * np.arange(len(seconds)))
    if not made.streams:
        ends, counts = ends[-1:], np.array([size])
    ready_s, first_s, last_s = (
        ((0.05 if made.lazy else init_s) if made.reports_ready else None),
        float(ends[0]),
        float(ends[-1]),
    )
    exit_s = last_s + rng.uniform(0.02, 0.08)
    of_line = len(answers(size)) // size
    chunk_bytes = np.append(counts[:-1] * of_line, len(answers(size)) - int(counts[:-1].sum()) * of_line)
    chunks = zip((ends * 1e9).astype(int).tolist(), chunk_bytes.tolist(), counts.tolist(), strict=True)
    (path / "chunks.jsonl").write_text(
        "".join(f'{{"t_ns": {t}, "bytes": {size}, "lines": {count}}}\n' for t, size, count in chunks)
    )
    (path / "answers.jsonl").write_bytes(answers(size))
    (path / "workload.json").write_text(load)

    start_cpu_s = made.init_s * min(1.0, made.run_cores) * (1 + 0.03 * rng.standard_normal())

    def cpu_s(t_s: float) -> float:
        loaded = min(1.0, max(0.0, t_s - begin_s + init_s) / init_s)
        return start_cpu_s * loaded + made.run_cores * max(0.0, min(t_s, last_s) - begin_s)

    marks = {"fed": fed_s, "first_answer": first_s, "last_answer": last_s} | ({"ready": ready_s} if ready_s else {})
    steady = write_samples(path / "samples.jsonl", rng, exit_s, cpu_s, marks)
    run_cpu_s = cpu_s(exit_s)
    facts = {
        "schema": 1, "run": int(path.name), "task": TASK.name, "model": "simulated", "argv": ["simulated"],
        "runner": "process", "image_digest": None, "batch_size": made.batch, "limits": {}, "records_fed": size,
        "bytes_fed": json.loads(load)["bytes"], "all_fed": True, "lines": size, "stdout_bytes": len(answers(size)),
        "stdout_cut": False, "stderr_bytes": 0, "events": [], "ended_processes": [],
        "exit": {
            "code": 0, "signal": None, "oom_killed": False, "timed_out": False, "left_pids": [], "pids_refused": 0,
        },
        "phases": {
            "start_s": 0.0, "first_write_s": fed_s, "ready_s": ready_s, "first_answer_s": first_s,
            "last_answer_s": last_s, "exit_s": exit_s,
        },
        "withheld": None if fed_at_once else {"quiet_s": fed_s - 0.1},
        "cpu_s": run_cpu_s, "cpu_source": "cgroup v2",
        "memory": {
            "source": "cgroup v2", "cgroup_peak_bytes": 2**30, "cgroup_peak_source": "memory.peak",
            "high_water_bytes": None,
        },
        "sampler": {"source": "cgroup v2", **steady},
        "others": others(rng, made, exit_s, run_cpu_s),
        "gpu": write_gpu(path / "gpu.jsonl", rng, made, begin_s, exit_s) if made.gpu else Reason.NO_GPU,
        "clock": clock(rng, exit_s),
    }  # fmt: skip
    fileio.write_json(path / "run.json", facts)
    return path


def moments(rng: np.random.Generator, begin_s: float, end_s: float, period_s: float) -> np.ndarray:
    """Return when samples are taken: each a little late, some much."""
    count = int((end_s - begin_s) / period_s) + 1
    gaps = period_s + rng.exponential(0.0003, count)
    gaps += (rng.random(count) < LATE_SAMPLE) * rng.exponential(LATE_SAMPLE_S, count)
    times = begin_s + np.cumsum(gaps) - gaps[0]
    return times[times <= end_s]


def write_samples(
    path: Path, rng: np.random.Generator, exit_s: float, cpu_s: Callable[[float], float], marks: dict[str, float]
) -> dict:
    times = moments(rng, 0.001, exit_s, periodic.PERIOD_S).tolist()
    begin, wake = 2**28 + rng.exponential(2**20), rng.exponential(2**20, len(times))
    taken = [(t, int(begin + more), "") for t, more in zip(times, wake, strict=True)]
    taken += [(t, int(begin), f', "mark": "{name}"') for name, t in marks.items()]
    path.write_text(
        "".join(
            f'{{"t_ns": {int(t * 1e9)}, "anon_bytes": {anon}, "shmem_bytes": 0, "file_bytes": 0, "kernel_bytes": 0, '
            f'"cpu_s": {cpu_s(t)}{mark}}}\n'
            for t, anon, mark in sorted(taken)
        )
    )
    times_ns = [int(t * 1e9) for t in times]
    return periodic.steadiness(
        times_ns, periodic.PERIOD_S, [0, *times_ns, int((exit_s + rng.exponential(0.005)) * 1e9)]
    )


def others(rng: np.random.Generator, made: Bench, seconds: float, run_cpu_s: float) -> dict | str:
    seconds += 0.01  # the readings lie around the run
    spent = [run_cpu_s, made.others_cores * seconds * rng.gamma(2.0, 0.5), 0.01]  # the run, others, we
    ticks = math.floor(sum(spent) / TICK_S + rng.random() * 4) * TICK_S  # four counters of /proc/stat, each cut
    idle_s = max(0.0, made.cores * seconds - sum(spent))
    before = system_load.Times(0, made.cores, 0.0, 0.0, 0.0, 0.0, {})
    after = system_load.Times(int(seconds * 1e9), made.cores, ticks, idle_s, 0.0, spent[2], {})
    return system_load.others(before, after, run_cpu_s)


def clock(rng: np.random.Generator, seconds: float) -> dict:
    wall_ns, boot_ns = (rng.exponential(2e4, 2) * rng.choice([-1, 1], 2)).tolist()
    after = clocks.Offsets(10**18 + int(wall_ns + rng.uniform(-SLEW, SLEW) * seconds * 1e9), int(boot_ns))
    return clocks.compare(clocks.Offsets(10**18, 0), after, seconds)


def write_gpu(path: Path, rng: np.random.Generator, made: Bench, init_s: float, exit_s: float) -> dict:
    times = moments(rng, 0.001, exit_s, periodic.PERIOD_S)
    begin_s = 0.5 * init_s  # when the model reaches the device
    joules, slowed, state_samples, lines = 0.0, 0, 0, []
    for count, t in enumerate(times.tolist()):
        busy = t >= init_s
        processes = {"7": 2**30} if t >= begin_s else {}
        power_w = 60.0 + busy * 190.0 * (1 + 0.05 * rng.standard_normal())
        joules += periodic.PERIOD_S * power_w
        state = {}
        if count % gpu_sampler.STATE_EVERY == 0:
            state_samples += 1
            bits = POWER_CAP * bool(busy and rng.random() < 0.3) | (not busy)
            slowed += bool(bits & gpu_sampler.SLOWED)
            share = min(1.0, max(0.0, busy * (0.8 + 0.1 * rng.standard_normal())))
            state = {"power_w": power_w, "utilisation_share": share, "temperature_c": 50 + 20 * busy, "slowed_by": bits}
        line = {"t_ns": int(t * 1e9), "gpu": 0, "used_bytes": 2**30, "energy_j": joules, "processes": processes}
        lines.append(json.dumps(line | state) + "\n")
    path.write_text("".join(lines))
    child = {"pid": 8, "samples": 1, "peak_bytes": 2**20, "graphics_only": False}  # ended before it could be named
    device = {
        "used_by_run": True, "lost": False, "others": [child] if rng.random() < 0.05 else [], "slowed_samples": slowed,
        "state_samples": state_samples, "mig_of": None, "idle": {"processes": {}}, "missing": {},
    }  # fmt: skip
    return {"source": "nvml", "pids_hidden": False, "pids": [7], "devices": [device]}


# -- one experiment ------------------------------------------------------------------------------------------------
def experiment(rng: np.random.Generator, made: Bench, folder: Path) -> dict:
    """Write the runs of one bench, in the order of the protocol, and return what bench.json would hold."""
    size = BATCHES * made.batch

    def run(stage: str, records: int, load: str = "", **fed) -> Run:
        return read_run(write_run(folder / stage, rng, made, records, load or description(records), **fed))

    run("short", made.batch, fed_at_once=True, cold=made.cold_first)
    runs, smaller = [], []
    for _ in range(made.repeats):
        runs.append(run(".", size))
        while not throughput.balanced(runs) and len(smaller) < len(runs):
            smaller.append(run("smaller", made.batch * int(rng.integers(BATCHES // 4, BATCHES // 2, endpoint=True))))
    speed = throughput.read(runs, smaller)
    if smaller and speed.first_use_s:
        run("larger", made.batch * int(rng.integers(2 * BATCHES, 4 * BATCHES, endpoint=True)))
    if start_s(runs, speed, [read_run(folder / "short/runs/01")]).get("method") == "total":
        for _ in range(protocol.STARTS - 1):
            run("short", made.batch, fed_at_once=True)
    few = made.batch * -(
        -extent.probe_size(made.per_s, made.batch, len(records()), size, speed.first_use_s) // made.batch
    )
    for _, (kind, true) in product(range(PAIRS), protocol.KINDS):
        run(f"cached/{kind}", min(few, size), description(min(few, size), true))
    fileio.write_json(folder / summary.PROTOCOL, {"schema": 1, "cached": {"size": few}, "conformance": {"ok": True}})
    return summary.derive(folder)


def expected(made: Bench) -> set[Reason]:
    """Return the notes that are true of such an experiment: a lazy program, too, answers long after it said it was ready."""
    held = made.reports_ready and (made.lazy or not made.streams)
    true = {Reason.ANSWERS_HELD_BACK: held, Reason.TWO_START_UPS: made.cold_first}
    return {note for note, holds in true.items() if holds}


def judged(seed: int, count: int) -> dict:
    """Return how many of so many experiments, and of their timed runs, got which code that they should not have."""
    rng = np.random.default_rng(seed)
    alarms, of_runs, sizes = Counter(), Counter(), Counter()
    for _ in range(count):
        made = drawn(rng)
        with tempfile.TemporaryDirectory() as name:
            result = experiment(rng, made, Path(name))
        sizes.update(experiments=1, runs=result["repeats"], no_speed=result["speed_per_s"]["value"] is None)
        alarms.update(set(result["reasons"]) - expected(made))
        sizes["invalid"] += verdict(map(Reason, result["reasons"])) != "VALID"
        for row in result["per_run"]:
            of_runs.update(set(row["reasons"]) - expected(made))
            sizes["invalid_runs"] += row["verdict"] != "VALID"
    return {"schema": 1, "seed": seed, **sizes, "alarms": dict(alarms), "of_runs": dict(of_runs)}


def kind_of(code: Reason) -> str:
    return "note" if code in NOTES else "disturbed" if code in DISTURBANCES else "INVALID"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=2000, help="of 3, 5 or 10 timed runs each (default: 2000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = judged(args.seed, args.experiments)
    shares = [found["invalid"] / found["experiments"], found["invalid_runs"] / found["runs"]]
    if args.json:
        print(json.dumps(found))
        return int(max(shares) > BOUND)
    print(f"{found['experiments']} simulated clean benches, {found['runs']} timed runs, seed {args.seed}")
    print(f"{'code':<20} {'kind':<9} {'input':<10} {'benches':>8} {'share':>8} {'runs':>6}")
    for kind, codes in (("noise", WITH_NOISE), ("as stated", AS_STATED)):
        for code in codes:
            count = found["alarms"].get(code, 0)
            row = f"{code:<20} {kind_of(code):<9} {kind:<10} {count:>8}"
            print(f"{row} {count / found['experiments']:>8.2%} {found['of_runs'].get(code, 0):>6}")
    for code, why in NOT_SIMULATED.items():
        print(f"{code:<20} {kind_of(code):<9} not simulated: {why}")
    print(f"without a speed: {found['no_speed']}")
    of = f"{found['invalid']} benches ({shares[0]:.2%}), {found['invalid_runs']} single runs ({shares[1]:.2%})"
    print(f"INVALID or DISTURBED: {of}")
    return int(max(shares) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
