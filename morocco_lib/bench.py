"""The protocol: feed a model, watch it, keep everything it said, and derive every number from what was kept.

measure(...)   makes runs/NN/ (run.json, workload.json, answers.jsonl, chunks.jsonl, samples.jsonl, stderr.log,
               and gpu.jsonl where there is a GPU)
bench(...)     that, and bench.json, which `results.derive` makes of them

In a cell of one's own, in a folder that holds synthetic records (`morocco data synthetic terra --out records`):

    from pathlib import Path
    from morocco_lib import bench
    from morocco_lib.runners.contract import Limits
    from morocco_lib.runners.process import ProcessRunner
    from morocco_lib.tasks import get_task

    Path("measured").mkdir()
    result = bench.bench(
        bench.command("python3 my_model.py"), get_task("terra"), Path("records/TERRa/val.jsonl"), ProcessRunner(),
        Limits(timeout_s=600), Path("measured"), input_size=2000, batch_size=32, repeats=3, seed=1,
    )
    result["speed_per_s"]  # value, low, high: records a second
"""

import os
import re
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from morocco_lib import data, steps, workload
from morocco_lib.doctor import host_facts
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitor import clocks
from morocco_lib.monitor.nvml import GpuSampler
from morocco_lib.monitor.sampler import Sampler, open_samples, reader_for
from morocco_lib.results import BENCH, derive
from morocco_lib.runners.contract import Limits, Runner, converse
from morocco_lib.runners.engine import Image
from morocco_lib.runners.process import find_program
from morocco_lib.tasks.base import Task
from morocco_lib.workload import Workload

BLOCK_BYTES = 64 * 1024  # what is fed at a time
STDERR_KEPT_BYTES = 10 * 2**20
STDOUT_BYTES, STDOUT_BYTES_PER_RECORD = 10 * 2**20, 64 * 1024  # more than that are no answers, and would fill the disk
WATCH_NS = 500_000_000
INTERPRETER = re.compile(r"(python|pypy|perl|ruby|node|bash|sh|Rscript)[\d.]*")


