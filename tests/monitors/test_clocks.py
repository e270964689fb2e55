"""A wall clock that is set, and a machine that sleeps."""

import time

import pytest

from morocco_lib.monitors import clocks
from morocco_lib.monitors.clocks import Offsets

HOUR_NS = 3600 * 10**9


@pytest.mark.parametrize(
    ("wall_ns", "boot_ns", "elapsed_s", "moved_s", "slept_s"),
    [
        (-HOUR_NS, 0, 10, -3600.0, 0.0),
        (HOUR_NS, HOUR_NS, 10, 0.0, 3600.0),  # asleep: the wall clock has not jumped
        (18 * 10**8, 0, 3600, 0.0, 0.0),  # slewed by 0.05 % of an hour
        (18 * 10**8, 0, 60, 1.8, 0.0),
        (8 * 10**7, 0, 10, 0.08, 0.0),
        (10**8, 0, 45, 0.1, 0.0),  # 0.095 s would be slewing
        (5 * 10**7, 0, 0, 0.0, 0.0),
        (0, 10**7, 60, 0.0, 0.0),  # a reading that was interrupted
        (0, 11 * 10**6, 60, 0.0, 0.011),
    ],
)
def test_jumps_and_sleep_are_told_from_slewing(wall_ns, boot_ns, elapsed_s, moved_s, slept_s):
    before, after = Offsets(10**18, 10**15), Offsets(10**18 + wall_ns, 10**15 + boot_ns)
    found = clocks.compare(before, after, elapsed_s)
    assert found == {"source": "CLOCK_MONOTONIC", "wall_moved_s": pytest.approx(moved_s), "slept_s": slept_s}


def test_a_wall_time_is_mapped_onto_the_monotonic_clock():
    offsets = clocks.read()
    assert min(abs(offsets.to_monotonic(time.time_ns()) - time.monotonic_ns()) for _ in range(9)) < 5_000_000


def test_the_offsets_are_those_of_the_clocks():
    offsets = clocks.read()
    for found_ns, clock in ((offsets.wall_ns, time.CLOCK_REALTIME), (offsets.boot_ns, time.CLOCK_BOOTTIME)):
        apart_ns = (found_ns - time.clock_gettime_ns(clock) + time.monotonic_ns() for _ in range(9))
        assert min(map(abs, apart_ns)) < 5_000_000
