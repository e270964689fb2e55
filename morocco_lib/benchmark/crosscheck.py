"""What a step folder records twice must agree: clocks with clocks, streams with their counts, runs with their step.

Digests can be made anew by whoever changes a file; then what else tells of the same moment, byte or setting has to be
changed as well, down to the rates that are the kit's own. Docs: evidence.md, "What can be forged?".
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

from morocco_lib import fileio, foreign
from morocco_lib.analysis.run_files import Run, read_run, run_folders
from morocco_lib.analysis.summary import LEAST_REPEATS, PROTOCOL, STAGES
from morocco_lib.analysis.throughput import balanced
from morocco_lib.analysis.validity import ended_well
from morocco_lib.benchmark.protocol import SINGLE_RECORD
from morocco_lib.benchmark.withholding import QUIET_S
from morocco_lib.monitors.periodic import PERIOD_S, steadiness
from morocco_lib.monitors.processes import MAX_KEPT
from morocco_lib.runners.contract import events_in
from morocco_lib.runners.process import DRAIN_S

# By which a busy machine may delay what follows at once, and a sample that is taken then; beside the longest pause of the
# sampler, which shows how long everything stood still.
LATE_S, SAMPLE_LATE_S = 0.5, 0.1
READ_LATE_S = 0.1  # by which the last counters of a container are older than its last sample
WALL_S = 1.0  # by which a wall clock may be slewed or set, unnoticed, while a step lasts


def contradictions(folder: Path, status: Mapping[str, Any]) -> list[str]:
    """Return what the files of a bench or an eval step say against each other; nothing of honest ones, however busy the machine.

    Raises what a missing or broken file raises.
    """
    stages = {".": [read_run(f) for f in run_folders(folder)]}
    stages |= {s: [read_run(p.parent) for p in sorted(folder.glob(f"{s}/runs/[0-9]*/run.json"))] for s in STAGES}
    looks = _phases, _stream, _events, _samples, _cpu, _clocks
    found = [
        f"{run.folder.relative_to(folder)}: {text}"
        for stage, runs in stages.items()
        for run in runs
        for text in chain(*(look(run) for look in looks), _of_its_step(run, stage, status))
    ]
    return [*found, *_one_after_the_other(list(chain(*stages.values())), status), *_protocol(folder, stages, status)]


# -- one run -------------------------------------------------------------------------------------------------------
def _ordered(moments: Mapping[str, float | None], late_s: float = 0.0) -> Iterator[str]:
    known = [(name, t_s) for name, t_s in moments.items() if t_s is not None]
    for (one, before), (other, after) in pairwise(known):
        if before > after + late_s:
            yield f"{one} at {before:.3f} s is after {other} at {after:.3f} s"


def _phases(run: Run) -> Iterator[str]:
    phases, late_s = run.facts["phases"], _late_s(run)
    for names in (
        ("first_write_s", "first_read_s"),
        ("first_write_s", "stdin_closed_s"),
        ("first_answer_s", "last_answer_s"),
    ):
        yield from _ordered({name: phases.get(name) for name in ("start_s", *names)})
    yield from _ordered({name: phases.get(name) for name in ("start_s", "engine_start_s", "exit_s")}, late_s)
    withheld, fed_s = run.facts.get("withheld") or {}, run.fed_s
    if withheld.get("quiet_s") is not None and fed_s is not None and fed_s < withheld["quiet_s"] + QUIET_S:
        yield f"fed at {fed_s:.3f} s, less than {QUIET_S} s after it became quiet at {withheld['quiet_s']:.3f} s"
    if withheld and fed_s is not None and fed_s < phases["exit_s"]:
        yield from _ordered(
            {"least_s": withheld["least_s"], "first_write_s": fed_s, "most_s": withheld["most_s"]}, late_s
        )
    ends_s = _ends_s(run)
    if 0 < len(ends_s) < MAX_KEPT and min(abs(t_s - phases["exit_s"]) for t_s in ends_s) > late_s:
        yield f"exit_s is {phases['exit_s']:.3f}, and no process ended then"


def _late_s(run: Run) -> float:
    return LATE_S + (run.facts["sampler"]["longest_gap_s"] or 0.0)


def _ends_s(run: Run) -> list[float]:
    return [one["t_ns"] / 1e9 for one in run.facts.get("ended_processes", [])]


def _lived_s(run: Run) -> float:
    """Return until when something of a run may have happened."""
    drain_s = DRAIN_S if run.facts["exit"]["left_pids"] else 0.0
    return max(run.facts["phases"]["exit_s"], *_ends_s(run), 0.0) + _late_s(run) + drain_s


def _stream(run: Run) -> Iterator[str]:
    phases, chunks, facts = run.facts["phases"], run.chunks, run.facts
    if facts["stdout_cut"] or run.truncated:  # it is invalid by that
        return
    ends = (chunks[0]["t_ns"] / 1e9, chunks[-1]["t_ns"] / 1e9) if chunks else (None, None)
    if ends != (phases["first_answer_s"], phases["last_answer_s"]):
        yield f"answers came from {ends[0]} to {ends[1]} s by chunks.jsonl, by run.json otherwise"
    times = [chunk["t_ns"] for chunk in chunks]
    if times != sorted(times) or (times and times[-1] / 1e9 > _lived_s(run)):
        yield "chunks.jsonl: not in order of time, or after the end"
    with foreign.opened(run.folder / "answers.jsonl", within=run.folder) as answers:
        lines = [answers.read(chunk["bytes"]).count(b"\n") if chunk["bytes"] else chunk["lines"] for chunk in chunks]
    if lines != [chunk["lines"] for chunk in chunks]:
        yield "chunks.jsonl: its lines do not end where those of answers.jsonl do"
    load = run.workload
    fed = (
        {"records_fed": load["size"], "bytes_fed": load["bytes"]} if facts["all_fed"] else {"records_fed": load["size"]}
    )
    yield from (
        f"{name} is {facts[name]}, {value} by workload.json" for name, value in fed.items() if facts[name] != value
    )


def _events(run: Run) -> Iterator[str]:
    facts, path = run.facts, run.folder / "stderr.log"
    ready = [event["t_ns"] / 1e9 for event in facts["events"] if event["event"] == "ready"]
    if facts["phases"]["ready_s"] != (ready[0] if ready else None):
        yield f"ready_s is {facts['phases']['ready_s']}, by its events {ready[0] if ready else None}"
    text = foreign.read_bytes(path, within=run.folder)
    if len(text) == facts["stderr_bytes"] and events_in(text) != [
        {name: value for name, value in event.items() if name != "t_ns"} for event in facts["events"]
    ]:
        yield "its events are not those of stderr.log"


def _samples(run: Run) -> Iterator[str]:
    late_s, sampler, times = _late_s(run), run.facts["sampler"], [s["t_ns"] for s in run.samples if "mark" not in s]
    if times != sorted(times) or (times and not 0 <= times[0] <= times[-1] <= _lived_s(run) * 1e9):
        yield "samples.jsonl: not in order of time, or not of this run's"
    if times:
        now = steadiness(times, PERIOD_S, times)
        wrong = [n for n in ("samples", "period_asked_s", "period_median_s", "period_p95_s") if sampler[n] != now[n]]
        wrong += [n for n in ("longest_gap_s", "gaps_s") if (sampler.get(n) or 0.0) < (now[n] or 0.0) - 1e-6]
        yield from (f"sampler.{name} is {sampler[name]}, by samples.jsonl {now[name]}" for name in wrong)
        if len(times) > 2 and now["period_median_s"] < 0.9 * PERIOD_S:
            yield f"a sample every {now['period_median_s']:.4f} s; the kit takes one every {PERIOD_S} s"
        if times[-1] / 1e9 + (sampler["longest_gap_s"] or 0.0) + late_s < run.facts["phases"]["exit_s"]:
            yield "samples.jsonl ends before the run"
    happened = {"fed": run.fed_s, "ready": run.ready_s, "first_answer": run.arrivals[0][0] if run.arrivals else None}
    expected, lines = run.facts["records_fed"], accumulate(n for _, n in run.arrivals)
    happened["last_answer"] = next(
        (t_s for (t_s, _), n in zip(run.arrivals, lines, strict=True) if n >= expected), None
    )
    marks = {s["mark"]: s["t_ns"] / 1e9 for s in reversed(run.samples) if "mark" in s}
    for name in marks.keys() & happened.keys():
        early, late = (marks[name], happened[name]) if name == "fed" else (happened[name], marks[name])
        if early is None or late is None or not early <= late <= early + late_s - LATE_S + SAMPLE_LATE_S:
            yield f"the sample at {name!r} was taken at {marks[name]:.3f} s; it happened at {happened[name]}"
    times = list(dict.fromkeys(s["t_ns"] for s in run.gpu_samples))  # a line a device
    if times != sorted(times) or (times and not 0 <= times[0] <= times[-1] <= (_lived_s(run) + late_s) * 1e9):
        yield "gpu.jsonl: not in order of time, or not of this run's"
    if len(times) > 2 and steadiness(times, PERIOD_S, times)["period_median_s"] < 0.9 * PERIOD_S:
        yield f"gpu.jsonl: more samples than one every {PERIOD_S} s"


def _cpu(run: Run) -> Iterator[str]:
    facts, late_s, others = run.facts, _late_s(run), run.facts["others"]
    cores = max(facts["host"]["cores"], others["of_cores"] if isinstance(others, dict) else 0)
    points = [(s["t_ns"] / 1e9, s["cpu_s"]) for s in run.samples]
    for t_s, cpu_s in points:
        if cpu_s > cores * (t_s + late_s):
            yield f"{cpu_s:.3f} CPU seconds within {t_s:.3f} s on {cores} cores"
            break
    in_group = facts["sampler"]["source"].startswith("cgroup")
    if in_group and any(b < a for (_, a), (_, b) in pairwise(points)):
        yield "samples.jsonl: CPU seconds that become less"
    if facts["cpu_s"] is None:
        return
    end_s = facts["phases"]["exit_s"]
    if facts["cpu_s"] > cores * (_lived_s(run) + late_s):
        yield f"{facts['cpu_s']:.3f} CPU seconds within {end_s:.3f} s on {cores} cores"
    if points and in_group:
        t_s, last_s = points[-1]
        if not last_s - READ_LATE_S * cores <= facts["cpu_s"] <= last_s + cores * (max(0.0, end_s - t_s) + late_s):
            yield f"cpu_s is {facts['cpu_s']:.3f}, by the last sample {last_s:.3f}"


def _clocks(run: Run) -> Iterator[str]:
    facts, phases, late_s, bare = run.facts, run.facts["phases"], _late_s(run), run.facts["runner"] == "process"
    end_s, begin_s = phases["exit_s"], phases.get("engine_start_s") or 0.0
    others = facts["others"] if isinstance(facts["others"], dict) else {}
    others_s = others["cpu_s"] / others["cores"] if others.get("cores") else None
    for name, seconds in (("the sampler", facts["sampler"].get("watched_s")), ("other processes", others_s)):
        too_long = bare and seconds is not None and seconds > _lived_s(run) + 2 * late_s  # an engine takes its time
        if seconds is not None and (seconds < end_s - begin_s - late_s or too_long):
            yield f"exit_s is {end_s:.3f}, but {name} were watched for {seconds:.3f} s"
    engine = [phases.get(name) is not None for name in ("engine_start_s", "engine_die_s")] + [
        facts["image_digest"] is not None
    ]
    if any(engine) == bare or (not bare and not all(engine)):
        yield f"runner {facts['runner']!r}, but an engine's times or image {'are' if bare else 'are not all'} there"
    elif not bare and not facts["clock"]["wall_moved_s"] and abs(phases["engine_die_s"] - end_s) > late_s:
        yield f"exit_s is {end_s:.3f}, by the engine {phases['engine_die_s']:.3f}"
    if bare and facts.get("proven", {}).get("isolation"):
        yield "a bare process is not isolated"


# -- the runs of a step --------------------------------------------------------------------------------------------
def _of_its_step(run: Run, stage: str, status: Mapping[str, Any]) -> Iterator[str]:
    """Yield where a run is of another step: in its task, model, machine, batch size, program, order or number."""
    facts, parameters = run.facts, status["parameters"]
    batch = 1 if stage == SINGLE_RECORD else parameters.get("batch_size")
    expected = {
        **{"task": status["task"], "model": status["model"], "host": status["host"]},
        **{"run": int(run.folder.name), "batch_size": batch},
    }
    yield from (
        f"{name} is {facts[name]!r}, by its step {value!r}" for name, value in expected.items() if facts[name] != value
    )
    if facts["argv"][-2:] != ["--batch-size", str(facts["batch_size"])]:
        yield f"batch size {facts['batch_size']}, but it was started with {facts['argv'][-2:]}"


def _one_after_the_other(runs: Sequence[Run], status: Mapping[str, Any]) -> Iterator[str]:
    """Yield where runs overlap by the wall clock, are not of the time of their step, or are of different programs."""
    spans = sorted((begin_s := _wall_s(run.facts["started"]), begin_s + run.facts["phases"]["exit_s"]) for run in runs)
    begin_s, end_s = _wall_s(status["started"]), _wall_s(status["ended"])
    if not begin_s - WALL_S <= spans[0][0] <= max(end for _, end in spans) <= end_s + WALL_S:
        yield "its runs were not made between started and ended of status.json"
    if any(after[0] < before[1] - WALL_S for before, after in pairwise(spans)):
        yield "by the wall clock two runs overlap"
    for name in ("runner", "image_digest", "argv"):
        if len({str(run.facts[name][:-1] if name == "argv" else run.facts[name]) for run in runs}) > 1:
            yield f"its runs differ in {name}"


def _wall_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _protocol(folder: Path, stages: Mapping[str, Sequence[Run]], status: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of the protocol of a bench was not done, or is not what its step was asked for."""
    runs, smaller = stages["."], stages["smaller"]
    if runs[0].facts["purpose"] != "bench":
        return
    protocol = fileio.read_json(folder / PROTOCOL)
    asked, parameters = protocol["asked"], status["parameters"]
    for name in asked.keys() & parameters.keys() - {"seed"}:  # streams are drawn anew
        if (asked[name] or None) != (parameters[name] or None):
            yield f"{PROTOCOL}: {name} is {asked[name]!r}, by status.json {parameters[name]!r}"
    if asked["input_size"] and any(run.facts["records_fed"] != asked["input_size"] for run in runs):
        yield f"runs of another input size than {asked['input_size']}"
    if len(runs) < (asked["repeats"] or LEAST_REPEATS):
        yield f"{len(runs)} runs, {asked['repeats'] or LEAST_REPEATS} were asked for"
    spent_s, took_s = sum(run.facts["phases"]["exit_s"] for run in chain(*stages.values())), protocol["took_s"]
    if not spent_s <= took_s <= _wall_s(status["ended"]) - _wall_s(status["started"]) + WALL_S:
        yield f"{PROTOCOL}: it took {took_s:.1f} s, of which its runs took {spent_s:.1f} s; by status.json otherwise"
    if protocol["quick"] != (asked["quick"] or asked["repeats"] == 1):
        yield f"{PROTOCOL}: quick is {protocol['quick']}"
    if protocol["quick"]:
        return
    lacking = [name for name in ("conformance", "idle") if name not in protocol]
    lacking += [] if stages["short"] else ["short"]
    lacking += ["withheld"] if stages["short"] and ended_well(stages["short"][0]) and not stages["withheld"] else []
    if (
        all(map(ended_well, runs))
        and runs[0].facts["records_fed"] > 1
        and not balanced(runs)
        and len(smaller) < len(runs)
    ):
        lacking.append("smaller")
    if all(map(ended_well, chain(stages["short"], smaller, runs))):
        lacking += [stage for stage in STAGES if stage.startswith("cached") and not stages[stage]]
    if lacking:
        yield f"not quick, but without {', '.join(lacking)}"