@dataclass(frozen=True)
class Program:
    """The program to measure.

    Args:
        argv: Its words, without `--batch-size`; of a container those after its entry point.
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
    return Program(argv, model or _name_of(argv))


def contained(image: Image, model: str | None = None) -> Program:
    """Return the program that an image is; its label names the model, else its own name does."""
    name = image.labels.get("morocco.model") or image.name.rpartition("/")[2].partition("@")[0].partition(":")[0]
    return Program([], model or name, image.digest or image.id)


def _name_of(argv: list[str]) -> str:
    # A script is meant, not its interpreter: `python3 -u docs/example_model.py` is example_model.
    name = Path(argv[0]).name
    script = next((word for word in argv[1:] if not word.startswith("-")), None)
    if script and INTERPRETER.fullmatch(name) and os.path.isfile(script):  # no text is too long for it
        return Path(script).stem
    return name


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
    watch: Callable[[int], None] | None = None,
) -> list[Path]:
    """Run a program `repeats` times on a workload and keep what happened in `folder`/runs/NN.

    Args:
        source: The file the records came from; named in workload.json with its digest.
        purpose: "bench" or "eval"; written into run.json.
        progress: Called with a line of text after each run.
        watch: Called with the number of answers that came since it was called last, twice a second at most.
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
                "source": data.describe(source, load.task, load.records),
            }
            made = []
            for number in range(1, repeats + 1):
                run_folder = folder / "runs" / f"{number:02d}"
                unfinished = run_folder.with_name(f".{run_folder.name}.partial")
                unfinished.mkdir(parents=True)
                steps.write_json(unfinished / "workload.json", description)
                facts = _run_once(program, stream, len(load), runner, limits, unfinished, batch_size, watch)
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
    watch: Callable[[int], None] | None,
) -> dict[str, Any]:
    """Run the program once and return the facts of `run.json`; the streams are written as they come."""
    argv = program.with_batch(batch_size)
    stream.seek(0)
    blocks = iter(partial(stream.read, BLOCK_BYTES), b"")
    most = STDOUT_BYTES + expected * STDOUT_BYTES_PER_RECORD
    lines = stdout_bytes = stderr_bytes = told = told_ns = 0
    ended_line = True
    with (
        (folder / "answers.jsonl").open("wb") as answers,
        (folder / "chunks.jsonl").open("w") as chunks,
        (folder / "stderr.log").open("wb") as stderr,
        open_samples(folder / "samples.jsonl") as samples,
        GpuSampler(folder / "gpu.jsonl") as gpus,
    ):
        offsets = clocks.read()
        handle = runner.start(argv, limits)  # after the files: one that cannot be opened must not leave it running
        origin_ns = handle.started_ns
        sampler = Sampler(reader_for(handle), samples, origin_ns)
        sampler.start()
        gpus.watch(handle.pids, origin_ns)

        def on_stdout(t_ns: int, block: bytes) -> None:
            nonlocal lines, stdout_bytes, ended_line, told, told_ns
            stdout_bytes += len(block)
            if stdout_bytes > most:
                if stdout_bytes - len(block) <= most:
                    handle.kill()
                return
            count = block.count(b"\n")
            if lines == 0 < count:
                sampler.mark("first_answer")
            if lines < expected <= lines + count:
                sampler.mark("last_answer")
            answers.write(block)
            chunks.write(f'{{"t_ns": {t_ns - origin_ns}, "bytes": {len(block)}, "lines": {count}}}\n')
            lines += count
            ended_line = block.endswith(b"\n")
            if watch and t_ns - told_ns > WATCH_NS:
                watch(lines - told)
                told, told_ns = lines, t_ns

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
            sampling, gpu = sampler.stop(), gpus.stop()
        if watch:
            watch(lines - told)
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
        "limits": asdict(runner.bounded(limits)),
        "records_fed": expected,
        "bytes_fed": seen.feed.bytes_written,
        "all_fed": seen.feed.complete,
        "lines": lines,
        "stdout_bytes": stdout_bytes,
        "stdout_cut": stdout_bytes > most,
        "stderr_bytes": stderr_bytes,
        "exit": {
            "code": end.code,
            "signal": end.signal,
            "oom_killed": end.oom_killed,
            "timed_out": seen.timed_out,
            "left_pids": list(end.left_pids),
            "pids_refused": end.pids_refused,
        },
        "phases": {
            "start_s": 0.0,
            "engine_start_s": since_start(end.engine_started_ns),
            "first_write_s": since_start(seen.feed.first_write_ns),
            "first_read_s": since_start(end.first_read_ns),
            "ready_s": since_start(seen.ready_ns),
            "stdin_closed_s": since_start(seen.feed.closed_ns),
            "first_answer_s": since_start(seen.first_answer_ns),
            "last_answer_s": since_start(seen.last_answer_ns),
            "exit_s": since_start(end.ended_ns),
            "engine_die_s": since_start(end.engine_died_ns),
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
        "gpu": gpu,
        "clock": clocks.compare(offsets, clocks.read(), (end.ended_ns - origin_ns) / 1e9),
        "started": steps.now(),
        "load_average_1min": os.getloadavg()[0],
        "host": host_facts(),
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
    watch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Measure one operating point, write bench.json into `folder` and return it.

    Args:
        source: A JSONL file of the task's records; labels, if any, are stripped before feeding and used for the score.
        runner, limits: `ProcessRunner()` or one of containers, and what it lets a run use.
        folder: An existing folder without runs; gets runs/NN/ and bench.json. It is no step folder, as `morocco bench`
            and bench.ipynb make one: `report` and `verify` do not look into it.
        input_size: Records fed in a run; the file is cycled, shuffled anew each time.
        seed: Of the shuffles.
        progress, watch: As in `measure`; `progress=print` tells of every run.
    Returns:
        What bench.json holds: verdict, reasons, and speed_per_s, init_s (seconds), ram_bytes, score and others, each with
        value and 95 % interval (low, high), or with the reason there is none. `report.words.bench_lines` makes text of it.
    Raises:
        UsageError: the file of records cannot be read, or as in `measure`.
        EnvironmentFailure: as in `measure`.
    """
    load = workload.build(task, task.read(source), input_size, seed)
    measure(
        program, task, load, source, runner, limits, folder,
        batch_size=batch_size, repeats=repeats, progress=progress, watch=watch,
    )  # fmt: skip
    result = derive(folder)
    steps.write_json(folder / BENCH, result)
    return result
