"""Facts of runs -> reason codes; see `reasons` for what each means."""

import signal
from collections.abc import Mapping, Sequence
from statistics import fmean

from morocco_lib.analysis.run_files import Run
from morocco_lib.reasons import DISTURBANCES, DISTURBED, INVALID, VALID, Reason, verdict

THROTTLED_SHARE = 0.01  # of the samples of a GPU; above it the run is disturbed
LONGEST_GAP_S = 1.0  # between two samples; above it the run is disturbed
GAPS_SHARE, GAPS_S = 0.1, 0.5  # of the time sampled, in gaps; so are both together
# Other signals are ordinary ways to end a worker.
CRASHES = {signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
OTHERS_SHARE, OTHERS_S = 0.5, 0.5  # of the time of all cores, and CPU seconds; above both the run is disturbed
OTHERS_SHARE_FULL, FULL_SHARE = 0.2, 0.05  # as is above the first with less idle than the second
OTHERS_CORES, OTHERS_SHARE_SHARED = 0.5, 0.1  # so it is, too, above both: half a core of many is little
RAY_CORES = 0.01  # of Ray's own processes; above it a run has a remark
OTHER_SAMPLES = 2  # a process of the run may end between being listed by the GPU and being looked up
DRIFT_RUNS = 5  # fewer do not separate a trend from chance
DRIFT_SHARE, DRIFT_CHANCE = 0.05, 0.002  # of the mean speed, from the first run to the last; of equal runs

RULE_REASONS = {
    "broken-line": Reason.BROKEN_LINE,
    "idx": Reason.WRONG_IDX,
    "unknown-idx": Reason.UNKNOWN_IDX,
    "duplicate-idx": Reason.DUPLICATE_IDX,
    "missing-idx": Reason.MISSING_IDX,
    "label": Reason.WRONG_LABEL,
    "number": Reason.WRONG_LABEL,
}


def run_reasons(run: Run, problems: Mapping[str, int]) -> list[Reason]:
    """Return every reason against one run, notes included.

    Args:
        problems: How often each rule of predictions is broken.
    """
    facts = run.facts
    return [
        *exit_reasons(facts["exit"]),
        *proof_reasons(facts),
        *stream_reasons(facts),
        *log_reasons(run.truncated),
        *worker_reasons(facts),
        *sampler_reasons(facts["sampler"]),
        *machine_reasons(facts["others"]),
        *clock_reasons(facts["clock"]),
        *gpu_reasons(facts["gpu"]),
        *answer_reasons(problems),
    ]


def exit_reasons(exit_facts: dict) -> list[Reason]:
    """Return reasons from how a run ended; `exit_facts` is "exit" of run.json."""
    reasons = []
    if exit_facts["oom_killed"]:
        reasons.append(Reason.OUT_OF_MEMORY)
    if exit_facts["timed_out"]:
        reasons.append(Reason.TIMEOUT)
    elif exit_facts["signal"] is not None:
        reasons.append(Reason.KILLED)
    elif exit_facts["code"] != 0:
        reasons.append(Reason.NON_ZERO_EXIT)
    if exit_facts["left_pids"]:
        reasons.append(Reason.LEFT_PROCESSES)
    if exit_facts["pids_refused"]:
        reasons.append(Reason.PIDS_REFUSED)
    return reasons


def proof_reasons(facts: dict) -> list[Reason]:
    """Return UNPROVEN unless the runner kept what it promises; `facts` is run.json, older ones lack `proven`."""
    proven = facts.get("proven", {"memory": True, "isolation": True})
    kept = proven["memory"] and (proven["isolation"] or facts["runner"] == "process")  # which promises no isolation
    return [] if kept else [Reason.UNPROVEN]


def failure_reasons(run: Run) -> list[Reason]:
    """Return the reasons, without notes, that make a run of any stage invalid."""
    reasons = exit_reasons(run.facts["exit"]) + stream_reasons(run.facts) + log_reasons(run.truncated)
    return [r for r in reasons if verdict([r]) == INVALID]


def ended_well(run: Run) -> bool:
    """Tell whether nothing but notes comes of how a run ended."""
    return verdict(exit_reasons(run.facts["exit"])) == VALID


def stream_reasons(facts: dict) -> list[Reason]:
    """Return reasons from what was fed and printed; `facts` is run.json."""
    if facts["stdout_cut"]:
        return [Reason.STDOUT_FLOODED]
    says_enough = verdict(exit_reasons(facts["exit"])) == INVALID
    return [] if facts["all_fed"] or says_enough else [Reason.INPUT_NOT_READ]


def clock_reasons(clock: dict) -> list[Reason]:
    """Return reasons from what happened to the clocks; `clock` is that of run.json."""
    events = [(Reason.CLOCK_TROUBLE, clock["wall_moved_s"]), (Reason.MACHINE_SLEPT, clock["slept_s"])]
    return [reason for reason, seconds in events if seconds]


def sampler_reasons(sampler: dict) -> list[Reason]:
    """Return reasons from gaps between samples; `sampler` is that of run.json, which older ones lack `gaps_s` in."""
    longest_s, gaps_s = sampler["longest_gap_s"] or 0.0, sampler.get("gaps_s") or 0.0
    often = gaps_s > GAPS_S and gaps_s > GAPS_SHARE * sampler["watched_s"]
    return [Reason.SAMPLER_GAPS] if often or longest_s > LONGEST_GAP_S or "failed" in sampler else []


def worker_reasons(facts: dict) -> list[Reason]:
    """Return WORKER_KILLED if a process crashed or was killed before the last answer; `facts` is run.json.

    Limits: a program that a signal ended as a whole is left to `exit_reasons`.
    """
    last_s = facts["phases"]["last_answer_s"] or 0.0
    crashed = [
        ended
        for ended in facts.get("ended_processes", [])
        if ended["signal"] in CRASHES and ended["signal"] != facts["exit"]["signal"] and ended["t_ns"] / 1e9 < last_s
    ]
    return [Reason.WORKER_KILLED] if crashed else []


def disturbances(run: Run) -> list[Reason]:
    """Return how the machine disturbed a run, whatever its predictions are worth; nothing of a run that is invalid."""
    reasons = run_reasons(run, {})
    return [r for r in reasons if r in DISTURBANCES] if verdict(reasons) == DISTURBED else []


def machine_reasons(others: dict | str) -> list[Reason]:
    """Return reasons from other processes' load; `others` is that of run.json, a reason code where it is unknown."""
    if isinstance(others, str):
        return []
    ray = [Reason.RAY_BUSY] if others.get("ray_cores", 0.0) > RAY_CORES else []
    return ray + (load_reasons(others) if others["cpu_s"] >= OTHERS_S else [])


def load_reasons(others: dict) -> list[Reason]:
    """Return reasons from the cores that other processes keep busy, for however short a time."""
    share = others["cores"] / others["of_cores"]
    full = others["idle_share"] is not None and others["idle_share"] < FULL_SHARE
    if share > OTHERS_SHARE or (full and share > OTHERS_SHARE_FULL):
        return [Reason.BUSY_MACHINE]
    shared = others["cores"] > OTHERS_CORES and share > OTHERS_SHARE_SHARED
    return [Reason.SHARED_MACHINE] if shared else []


def gpu_reasons(gpu: dict | str) -> list[Reason]:
    """Return reasons from the GPUs that a run used; `gpu` is that of run.json, a reason code where there is none.

    Where it is unknown which it used, any lost or throttled one counts.
    """
    if isinstance(gpu, str):
        return []
    used = [device for device in gpu["devices"] if device["used_by_run"]]
    others = [other for device in used for other in device["others"] if other["samples"] >= OTHER_SAMPLES]
    concerned = used or (gpu["devices"] if gpu["pids_hidden"] else [])
    slowed = [d for d in concerned if d["slowed_samples"] > THROTTLED_SHARE * d["state_samples"]]
    events = [
        (Reason.GPU_LOST, any(device["lost"] for device in used or gpu["devices"])),
        (Reason.GPU_THROTTLED, slowed),
        (Reason.OTHER_GPU_PROCESS, any(not other["graphics_only"] for other in others)),
        (Reason.DISPLAY_ON_GPU, any(other["graphics_only"] for other in others)),
    ]
    return [reason for reason, happened in events if happened]


def log_reasons(truncated: bool) -> list[Reason]:
    """Return LOG_TRUNCATED unless the files of a run hold all that was written to them."""
    return [Reason.LOG_TRUNCATED] if truncated else []


def drift_reasons(speeds: Sequence[float]) -> list[Reason]:
    """Return DRIFT if speeds, in the order of their runs, rise or fall along a line by more than chance and DRIFT_SHARE.

    Limits: fewer than five runs do not separate a trend from chance.
    """
    if len(speeds) < DRIFT_RUNS:
        return []
    from scipy.stats import linregress

    trend = linregress(range(len(speeds)), speeds)
    share = abs(trend.slope) * (len(speeds) - 1) / fmean(speeds)
    return [Reason.DRIFT] if share > DRIFT_SHARE and trend.pvalue < DRIFT_CHANCE else []


def answer_reasons(counts: Mapping[str, int]) -> list[Reason]:
    """Return reasons from the check of predictions; `counts` is problems by rule."""
    return [RULE_REASONS[rule] for rule in RULE_REASONS if counts.get(rule)]
