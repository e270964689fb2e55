"""The protocol: feed a model, watch it, keep everything it said, and derive every number from what was kept.

measure(...)   makes runs/NN/ (run.json, workload.json, answers.jsonl, chunks.jsonl, samples.jsonl, stderr.log)
derive(...)    runs/NN/ -> bench.json: checked, scored, estimated, judged; can be repeated at any time
"""

import json
import os
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from morocco_lib import data, estimate, steps, workload
from morocco_lib.doctor import host_facts
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitor.sampler import Sampler, open_samples, reader_for
from morocco_lib.runners.contract import Limits, Runner, converse
from morocco_lib.runners.process import find_program
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import Checked, Prediction, Task, task_value
from morocco_lib.validity import NOTES, Reason, answer_reasons, exit_reasons, verdict
from morocco_lib.workload import Workload

RESULT = "bench.json"
FLIP_SHARE = 0.001  # of repeated answers; above it the result carries FLIPS
BLOCK_BYTES = 64 * 1024  # what is fed at a time
STDERR_KEPT_BYTES = 10 * 2**20


@dataclass(frozen=True)
class Program:
    """The program to measure.

    Args:
        argv: Its words, without `--batch-size`.
        model: Name in results.
        image_digest: Identity of a container image, None for a process.
    """

    argv: list[str]
    model: str
    image_digest: str | None = None

    def with_batch(self, batch_size: int) -> list[str]:
        return [*self.argv, "--batch-size", str(batch_size)]


def command(text: str, model: str | None = None) -> Program:
    """Return the program of a `--command` string: split like a shell would, given no shell.

    Raises:
        UsageError: empty, not closed quotes, or no such program.
    """
    try:
        argv = shlex.split(text)
    except ValueError as error:
        raise UsageError(
            f"--command {text!r}: {error}", rule="it is split like a shell would", remedy="close the quotes"
        ) from None
    if not argv:
        raise UsageError("--command is empty", remedy="give the program that answers records")
    find_program(argv[0])
    return Program(argv, model or Path(argv[0]).name)


