"""When a run is fed: once its start-up is over, so that all work lies between the first byte fed and the last answer.

Work on records cannot begin before there are records, whatever a program prints and when.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from morocco_lib.monitors.gpu_sampler import UTILISATION_WINDOW_S

PERIOD_S = 0.01
QUIET_S, QUIET_CORES = 0.1, 0.2  # a tree that uses less for so long has nothing left to do but to wait
GPU_QUIET_S = UTILISATION_WINDOW_S[1]  # what NVML reports is a mean over so long


@dataclass(frozen=True)
class Withholding:
    """What must have happened before the first byte is fed.

    Args:
        most_s: Fed by then in any case; seconds since the start of the program.
        least_s: Not fed before.
        ready: The program has printed its ready line. In any case its processes have used little CPU time for 0.1 s, and
            the GPUs that they use have done little for 1 s.
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
        gpus: Callable[[], int | None] = lambda: None,
    ) -> float | None:
        """Return when it is time to feed, or the program has ended.

        Args:
            cpu: Gives (time in ns, CPU seconds of the tree so far) of the last sample.
            gpus: Gives the time in ns since when the GPUs that it uses are quiet, None where it uses none.
        Returns:
            Seconds from the start to when the tree and its GPUs became quiet; None if they did not.
        """
        recent: deque[tuple[int, float]] = deque()
        quiet_ns, gpus_ns, at_work = None, None, False
        while not ended.wait(PERIOD_S):
            if (latest := cpu()) and (not recent or latest[0] > recent[-1][0]):
                recent.append(latest)
                while len(recent) > 1 and latest[0] - recent[1][0] >= QUIET_S * 1e9:
                    recent.popleft()
                begin_ns, begin_cpu_s = recent[0]
                watched_s = (latest[0] - begin_ns) / 1e9
                busy = watched_s < QUIET_S or latest[1] - begin_cpu_s > QUIET_CORES * watched_s
                quiet_ns = None if busy else quiet_ns or begin_ns
            now_ns, gpus_ns = time.monotonic_ns(), gpus()
            since_s = (now_ns - started_ns) / 1e9
            told = is_ready() or not self.ready
            quiet = quiet_ns or (not recent and since_s > QUIET_S)  # where CPU time cannot be read
            at_work = gpus_ns is not None and now_ns - gpus_ns < GPU_QUIET_S * 1e9
            if since_s >= self.most_s or (since_s >= self.least_s and told and quiet and not at_work):
                break
        if quiet_ns is None or at_work:
            return None
        return (max(quiet_ns, gpus_ns or 0) - started_ns) / 1e9
