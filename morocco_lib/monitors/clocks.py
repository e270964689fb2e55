"""Whether the wall clock was set, or the machine slept, while the monotonic clock measured."""

import time
from dataclasses import dataclass

MOVED_S, MOVED_SHARE = 0.05, 0.001  # time synchronisation slews by 0.05 % at most; more than that is a jump
SLEPT_S = 0.01


@dataclass(frozen=True)
class Offsets:
    """Nanoseconds by which the wall clock and the clock that counts sleep are ahead of the monotonic one."""

    wall_ns: int
    boot_ns: int

    def to_monotonic(self, wall_ns: int) -> int:
        """Return the monotonic time of a wall time."""
        return wall_ns - self.wall_ns


def read() -> Offsets:
    """Return the offsets now, from the quickest of five readings (one that was interrupted is off by the pause)."""
    readings = []
    for _ in range(5):
        before = time.monotonic_ns()
        wall, boot = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        after = time.monotonic_ns()
        middle = (before + after) // 2
        readings.append((after - before, Offsets(wall - middle, boot - middle)))
    return min(readings, key=lambda reading: reading[0])[1]


def compare(before: Offsets, after: Offsets, elapsed_s: float) -> dict:
    """Return what `run.json` keeps of the clock; a wall clock that was slewed as usual has not moved."""
    moved = (after.wall_ns - after.boot_ns - before.wall_ns + before.boot_ns) / 1e9  # sleep is no jump
    slept = (after.boot_ns - before.boot_ns) / 1e9
    return {
        "source": "CLOCK_MONOTONIC",
        "wall_moved_s": moved if abs(moved) > MOVED_S + MOVED_SHARE * elapsed_s else 0.0,
        "slept_s": slept if slept > SLEPT_S else 0.0,
    }
