"""Reason codes: why a result is INVALID, what to note about a valid one, why a number is null."""

from collections.abc import Iterable
from enum import StrEnum


class Reason(StrEnum):
    """Why a run is invalid, what to note about a valid one, or why a number was not measured."""

    # the program
    NON_ZERO_EXIT = "NON_ZERO_EXIT"
    KILLED = "KILLED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    LEFT_PROCESSES = "LEFT_PROCESSES"
    PIDS_REFUSED = "PIDS_REFUSED"
    WORKER_KILLED = "WORKER_KILLED"
    INPUT_NOT_READ = "INPUT_NOT_READ"
    STDOUT_FLOODED = "STDOUT_FLOODED"
    # its answers
    BROKEN_LINE = "BROKEN_LINE"
    WRONG_IDX = "WRONG_IDX"
    UNKNOWN_IDX = "UNKNOWN_IDX"
    DUPLICATE_IDX = "DUPLICATE_IDX"
    MISSING_IDX = "MISSING_IDX"
    WRONG_LABEL = "WRONG_LABEL"
    FLIPS = "FLIPS"
    # the measurement
    SINGLE_RUN = "SINGLE_RUN"
    ANSWERS_HELD_BACK = "ANSWERS_HELD_BACK"
    CACHED_ANSWERS = "CACHED_ANSWERS"
    CLOCK_TROUBLE = "CLOCK_TROUBLE"
    MACHINE_SLEPT = "MACHINE_SLEPT"
    SAMPLER_GAPS = "SAMPLER_GAPS"
    BUSY_MACHINE = "BUSY_MACHINE"
    SHARED_MACHINE = "SHARED_MACHINE"
    MACHINE_NOT_TOLD = "MACHINE_NOT_TOLD"
    NO_VALID_RUN = "NO_VALID_RUN"
    NO_STREAM = "NO_STREAM"
    NO_READINESS = "NO_READINESS"
    NO_CGROUP = "NO_CGROUP"
    NO_SAMPLES = "NO_SAMPLES"
    LOG_TRUNCATED = "LOG_TRUNCATED"
    WORK_NOT_SEEN = "WORK_NOT_SEEN"
    NO_PAIRS = "NO_PAIRS"
    NO_TIME_LEFT = "NO_TIME_LEFT"
    TWO_START_UPS = "TWO_START_UPS"
    DRIFT = "DRIFT"
    BATCH_FLIPS = "BATCH_FLIPS"
    CONTRACT_BROKEN = "CONTRACT_BROKEN"
    NOT_ASKED = "NOT_ASKED"
    CACHES_KEPT = "CACHES_KEPT"
    NO_GOLD = "NO_GOLD"
    NO_GPU = "NO_GPU"
    GPU_NOT_SAMPLED = "GPU_NOT_SAMPLED"
    GPU_NOT_TOLD = "GPU_NOT_TOLD"
    GPU_NOT_USED = "GPU_NOT_USED"
    GPU_PIDS_HIDDEN = "GPU_PIDS_HIDDEN"
    NO_GPU_PERMISSION = "NO_GPU_PERMISSION"
    GPU_LOST = "GPU_LOST"
    GPU_THROTTLED = "GPU_THROTTLED"
    OTHER_GPU_PROCESS = "OTHER_GPU_PROCESS"
    DISPLAY_ON_GPU = "DISPLAY_ON_GPU"
    NO_ENERGY_COUNTER = "NO_ENERGY_COUNTER"
    BELOW_RESOLUTION = "BELOW_RESOLUTION"


