"""The numbers as the original computed them, quirks included, to compare with what it published.

Start-up is the median total time of the single-record runs, whether they read anything or not; speed is what the rest
of a longer run leaves for its records; GPU memory is the median over the single-record runs of the largest reading.
Two rules: `command`, its program's, pools every input size above 1 and counts a run without any reading of the GPU as
0; `table`, its notebook's and README's, takes 2000_32 alone and leaves such runs out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from morocco_lib.errors import UsageError
from morocco_lib.legacy.logs import Log

RULES = ("command", "table")
POINT = (2000, 32)  # input size and batch size of the published table
GIB = 2**30


@dataclass(frozen=True)
class Original:
    """The original's two numbers of a model on a task.

    Attributes:
        gpu_ram: GiB; None: no single-record run has a reading of the GPU.
        rps: Records a second; None: the longer runs took no longer than the single-record runs.
    """

    gpu_ram: float | None
    rps: float | None


def original(logs: Sequence[Log], rule: str) -> Original:
    """Return the numbers of a model on a task under a rule.

    Raises:
        UsageError: no single-record run, or no run of the size that the rule takes.
    """
    single, longer = split(logs)
    if rule == "table":
        longer = [log for log in longer if log.size == POINT]
        if not longer:
            raise UsageError(
                f"no 2000_32 run among {described(logs)}",
                rule="the table takes these alone",
                remedy="give --rule command",
            )
    init_s = median(log.total_s for log in single)
    if rule == "table":  # a median of times: of an even number of runs it differs from a median of speeds
        rps = _ratio(POINT[0], median(log.total_s - init_s for log in longer))
    else:
        rps = median(_ratio(log.input_size, log.total_s - init_s) for log in longer)
    peaks = [log.gpu_ram_bytes for log in single if rule == "command" or log.gpu_ram_bytes is not None]
    gpu_ram = median(peak or 0 for peak in peaks) / GIB if peaks else None
    return Original(gpu_ram, rps if 0 < rps < math.inf else None)


def split(logs: Sequence[Log]) -> tuple[list[Log], list[Log]]:
    """Return (single-record runs, longer runs); raises UsageError if there are none of either."""
    single = [log for log in logs if log.input_size == 1]
    longer = [log for log in logs if log.input_size > 1]
    if not single or not longer:
        missing = "run of more than one record (2000_32_01.jsonl)" if single else "single-record run (1_1_01.jsonl)"
        raise UsageError(
            f"no {missing} among {described(logs)}",
            rule="speed is records over total time less start-up, and start-up is the time of the single-record runs",
            remedy="give all logs of a task",
        )
    return single, longer


def described(logs: Sequence[Log]) -> str:
    return f"{len(logs)} log{'' if len(logs) == 1 else 's'} of {logs[0].model} on {logs[0].task}"


def _ratio(records: int, seconds: float) -> float:
    return records / seconds if seconds else math.inf
