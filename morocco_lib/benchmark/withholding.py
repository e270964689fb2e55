"""When a run is fed: once its start-up is over, so that all work lies between the first byte fed and the last answer.

Work on records cannot begin before there are records, whatever a program prints and when.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

PERIOD_S = 0.01
QUIET_S, QUIET_CORES = 0.1, 0.2  # a tree that uses less for so long has nothing left to do but to wait


@dataclass(frozen=True)
class Withholding:
    """What must have happened before the first byte is fed.

    Args:
        most_s: Fed by then in any case; seconds since the start of the program.
        least_s: Not fed before.
        ready: The program has printed its ready line. In any case its processes have used little CPU time for 0.1 s.
    """

    most_s: float
    least_s: float = 0.0
    ready: bool = False

    def wait(
        self,
        started_ns: int,
        is_ready: Callable[[], bool],
        cpu: Callable[[], tuple[int, float] | None],
        ended: threading.Event,
    ) -> float | None:
        """Return when it is time to feed, or the program has ended.

        Args:
            cpu: Gives (time in ns, CPU seconds of the tree so far) of the last sample.
        Returns:
            Seconds from the start to when the tree became quiet; None if it did not.
        """
        recent: deque[tuple[int, float]] = deque()
        quiet_ns = None
        while not ended.wait(PERIOD_S):
            if (latest := cpu()) and (not recent or latest[0] > recent[-1][0]):
                recent.append(latest)
                while len(recent) > 1 and latest[0] - recent[1][0] >= QUIET_S * 1e9:
                    recent.popleft()
                begin_ns, begin_cpu_s = recent[0]
                watched_s = (latest[0] - begin_ns) / 1e9
                busy = watched_s < QUIET_S or latest[1] - begin_cpu_s > QUIET_CORES * watched_s
                quiet_ns = None if busy else quiet_ns or begin_ns
            since_s = (time.monotonic_ns() - started_ns) / 1e9
            told = is_ready() or not self.ready
            quiet = quiet_ns or (not recent and since_s > QUIET_S)  # where CPU time cannot be read
            if since_s >= self.most_s or (since_s >= self.least_s and told and quiet):
                break
        return None if quiet_ns is None else (quiet_ns - started_ns) / 1e9
