"""One run: feed a program, watch it, and keep everything it said in runs/NN/.

runs/NN/ holds run.json (facts), workload.json (what was fed, and the way back), answers.jsonl (stdout, verbatim),
chunks.jsonl (when how much of it arrived), samples.jsonl, stderr.log, and gpu.jsonl where there is a GPU.
"""

import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from morocco_lib import data, fileio
from morocco_lib.artifacts import steps
from morocco_lib.data.workload import Workload
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitors import clocks, system_load
from morocco_lib.monitors.host import host_facts
from morocco_lib.monitors.nvml import GpuSampler
from morocco_lib.monitors.periodic import open_samples
from morocco_lib.monitors.processes import Processes
from morocco_lib.monitors.readers import reader_for
from morocco_lib.monitors.sampler import Sampler
from morocco_lib.runners.contract import Limits, Runner, converse
from morocco_lib.runners.engine import Image
from morocco_lib.runners.process import find_program

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
        checked: It was held against the contract, and keeps it.
    """

    argv: list[str]
    model: str
    image_digest: str | None = None
    checked: bool = False

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


class Measurement:
    """One program on one workload: what is fed is made once, and each run is kept in a folder of its own.

    Args:
        source: The file the records came from; named in workload.json with its digest.
        folder: Where the stream lies while it is fed: in a nameless file, made before any clock starts.
        watch: Called with the number of answers that came since it was called last, twice a second at most.
        turn: Entered around each run, so that nothing else is measured at the same time.
    Raises:
        UsageError: no such program, batch size below 1.
        EnvironmentFailure: the folder cannot be written; finished runs are kept.
    """

    def __init__(
        self,
        program: Program,
        load: Workload,
        source: Path,
        runner: Runner,
        limits: Limits,
        folder: Path,
        *,
        batch_size: int,
        watch: Callable[[int], None] | None = None,
        turn: Callable[[], AbstractContextManager] = nullcontext,
    ):
        if batch_size < 1:
            raise UsageError(f"batch size {batch_size}", rule="it is at least 1")
        self.program, self.load, self.runner, self.limits, self.folder = program, load, runner, limits, folder
        self.batch_size, self.watch, self.turn = batch_size, watch, turn
        with self._writing():
            self._stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            self._description = {
                **load.describe(self._stream),
                "source": data.describe(source, load.task, load.records),
            }

    def __enter__(self) -> "Measurement":
        return self

    def __exit__(self, *raised) -> None:
        self._stream.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EnvironmentFailure(
                f"cannot write {self.folder}: {error.strerror}",
                remedy="free or choose another disk; finished runs are kept",
            ) from None

    def run(self, folder: Path, purpose: str) -> Path:
        """Run the program once and return where it is kept: the next of `folder`/runs/NN."""
        number = 1 + sum(path.name.isdigit() for path in (folder / "runs").glob("*"))
        run_folder = folder / "runs" / f"{number:02d}"
        unfinished = run_folder.with_name(f".{run_folder.name}.partial")
        with self._writing():
            unfinished.mkdir(parents=True)
            fileio.write_json(unfinished / "workload.json", self._description)
            with self.turn():
                facts = _run_once(
                    self.program, self._stream, len(self.load), self.runner, self.limits, unfinished,
                    self.batch_size, self.watch,
                )  # fmt: skip
            names = {"task": self.load.task.name, "model": self.program.model}
            fileio.write_json(
                unfinished / "run.json", {"schema": 1, "purpose": purpose, "run": number, **names, **facts}
            )
            unfinished.rename(run_folder)
        return run_folder


def measure(
    program: Program, load: Workload, source: Path, runner: Runner, limits: Limits, folder: Path,
    *, batch_size: int, repeats: int, purpose: str = "bench",
) -> list[Path]:  # fmt: skip
    """Run a program `repeats` times on a workload and keep what happened in `folder`/runs/NN; see `Measurement`."""
    with Measurement(program, load, source, runner, limits, folder, batch_size=batch_size) as measurement:
        return [measurement.run(folder, purpose) for _ in range(repeats)]


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
        started, offsets, before = steps.now(), clocks.read(), system_load.read()
        handle = runner.start(argv, limits)  # after the files: one that cannot be opened must not leave it running
        origin_ns = handle.started_ns
        reader = reader_for(handle)
        processes = Processes(reader.pids, origin_ns)
        sampler = Sampler(reader, samples, origin_ns, processes=processes)
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
            sampling, gpu, after = sampler.stop(), gpus.stop(), system_load.read()
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
        **sampler.used(),
        "ended_processes": processes.ended(),
        "sampler": sampling,
        "others": system_load.others(before, after, end.cpu_s, processes.pids, engine=runner.name == "docker"),
        "gpu": gpu,
        "clock": clocks.compare(offsets, clocks.read(), (end.ended_ns - origin_ns) / 1e9),
        "started": started,
        "load_average_1min": os.getloadavg()[0],
        "host": host_facts(),
    }
