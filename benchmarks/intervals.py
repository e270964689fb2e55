"""Do 95 % intervals hold the truth 95 times in 100? Simulated experiments, estimated by the kit's own code.

    python benchmarks/intervals.py                           three seeds, 2,000 experiments a setting
    python benchmarks/intervals.py --seeds 7 8 9 --experiments 500 --json

An experiment is R runs of one program; a run has a start-up (3 % of chance), a warm-up of a few batches at half the speed,
batches whose time varies by 10 %, arrivals that hold one batch or two, and a speed of its own (1.5 % between runs). With
drift the machine slows down by 1 % from the first run to the last; with cold starts one start-up in five takes 1.5 times
as long. The truth is records by expected seconds, over the runs of an experiment. Prints the share of intervals that hold
it and the median width of the interval, in per cent of the speed; exits with 1 if a share is outside 93.5 to 96.5 %. A drift that
is larger than what runs differ by makes intervals too wide, and is reported as DRIFT: the last lines show it for 6 %.
"""

import argparse
import json
import math
import sys
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

from morocco_lib.analysis import segments, throughput
from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.validity import drift_reasons
from morocco_lib.benchmark import protocol

RATE = 200.0  # records a second, of an average run
BATCH, BATCHES = 32, 60
INIT_S, INIT_CHANCE = 4.0, 0.03
BETWEEN, WITHIN = 0.015, 0.10  # standard deviations of the speed between runs, and of the time of a batch
WARM_UP_BATCHES, WARM_UP_FACTOR = 4, 2.0
COLD_SHARE, COLD_FACTOR = 0.2, 1.5
DRIFT, STRONG_DRIFT = 0.01, 0.06
BOUNDS = 0.935, 0.965


def init_s(rng: np.random.Generator, cold: bool) -> float:
    factor = COLD_FACTOR if cold and rng.random() < COLD_SHARE else 1.0
    return INIT_S * factor * (1 + INIT_CHANCE * rng.standard_normal())


def run(rng: np.random.Generator, method: str, cold: bool, slower: float, batches: int = BATCHES) -> Run:
    """Return one simulated run, `slower` times as slow as the first of its experiment."""
    rate = RATE / slower * math.exp(BETWEEN * rng.standard_normal())
    seconds = BATCH / rate * rng.gamma(1 / WITHIN**2, WITHIN**2, batches)
    if method == "stream":
        seconds[:WARM_UP_BATCHES] *= WARM_UP_FACTOR
    ready_s = init_s(rng, cold)
    ends = ready_s + np.cumsum(seconds)
    if method == "stream":
        alone = rng.random(batches) < 0.9  # else it arrives with the next
        alone[-1] = True
        counts = np.diff(np.flatnonzero(alone), prepend=-1) * BATCH
        arrivals = list(zip(ends[alone].tolist(), counts.tolist(), strict=True))
    else:
        arrivals = [(float(ends[-1]), batches * BATCH)]
    exit_s = float(ends[-1]) + 0.05
    reported_s = ready_s if method != "paired" else None
    return Run(Path(), {"phases": {"ready_s": reported_s, "exit_s": exit_s}, "batch_size": BATCH}, arrivals, [])


def experiment(
    rng: np.random.Generator, method: str, repeats: int, drift: float, cold: bool
) -> tuple[list, list, float]:
    """Return (timed runs, short runs, the true speed)."""
    slowed = [1 / (1 - drift * k / (repeats - 1)) for k in range(repeats)]
    runs, short = [], []
    for k in range(2 * repeats):  # a pair with a cold start is run again, as the protocol does
        slower = slowed[min(k, repeats - 1)]
        runs.append(run(rng, method, cold, slower))
        if method != "paired":
            if len(runs) == repeats:
                break
            continue
        while len(short) < len(runs) + protocol.MORE_SHORT:
            short.append(run(rng, method, cold, slower, batches=1))
        if len(segments.warm_pairs([s.total_s for s in short], [r.total_s for r in runs])) >= repeats:
            break
    slowed += [slowed[-1]] * (len(runs) - repeats)
    return runs, short, RATE / (sum(slowed) / len(runs) * math.exp(BETWEEN**2 / 2))


def setting(seed: int, count: int, method: str, repeats: int, drift: float, cold: bool) -> dict[str, float]:
    """Return coverage, median width and share of DRIFT alarms of so many experiments."""
    rng = np.random.default_rng([seed, repeats, round(drift * 1e6), cold, len(method)])
    held, widths, alarms = 0, [], 0
    for _ in range(count):
        runs, short, truth = experiment(rng, method, repeats, drift, cold)
        found = throughput.read(runs, short).estimate
        if found.get("low") is None:  # fewer than two pairs that started warm
            continue
        assert found["method"] == method, found
        held += found["low"] <= truth <= found["high"]
        widths.append((found["high"] - found["low"]) / found["value"])
        if method == "stream":
            alarms += bool(drift_reasons([throughput.read([r]).estimate["value"] for r in runs]))
    return {
        "coverage": held / len(widths),
        "width": median(widths),
        "none": count - len(widths),
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
        print(f"{'method':<8}{'runs':>5}  {'drift':<6}{'cold':<5}" + "".join(f"{f'seed {s}':>18}" for s in args.seeds))
    for method, repeats, drift, cold in product(args.methods, args.repeats, (0.0, DRIFT), (False, True)):
        found = [setting(seed, args.experiments, method, repeats, drift, cold) for seed in args.seeds]
        rows.append({"method": method, "repeats": repeats, "drift": drift, "cold": cold, "seeds": found})
        outside += sum(not BOUNDS[0] <= f["coverage"] <= BOUNDS[1] for f in found)
        if not args.json:
            cells = "".join(f"{f['coverage']:>10.2%} ({f['width']:>5.1%})" for f in found)
            print(f"{method:<8}{repeats:>5}  {drift or '':<6}{'20 %' if cold else '':<5}{cells}", flush=True)
    if args.json:
        print(json.dumps({"schema": 1, "experiments": args.experiments, "rows": rows, "outside": outside}))
    else:
        alarms = max((f["alarms"] for row in rows for f in row["seeds"] if not row["drift"]), default=0.0)
        for repeats in args.repeats:
            found = setting(args.seeds[0], args.experiments, "stream", repeats, STRONG_DRIFT, False)
            print(
                f"drift of {STRONG_DRIFT:.0%}, {repeats} runs: {found['coverage']:.2%} hold the truth, DRIFT reported in {found['alarms']:.1%}"
            )
        print(
            f"outside {BOUNDS[0]:.1%} to {BOUNDS[1]:.1%}: {outside}; DRIFT reported without drift: {alarms:.2%} at most"
        )
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
