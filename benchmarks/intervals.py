"""Do 95 % intervals hold the truth 95 times in 100? Simulated experiments, estimated by the kit's own code.

    python benchmarks/intervals.py                           three seeds, 2,000 experiments a setting
    python benchmarks/intervals.py --seeds 7 8 9 --experiments 500 --json

An experiment is R runs of one program; a run has a start-up (3 % of chance), a warm-up of a few batches at half the
speed, batches whose time varies by 10 %, arrivals that hold one batch or two, and a speed of its own (1.5 % between
runs). With drift the machine slows down by 1 % from the first run to the last. Runs are fed when the start-up is over;
of method `paired` it begins when they are fed, and each has a run of fewer records beside it. The truth is records by
expected seconds, over the runs of an experiment. Prints the share of intervals that hold it and the median width of the
interval, in per cent of the speed; exits with 1 if a share is outside 93 to 97 %. A drift that is larger than what
runs differ by makes intervals too wide, and is reported as DRIFT: the last lines show it for 6 %.
"""

import argparse
import json
import math
import sys
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

from morocco_lib.analysis import throughput
from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.validity import drift_reasons

RATE = 200.0  # records a second, of an average run
BATCH, BATCHES = 32, 60
INIT_S, INIT_CHANCE = 4.0, 0.03
BETWEEN, WITHIN = 0.015, 0.10  # standard deviations of the speed between runs, and of the time of a batch
WARM_UP_BATCHES, WARM_UP_FACTOR = 4, 2.0
DRIFT, STRONG_DRIFT = 0.01, 0.06
BOUNDS = 0.93, 0.97


def run(rng: np.random.Generator, method: str, slower: float, batches: int = BATCHES) -> Run:
    """Return one simulated run, `slower` times as slow as the first of its experiment."""
    rate = RATE / slower * math.exp(BETWEEN * rng.standard_normal())
    seconds = BATCH / rate * rng.gamma(1 / WITHIN**2, WITHIN**2, batches)
    if method == "stream":
        seconds[:WARM_UP_BATCHES] *= WARM_UP_FACTOR
    start_s = INIT_S * (1 + INIT_CHANCE * rng.standard_normal())
    ends = start_s + np.cumsum(seconds)
    if method == "stream":
        alone = rng.random(batches) < 0.9  # else it arrives with the next
        alone[-1] = True
        counts = np.diff(np.flatnonzero(alone), prepend=-1) * BATCH
        arrivals = list(zip(ends[alone].tolist(), counts.tolist(), strict=True))
    else:
        arrivals = [(float(ends[-1]), batches * BATCH)]
    fed_s = 0.1 if method == "paired" else start_s
    phases = {"first_write_s": fed_s, "ready_s": min(fed_s, start_s), "exit_s": float(ends[-1]) + 0.05}
    return Run(Path(), {"phases": phases, "withheld": {"quiet_s": None}, "batch_size": BATCH}, arrivals, [])


def experiment(rng: np.random.Generator, method: str, repeats: int, drift: float) -> tuple[list, list, float]:
    """Return (timed runs, smaller runs, the true speed)."""
    slowed = [1 / (1 - drift * k / (repeats - 1)) for k in range(repeats)]
    runs = [run(rng, method, slower) for slower in slowed]
    sizes = rng.integers(BATCHES // 4, BATCHES // 2, repeats, endpoint=True)
    smaller = [run(rng, method, slower, size) for slower, size in zip(slowed, sizes, strict=True)]
    return runs, smaller, RATE / (sum(slowed) / repeats * math.exp(BETWEEN**2 / 2))


def setting(seed: int, count: int, method: str, repeats: int, drift: float) -> dict[str, float]:
    """Return coverage, median width and share of DRIFT alarms of so many experiments."""
    rng = np.random.default_rng([seed, repeats, round(drift * 1e6), len(method)])
    held, widths, alarms = 0, [], 0
    for _ in range(count):
        runs, smaller, truth = experiment(rng, method, repeats, drift)
        found = throughput.read(runs, smaller if method != "ready" else ()).estimate
        if found["method"] != method:
            continue
        held += found["low"] <= truth <= found["high"]
        widths.append((found["high"] - found["low"]) / found["value"])
        if method == "stream":
            alarms += bool(drift_reasons([throughput.read([r]).estimate["value"] for r in runs]))
    return {
        "coverage": held / len(widths),
        "width": median(widths),
        "alarms": alarms / count,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--repeats", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--methods", nargs="+", default=["stream", "ready", "paired"])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows, outside = [], 0
    if not args.json:
        print(f"{args.experiments} experiments a setting: share of 95 % intervals that hold the truth (median width)")
        print(f"{'method':<8}{'runs':>5}  {'drift':<6}" + "".join(f"{f'seed {s}':>18}" for s in args.seeds))
    for method, repeats, drift in product(args.methods, args.repeats, (0.0, DRIFT)):
        found = [setting(seed, args.experiments, method, repeats, drift) for seed in args.seeds]
        rows.append({"method": method, "repeats": repeats, "drift": drift, "seeds": found})
        outside += sum(not BOUNDS[0] <= f["coverage"] <= BOUNDS[1] for f in found)
        if not args.json:
            cells = "".join(f"{f['coverage']:>10.2%} ({f['width']:>5.1%})" for f in found)
            print(f"{method:<8}{repeats:>5}  {drift or '':<6}{cells}", flush=True)
    if args.json:
        print(json.dumps({"schema": 1, "experiments": args.experiments, "rows": rows, "outside": outside}))
    else:
        alarms = max((f["alarms"] for row in rows for f in row["seeds"] if not row["drift"]), default=0.0)
        for repeats in args.repeats:
            found = setting(args.seeds[0], args.experiments, "stream", repeats, STRONG_DRIFT)
            print(
                f"drift of {STRONG_DRIFT:.0%}, {repeats} runs: {found['coverage']:.2%} hold the truth, DRIFT reported in {found['alarms']:.1%}"
            )
        print(
            f"outside {BOUNDS[0]:.1%} to {BOUNDS[1]:.1%}: {outside}; DRIFT reported without drift: {alarms:.2%} at most"
        )
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