def measure(
    program: Program,
    task: Task,
    load: Workload,
    source: Path,
    runner: Runner,
    limits: Limits,
    folder: Path,
    *,
    batch_size: int,
    repeats: int,
    purpose: str = "bench",
    progress: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Run a program `repeats` times on a workload and keep what happened in `folder`/runs/NN.

    Args:
        source: The file the records came from; named in workload.json with its digest.
        purpose: "bench" or "eval"; written into run.json.
        progress: Called with a line of text after each run.
    Raises:
        UsageError: no such program, batch size or repeats below 1.
        EnvironmentFailure: the folder cannot be written; finished runs are kept.
    """
    if batch_size < 1 or repeats < 1:
        raise UsageError(f"batch size {batch_size}, {repeats} repeats", rule="both are at least 1")
    try:
        # The stream lies in a nameless file: made before the clock starts, flat in memory, gone with us.
        with tempfile.TemporaryFile(dir=folder) as stream:
            description = {
                **load.describe(stream),
                "source": {"path": str(source), "sha256": steps.sha256_file(source), "origin": data.origin(source)},
            }
            made = []
            for number in range(1, repeats + 1):
                run_folder = folder / "runs" / f"{number:02d}"
                unfinished = run_folder.with_name(f".{run_folder.name}.partial")
                unfinished.mkdir(parents=True)
                steps.write_json(unfinished / "workload.json", description)
                facts = _run_once(program, stream, len(load), runner, limits, unfinished, batch_size)
                facts = {
                    "schema": 1,
                    "purpose": purpose,
                    "run": number,
                    "task": task.name,
                    "model": program.model,
                } | facts
                steps.write_json(unfinished / "run.json", facts)
                unfinished.rename(run_folder)
                made.append(run_folder)
                progress(f"run {number} of {repeats}: {facts['lines']} answers, {facts['phases']['exit_s']:.2f} s")
            return made
    except OSError as error:
        raise EnvironmentFailure(
            f"cannot write {folder}: {error.strerror}", remedy="free or choose another disk; finished runs are kept"
        ) from None


def _run_once(
    program: Program,
    stream: BinaryIO,
    expected: int,
    runner: Runner,
    limits: Limits,
    folder: Path,
    batch_size: int,
) -> dict[str, Any]:
    """Run the program once and return the facts of `run.json`; the streams are written as they come."""
    argv = program.with_batch(batch_size)
    stream.seek(0)
    blocks = iter(partial(stream.read, BLOCK_BYTES), b"")
    lines = stdout_bytes = stderr_bytes = 0
    ended_line = True
    with (
        (folder / "answers.jsonl").open("wb") as answers,
        (folder / "chunks.jsonl").open("w") as chunks,
        (folder / "stderr.log").open("wb") as stderr,
        open_samples(folder / "samples.jsonl") as samples,
    ):
        handle = runner.start(argv, limits)  # after the files: one that cannot be opened must not leave it running
        origin_ns = handle.started_ns
        sampler = Sampler(reader_for(handle), samples, origin_ns)
        sampler.start()

        def on_stdout(t_ns: int, block: bytes) -> None:
            nonlocal lines, stdout_bytes, ended_line
            count = block.count(b"\n")
            if lines == 0 < count:
                sampler.mark("first_answer")
            if lines < expected <= lines + count:
                sampler.mark("last_answer")
            answers.write(block)
            chunks.write(f'{{"t_ns": {t_ns - origin_ns}, "bytes": {len(block)}, "lines": {count}}}\n')
            lines += count
            stdout_bytes += len(block)
            ended_line = block.endswith(b"\n")

        def on_stderr(t_ns: int, block: bytes) -> None:
            nonlocal stderr_bytes
            stderr.write(block[: max(0, STDERR_KEPT_BYTES - stderr_bytes)])
            stderr_bytes += len(block)

        def on_event(t_ns: int, event: dict) -> None:
            if event.get("event") == "ready":
                sampler.mark("ready")

        try:
            seen = converse(handle, blocks, limits, on_stdout, on_stderr, on_event)
        finally:
            sampling = sampler.stop()
        end = seen.exit
        if not ended_line:  # a last line without line feed is a line all the same
            lines += 1
            chunks.write(f'{{"t_ns": {seen.last_answer_ns - origin_ns}, "bytes": 0, "lines": 1}}\n')

    def since_start(t_ns: int | None) -> float | None:
        return None if t_ns is None else (t_ns - origin_ns) / 1e9

    return {
        "argv": argv,
        "runner": runner.name,
        "image_digest": program.image_digest,
        "batch_size": batch_size,
        "limits": asdict(limits),
        "records_fed": expected,
        "bytes_fed": seen.feed.bytes_written,
        "all_fed": seen.feed.complete,
        "lines": lines,
        "stdout_bytes": stdout_bytes,
        "stderr_bytes": stderr_bytes,
        "exit": {
            "code": end.code,
            "signal": end.signal,
            "oom_killed": end.oom_killed,
            "timed_out": seen.timed_out,
            "left_pids": list(end.left_pids),
        },
        "phases": {
            "start_s": 0.0,
            "first_write_s": since_start(seen.feed.first_write_ns),
            "first_read_s": since_start(end.first_read_ns),
            "ready_s": since_start(seen.ready_ns),
            "stdin_closed_s": since_start(seen.feed.closed_ns),
            "first_answer_s": since_start(seen.first_answer_ns),
            "last_answer_s": since_start(seen.last_answer_ns),
            "exit_s": since_start(end.ended_ns),
        },
        "events": [{**event, "t_ns": event["t_ns"] - origin_ns} for event in seen.events],
        "cpu_s": end.cpu_s,
        "cpu_source": end.cpu_source,
        "memory": {
            "source": sampling["source"],
            "cgroup_peak_bytes": end.peak_bytes,
            "cgroup_peak_source": end.peak_source,
            "high_water_bytes": sampling["high_water_bytes"],
        },
        "sampler": sampling,
        "gpu": _gpu_reason(),
        "clock": "CLOCK_MONOTONIC",
        "started": steps.now(),
        "load_average_1min": os.getloadavg()[0],
        "host": host_facts(),
    }


def _gpu_reason() -> Reason:
    return Reason.GPU_NOT_SAMPLED if Path("/proc/driver/nvidia").exists() else Reason.NO_GPU


# -- from the folder alone -----------------------------------------------------------------------------------------
@dataclass
class Answers:
    """The answers of one run, checked, in the order of the distinct records they were first given to."""

    checked: Checked
    first: dict[int, Prediction]  # place of the record -> its first answer, with its own idx
    repeated: int  # answers to records that had been answered before
    flips: int  # of these, how many differ from the first


def read_answers(folder: Path) -> tuple[Task, Workload, Answers]:
    """Return task, workload and checked answers of runs/NN.

    Raises:
        UsageError: workload.json or answers.jsonl cannot be read.
    """
    try:
        description = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
        task = get_task(description["task"])
        load = workload.from_description(task, description)
        with (folder / "answers.jsonl").open("rb") as lines:
            checked = task.check(lines, load, str(folder / "answers.jsonl"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"run in {folder} cannot be read ({error})", remedy="restore the folder or bench again"
        ) from None
    first: dict[int, Prediction] = {}
    repeated = flips = 0
    for idx in load:
        prediction = checked.predictions.get(idx)
        if prediction is None:
            continue
        place, restored = load.restore(prediction)
        if place in first:
            repeated += 1
            flips += first[place] != restored
        else:
            first[place] = restored
    return task, load, Answers(checked, first, repeated, flips)


def score(task: Task, load: Workload, first: dict[int, Prediction]) -> dict[str, Any]:
    """Return the score of the first answers to the distinct records: value, interval, metrics, and the majority beside it."""
    pairs = [(task.gold(load.records[place]), prediction) for place, prediction in sorted(first.items())]
    if not pairs or any(gold is None for gold, _ in pairs):
        return {"value": None, "reason": Reason.NO_GOLD}
    gold, predictions = zip(*pairs, strict=True)
    metrics = task.score(gold, predictions)
    interval = task.interval(gold, predictions)
    frequent = task.majority(gold)
    constant = [task.restore(frequent, g) for g in gold]
    return {
        "value": task_value(task, metrics),
        "low": interval.low,
        "high": interval.high,
        "interval": interval.method,
        "metrics": metrics,
        "n": len(pairs),
        "majority": {**frequent, "value": task_value(task, task.score(gold, constant))},
    }


def run_folders(folder: Path) -> list[Path]:
    """Return the finished runs of a step folder, in order; raises UsageError if there is none."""
    folders = sorted(path.parent for path in (folder / "runs").glob("[0-9]*/run.json"))
    if not folders:
        raise UsageError(f"no finished run in {folder}", remedy="bench again")
    return folders


def derive(folder: Path) -> dict[str, Any]:
    """Return what bench.json holds, from runs/NN alone.

    Raises:
        UsageError: a file of a run is missing or broken.
    """
    folder = Path(folder)
    folders = run_folders(folder)
    runs = [estimate.read_run(f) for f in folders]
    facts = runs[0].facts
    answered = [read_answers(f) for f in folders]
    task, load, reference = answered[0]
    reasons: Counter[Reason] = Counter()
    valid, rows, flips, repeated = [], [], 0, 0
    for run, (_, _, answers) in zip(runs, answered, strict=True):
        found = exit_reasons(run.facts["exit"]) + answer_reasons(answers.checked.counts)
        reasons.update(found)
        scored = (
            score(task, load, answers.first)
            if not answers.checked.counts
            else {"value": None, "reason": Reason.NO_VALID_RUN}
        )
        # A run's first answers are held against the first run's, its later ones against its own first.
        between = [
            (place, p) for place, p in answers.first.items() if answers is not reference and place in reference.first
        ]
        flips += answers.flips + sum(reference.first[place] != p for place, p in between)
        repeated += answers.repeated + len(between)
        if not set(found) - NOTES:
            valid.append(run)
        rows.append(
            {
                "run": f"runs/{run.folder.name}",
                "verdict": verdict(found),
                "reasons": found,
                "problems": dict(answers.checked.counts),
                "score": scored["value"],
            }
        )
    estimates, notes = estimate.summarise(valid)
    if repeated and flips / repeated > FLIP_SHARE:
        notes.append(Reason.FLIPS)
    if len(runs) == 1:
        notes.append(Reason.SINGLE_RUN)
    codes = [*reasons, *notes]
    result = verdict(codes)
    return {
        "schema": 1,
        "task": facts["task"],
        "model": facts["model"],
        "runner": facts["runner"],
        "image_digest": facts["image_digest"],
        "input_size": facts["records_fed"],
        "batch_size": facts["batch_size"],
        "repeats": len(runs),
        "verdict": result,
        "reasons": codes,
        "data": json.loads((folders[0] / "workload.json").read_text(encoding="utf-8"))["source"],
        **estimates,
        "gpu_ram_bytes": {"value": None, "reason": facts["gpu"]},
        "energy_j_per_record": {"value": None, "reason": Reason.NO_ENERGY_COUNTER},
        "score": score(task, load, reference.first)
        if result == "VALID"
        else {"value": None, "reason": Reason.NO_VALID_RUN},
        "flips": {"value": flips, "compared": repeated},
        "runs": [row["run"] for row in rows],
        "per_run": rows,
    }


def bench(
    program: Program,
    task: Task,
    source: Path,
    runner: Runner,
    limits: Limits,
    folder: Path,
    *,
    input_size: int,
    batch_size: int,
    repeats: int,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure one operating point, write bench.json into `folder` and return it.

    Args:
        source: A JSONL file of the task's records; labels, if any, are stripped before feeding and used for the score.
        input_size: Records fed in a run; the file is cycled, shuffled anew each time.
        seed: Of the shuffles.
    """
    load = workload.build(task, task.read(source), input_size, seed)
    measure(
        program, task, load, source, runner, limits, folder, batch_size=batch_size, repeats=repeats, progress=progress
    )
    result = derive(folder)
    steps.write_json(folder / RESULT, result)
    return result