MEANING = {
    Reason.NON_ZERO_EXIT: "the program ended with an exit code other than 0",
    Reason.KILLED: "a signal ended the program",
    Reason.OUT_OF_MEMORY: "out of memory: the kernel killed a process of the run",
    Reason.TIMEOUT: "the program did not end within the time limit and was killed",
    Reason.LEFT_PROCESSES: "processes outlived the program and were killed",
    Reason.PIDS_REFUSED: "new processes were refused: the limit on processes and threads was reached",
    Reason.WORKER_KILLED: "a process of the run was killed or crashed before the last answer, though the program went on",
    Reason.INPUT_NOT_READ: "the program exited with 0 without reading all records: its answers cannot depend on them",
    Reason.STDOUT_FLOODED: "the program printed far more than answers can take, and was killed",
    Reason.BROKEN_LINE: "a line of stdout is not one JSON object in UTF-8",
    Reason.WRONG_IDX: "an answer's idx is absent or of the wrong type",
    Reason.UNKNOWN_IDX: "an answer's idx is not one of the input",
    Reason.DUPLICATE_IDX: "a record was answered twice",
    Reason.MISSING_IDX: "a record was not answered",
    Reason.WRONG_LABEL: "an answer is not one of the task's labels",
    Reason.FLIPS: "more than 0.1 % of repeated records got another answer than the first time",
    Reason.SINGLE_RUN: "one run only: the interval is of this run, not between runs",
    Reason.ANSWERS_HELD_BACK: "most answers were computed before the first was printed; speed is measured from readiness to the last answer",
    Reason.CACHED_ANSWERS: "repeated texts are answered faster than new ones: the program caches answers",
    Reason.CLOCK_TROUBLE: "the wall clock was set during a run: its dates may be wrong, its durations come from a monotonic clock",
    Reason.MACHINE_SLEPT: "the machine was suspended during a run",
    Reason.SAMPLER_GAPS: "memory and CPU were not sampled for over a second at a time, or a tenth of a run",
    Reason.BUSY_MACHINE: "other processes took more than half of the machine's CPU time, or a fifth while no core was idle",
    Reason.SHARED_MACHINE: "other processes kept more than half a core busy",
    Reason.MACHINE_NOT_TOLD: "the CPU use of all processes cannot be read on this machine",
    Reason.NO_VALID_RUN: "no run was valid",
    Reason.NO_STREAM: "answers came in too few arrivals or too short a time to compute a speed; feed more records or print the ready line",
    Reason.NO_READINESS: "the program prints no ready line, and its answers do not show when it was ready",
    Reason.NO_CGROUP: "no cgroup could be created for the run (see `morocco doctor`)",
    Reason.NO_SAMPLES: "the run ended before it could be sampled",
    Reason.LOG_TRUNCATED: "a file of a run holds less than was written to it",
    Reason.WORK_NOT_SEEN: "compared with a short run, a run took longer than its answers explain: work was done before readiness or the first answer",
    Reason.NO_PAIRS: "no pair of a short and a longer run that both started warm",
    Reason.NO_TIME_LEFT: "the runs took no longer than short ones; feed more records",
    Reason.TWO_START_UPS: "start-ups fall into two groups, as when some are cold; the value is the median, its interval the range",
    Reason.BATCH_FLIPS: "more than 0.1 % of records got another answer than at the sweep's first batch size",
    Reason.DRIFT: "speed rose or fell by more than 5 % from the first run to the last",
    Reason.CONTRACT_BROKEN: "the program breaks the contract; `morocco check` shows how",
    Reason.NOT_ASKED: "not measured with these options",
    Reason.CACHES_KEPT: "file caches cannot be dropped here: that requires root",
    Reason.NO_GOLD: "the records have no labels",
    Reason.NO_GPU: "this machine has no NVIDIA GPU",
    Reason.GPU_NOT_SAMPLED: "there is a GPU, but it could not be sampled",
    Reason.GPU_NOT_TOLD: "the GPU or its driver does not report this",
    Reason.GPU_NOT_USED: "no process of the run used a GPU",
    Reason.GPU_PIDS_HIDDEN: "processes on a GPU could not be matched to the run",
    Reason.NO_GPU_PERMISSION: "this user has no permission to read this from the GPU",
    Reason.GPU_LOST: "a GPU stopped answering during the run",
    Reason.GPU_THROTTLED: "heat or the hardware slowed a GPU in more than 1 % of the samples",
    Reason.OTHER_GPU_PROCESS: "another process computed on the run's GPU",
    Reason.DISPLAY_ON_GPU: "another process, such as a desktop, used the run's GPU for graphics",
    Reason.NO_ENERGY_COUNTER: "no energy counter can be read here",
    Reason.BELOW_RESOLUTION: "the answers came in too short a time for the resolution of the energy counter",
}

# Notes: the result stays valid.
NOTES = {
    Reason.SINGLE_RUN,
    Reason.FLIPS,
    Reason.ANSWERS_HELD_BACK,
    Reason.WORK_NOT_SEEN,
    Reason.TWO_START_UPS,
    Reason.LEFT_PROCESSES,
    Reason.PIDS_REFUSED,
    Reason.CLOCK_TROUBLE,
    Reason.SHARED_MACHINE,
    Reason.DISPLAY_ON_GPU,
    Reason.CONTRACT_BROKEN,
    Reason.BATCH_FLIPS,
}


def verdict(reasons: Iterable[Reason]) -> str:
    """Return INVALID if any reason is more than a note."""
    return "INVALID" if set(reasons) - NOTES else "VALID"
