"""Reason codes: why a result is INVALID or DISTURBED, what to note about a valid one, why a number is null.

The way of a code: `benchmark.run` records a fact of a run, such as an exit code, in run.json. `analysis.validity` judges
the facts and gives the codes of a run; the estimates beside it (throughput, startup, memory, gpu) give a code where they
have no number. `analysis.summary` collects them into bench.json and takes the verdict. `formatting.reason_lines` shows
them on a terminal and in a notebook, `report` on the page.
"""

from collections.abc import Iterable
from enum import StrEnum

VALID, INVALID, DISTURBED = "VALID", "INVALID", "DISTURBED"
EXIT_CODES = {VALID: 0, INVALID: 1, DISTURBED: 3}


class Reason(StrEnum):
    """Why a run is invalid or disturbed, what to note about a valid one, or why a number is null; each with its meaning.

    `kind` is the verdict on a run with this reason alone; VALID: a note.
    """

    def __new__(cls, code: str, meaning: str, kind: str = INVALID) -> "Reason":
        reason = str.__new__(cls, code)
        reason._value_, reason.meaning, reason.kind = code, meaning, kind
        return reason

    # fmt: off
    # the program
    NON_ZERO_EXIT = "NON_ZERO_EXIT", "the program ended with an exit code other than 0"
    KILLED = "KILLED", "a signal ended the program"
    OUT_OF_MEMORY = "OUT_OF_MEMORY", "out of memory: the kernel killed a process of the run"
    TIMEOUT = "TIMEOUT", "the program did not end within the time limit and was killed"
    LEFT_PROCESSES = "LEFT_PROCESSES", "processes outlived the program and were killed", VALID
    UNPROVEN = "UNPROVEN", "memory and isolation are unproven: the run had no cgroup of its own, a process left it, or a mount may be written", VALID
    PIDS_REFUSED = "PIDS_REFUSED", "new processes were refused: the limit on processes and threads was reached", VALID
    RAY_BUSY = "RAY_BUSY", "Ray's own processes took more than 1 % of a core beside a run", VALID
    WORKER_KILLED = "WORKER_KILLED", "a process of the run was killed or crashed before the last answer, though the program went on"
    INPUT_NOT_READ = "INPUT_NOT_READ", "the program exited with 0 without reading all records: its answers cannot depend on them"
    STDOUT_FLOODED = "STDOUT_FLOODED", "the program printed far more than answers can take, and was killed"
    # its answers
    BROKEN_LINE = "BROKEN_LINE", "a line of stdout is not one JSON object in UTF-8"
    WRONG_IDX = "WRONG_IDX", "an answer's idx is absent or of the wrong type"
    UNKNOWN_IDX = "UNKNOWN_IDX", "an answer's idx is not one of the input"
    DUPLICATE_IDX = "DUPLICATE_IDX", "a record was answered twice"
    MISSING_IDX = "MISSING_IDX", "a record was not answered"
    WRONG_LABEL = "WRONG_LABEL", "an answer is not one of the task's labels"
    EVAL_FLIPS = "EVAL_FLIPS", "more than 1 % of the records got another answer in the eval step than in the timed runs"
    FLIPS = "FLIPS", "more than 0.1 % of repeated records got another answer than the first time", VALID
    # the measurement
    SINGLE_RUN = "SINGLE_RUN", "one run only: the interval is of this run, not between runs", VALID
    ANSWERS_HELD_BACK = (
        "ANSWERS_HELD_BACK",
        "most answers were computed before the first was printed; "
        "speed is measured from the first record fed to the last answer",
        VALID,
    )
    CACHED_ANSWERS = "CACHED_ANSWERS", "records of the file are answered faster than new ones: the program knew them, from earlier runs or before"
    WORK_SKIPPED = "WORK_SKIPPED", "new records, which are not scored, are answered faster than those of the file: not all are worked on"
    TEXTS_REPEAT = (
        "TEXTS_REPEAT", "records were fed several times, as this task cannot recombine them: a cache of answers would be part of the speed", VALID
    )
    CLOCK_TROUBLE = (
        "CLOCK_TROUBLE", "the wall clock was set during a run: its dates may be wrong, its durations come from a monotonic clock", DISTURBED
    )
    MACHINE_SLEPT = "MACHINE_SLEPT", "the machine was suspended during a run", DISTURBED
    SAMPLER_GAPS = "SAMPLER_GAPS", "memory and CPU were not sampled for over a second at a time, or a tenth of a run", DISTURBED
    BUSY_MACHINE = "BUSY_MACHINE", "other processes took more than half of the machine's CPU time, or a fifth while no core was idle", DISTURBED
    SHARED_MACHINE = "SHARED_MACHINE", "other processes kept more than half a core, and a tenth of the machine, busy", DISTURBED
    MACHINE_NOT_TOLD = "MACHINE_NOT_TOLD", "the CPU use of all processes cannot be read on this machine"
    NO_VALID_RUN = "NO_VALID_RUN", "no run was valid"
    NO_STREAM = "NO_STREAM", "answers came in too few arrivals or too short a time to compute a speed; feed more records or print the ready line"
    NO_READINESS = "NO_READINESS", "the program prints no ready line, and its answers do not show when it was ready"
    NO_CGROUP = "NO_CGROUP", "no cgroup could be created for the run (see `morocco doctor`)"
    NO_SAMPLES = "NO_SAMPLES", "the run ended before it could be sampled"
    LOG_TRUNCATED = "LOG_TRUNCATED", "a file of a run holds less than was written to it"
    WORK_NOT_SEEN = (
        "WORK_NOT_SEEN",
        "from the first record fed to the last answer a run took longer than the stream of its answers explains; "
        "speed is measured over runs of different sizes",
        VALID,
    )
    TIMES_DISAGREE = (
        "TIMES_DISAGREE",
        "runs of different sizes, or the stream of answers, give different speeds: time does not grow with the records",
    )
    NO_PAIRS = "NO_PAIRS", "no pair of a short and a longer run that both started warm"  # of version 0.3
    NO_TIME_LEFT = "NO_TIME_LEFT", "the runs took no longer than ones of fewer records; feed more records"
    QUICK = "QUICK", "measured with --quick: no check of the contract, of hidden work or of a cache, no cold starts", VALID
    TWO_START_UPS = "TWO_START_UPS", "start-ups fall into two groups, as when some are cold; the value is the median, its interval the range", VALID
    DRIFT = "DRIFT", "speed rose or fell by more than 5 % from the first run to the last", DISTURBED
    BATCH_FLIPS = "BATCH_FLIPS", "more than 0.1 % of records got another answer than at the sweep's first batch size", VALID
    CONTRACT_BROKEN = "CONTRACT_BROKEN", "the program breaks the contract; `morocco check` shows how", VALID
    NOT_ASKED = "NOT_ASKED", "not measured with these options"
    CACHES_KEPT = "CACHES_KEPT", "file caches cannot be dropped here: that requires root"
    NO_GOLD = "NO_GOLD", "the records have no labels"
    NO_GPU = "NO_GPU", "this machine has no NVIDIA GPU"
    GPU_NOT_SAMPLED = "GPU_NOT_SAMPLED", "there is a GPU, but it could not be sampled"
    GPU_NOT_TOLD = "GPU_NOT_TOLD", "the GPU or its driver does not report this"
    GPU_NOT_USED = "GPU_NOT_USED", "no process of the run used a GPU"
    GPU_PIDS_HIDDEN = "GPU_PIDS_HIDDEN", "processes on a GPU could not be matched to the run"
    NO_GPU_PERMISSION = "NO_GPU_PERMISSION", "this user has no permission to read this from the GPU"
    GPU_LOST = "GPU_LOST", "a GPU stopped answering during the run", DISTURBED
    GPU_THROTTLED = "GPU_THROTTLED", "heat or the hardware slowed a GPU in more than 1 % of the samples", DISTURBED
    OTHER_GPU_PROCESS = "OTHER_GPU_PROCESS", "another process computed on the run's GPU", DISTURBED
    DISPLAY_ON_GPU = "DISPLAY_ON_GPU", "another process, such as a desktop, used the run's GPU for graphics", VALID
    NO_ENERGY_COUNTER = "NO_ENERGY_COUNTER", "no energy counter can be read here"
    BELOW_RESOLUTION = "BELOW_RESOLUTION", "the answers came in too short a time for the resolution of the energy counter"
    # fmt: on


MEANING = {reason: reason.meaning for reason in Reason}
NOTES = {reason for reason in Reason if reason.kind == VALID}
# What the machine did, not the program: what depends on time was not measured well, everything else stays.
DISTURBANCES = {reason for reason in Reason if reason.kind == DISTURBED}


def verdict(reasons: Iterable[Reason]) -> str:
    """Return INVALID if a reason speaks against the program, else DISTURBED if one is a disturbance, else VALID."""
    found = set(reasons) - NOTES
    return INVALID if found - DISTURBANCES else DISTURBED if found else VALID
