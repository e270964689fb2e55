"""How far off measured speeds are from known ones, our way with one run and the original's with 5 + 5; wall times beside.

    python benchmarks/truth.py [--repeats N] [--seed S]

About 15 minutes, and 40 s more a repeat; on a machine that does nothing else. Every run is a real one, of a server that sleeps.
The last table is of programs that work and print in many ways, honest ones and ones that want to look faster: tests/servers/books.py.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from servers import books
from truth import pool


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def row(name: str, way: str, errors: Sequence[float], wall_s: float, trials: Sequence[pool.Trial] = ()) -> str:
    """Return a line of the table; widths and what else comes of an interval are of our way alone."""
    intervals = [trial for trial in trials if trial.width is not None]
    widths = sorted(trial.width for trial in intervals)
    cells = [
        *map(percent, (*pool.median_and_p95(errors), max(map(abs, errors)))),
        percent(widths[len(widths) // 2]) if widths else "",
        percent(widths[-1]) if widths else "",
        f"{sum(trial.holds for trial in intervals)}/{len(intervals)}" if intervals else "",
        f"{max(abs(trial.init_error_s) for trial in trials):.3f}" if trials else "",
        f"{wall_s / len(errors):.1f}",
    ]
    return f"{name:<30} {way:<9} {len(errors):>3} " + " ".join(f"{cell:>8}" for cell in cells)


def way_row(way: str, trial: pool.Trial) -> str:
    speed, init = trial.result["speed_per_s"], trial.result["init_s"]["value"]
    error = "" if speed["value"] is None else percent(speed["value"] / trial.setting.rate - 1)
    cells = f"{error:>8} {speed.get('method') or '':<7} {init:>8.2f} {trial.wall_s:>6.1f}"
    return f"{way:<20} {trial.result['verdict']:<10} {cells} {' '.join(trial.result['reasons'])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of the comparison (default: 5)")
    parser.add_argument("--seed", type=int, default=1, help="of settings, cold starts and varying records (default: 1)")
    args = parser.parse_args()
    print(f"load before {os.getloadavg()[0]:.2f}; errors and widths in %, of the known speed; start-up and wall in s")
    heads = ("median", "p95", "most", "width", "widest", "holds", "start-up", "wall")
    print(f"{'setting':<30} {'way':<9} {'n':>3} " + " ".join(f"{head:>8}" for head in heads))
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        for number, (title, settings) in enumerate(pool.pools(args.seed).items()):
            trials = pool.measure(settings, base / f"pool{number}")
            wall_s = sum(trial.wall_s for trial in trials)
            print(row(title, "one run", [trial.error for trial in trials], wall_s, trials), flush=True)
        for number, (title, setting) in enumerate(pool.without_readiness(args.seed).items()):
            trial = pool.ours(setting, base / f"fed{number}", repeats=5)
            print(row(f"no readiness, {title}", "5 runs", [trial.error], trial.wall_s, [trial]), flush=True)
        for number, (title, settings) in enumerate(pool.compared(args.repeats, args.seed).items()):
            trials, others = pool.both(settings, base / f"both{number}")
            wall_s = sum(trial.wall_s for trial in trials)
            print(row(title, "one run", [trial.error for trial in trials], wall_s, trials))
            errors, walls = zip(*others, strict=True)
            print(row("", "original", errors, sum(walls)), flush=True)
        print(f"\n{'way':<20} {'verdict':<10} {'error %':>8} {'method':<7} {'start-up':>8} {'wall':>6}")
        for way in (*books.HONEST, *books.CHEATS):
            print(way_row(way, pool.way(way, base / way)), flush=True)
    print(f"load after {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
