"""How a plan spreads over machines that are taken away, simulated: python benchmarks/cluster.py

10,000 cells of three steps (train, bench, eval; lognormal around 10, 5 and 1 minutes), dealt out as `--executor ray` does it: parts of
whole tasks, first come first served. A machine is taken away after two hours on average (exponential) and is back ten
minutes later; the step it was at is lost, its part goes on elsewhere with what was finished. Of each number of machines:

    bound     the least time possible: all work shared evenly, or the longest part
    makespan  how long it took, as a multiple of that, where no machine is taken away and where they are
    lost      share of the machines' work that was done twice
    moved     share of parts that were measured on more than one machine, whose speeds the report joins by an anchor alone
"""

import argparse
import heapq
import random
from statistics import median

MINUTES = {"train": 10.0, "bench": 5.0, "eval": 1.0}
SPREAD = 0.5  # of the logarithm
UP_MIN, AWAY_MIN = 120.0, 10.0
CELLS = 10_000
MACHINES = (1, 4, 16, 64, 256)


def drawn(tasks: int, rng: random.Random) -> list[list[float]]:
    """Return the minutes of each step of each part."""
    steps = len(MINUTES) * CELLS // tasks
    means = [*MINUTES.values()] * (steps // len(MINUTES))
    return [[mean * rng.lognormvariate(-(SPREAD**2) / 2, SPREAD) for mean in means] for _ in range(tasks)]


def simulated(parts: list[list[float]], machines: int, up_min: float, rng: random.Random) -> tuple[float, float, float]:
    """Return the minutes until all parts are done, those that were lost, and the share of parts that moved."""
    free = [(0.0, number, rng.expovariate(1 / up_min)) for number in range(machines)]  # since when, which, until when
    waiting = [(0.0, number, 0) for number in range(len(parts))]  # since when, which, steps done
    heapq.heapify(free)
    heapq.heapify(waiting)
    lost, moved, over = 0.0, set(), 0.0
    while waiting:
        since, part, done = heapq.heappop(waiting)
        now, machine, until = heapq.heappop(free)
        now = max(now, since)
        while until < now:  # taken away while it had nothing to do
            back = until + AWAY_MIN
            now, until = max(now, back), back + rng.expovariate(1 / up_min)
        steps = parts[part]
        while done < len(steps) and now + steps[done] <= until:
            now, done = now + steps[done], done + 1
        if done == len(steps):
            over = max(over, now)
            heapq.heappush(free, (now, machine, until))
            continue
        lost += until - now
        if done:
            moved.add(part)
        heapq.heappush(waiting, (until, part, done))
        back = until + AWAY_MIN
        heapq.heappush(free, (back, machine, back + rng.expovariate(1 / up_min)))
    return over, lost, len(moved) / len(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[100, 1000], help="each with 10,000 cells by so many")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    print("| tasks | machines | bound, h | makespan, none taken away | makespan | lost | moved |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for tasks in args.tasks:
        for machines in MACHINES:
            rows = []
            for seed in range(args.seeds):
                parts = drawn(tasks, random.Random(seed))
                work, longest = sum(map(sum, parts)), max(map(sum, parts))
                bound = max(work / machines, longest)
                ideal, _, _ = simulated(parts, machines, 1e12, random.Random(seed))
                over, lost, moved = simulated(parts, machines, UP_MIN, random.Random(seed))
                rows.append((bound / 60, ideal / bound, over / bound, lost / (work + lost), moved))
            bound, ideal, over, lost, moved = (median(column) for column in zip(*rows, strict=True))
            print(f"| {tasks} | {machines} | {bound:.1f} | {ideal:.2f} | {over:.2f} | {lost:.1%} | {moved:.0%} |")


if __name__ == "__main__":
    main()
