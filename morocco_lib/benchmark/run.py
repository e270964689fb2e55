"""One run: feed a program, watch it, and keep everything it said in runs/NN/.

runs/NN/ holds run.json (facts), workload.json (what was fed, and the way back), answers.jsonl (stdout, verbatim),
chunks.jsonl (when how much of it arrived), samples.jsonl, stderr.log, and gpu.jsonl where there is a GPU.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from morocco_lib import data, fileio
from morocco_lib.artifacts import steps
from morocco_lib.benchmark.target import NO_HOOKS, Hooks, Target
from morocco_lib.data.workload import Workload
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitors import clocks, system_load
from morocco_lib.monitors.host import host_facts
from morocco_lib.monitors.nvml import GpuSampler
from morocco_lib.monitors.processes import Processes
from morocco_lib.monitors.sampler import Sampler, open_samples, reader_for
from morocco_lib.runners.contract import converse

BLOCK_BYTES = 64 * 1024  # what is fed at a time
STDERR_KEPT_BYTES = 10 * 2**20
STDOUT_BYTES, STDOUT_BYTES_PER_RECORD = 10 * 2**20, 64 * 1024  # more than that are no answers, and would fill the disk
WATCH_NS = 500_000_000


class RunSeries:
    """One program on one workload: what is fed is made once, and each run is kept in a folder of its own.

    Args:
        target: What is run, in what, with which limits.
        load: The stream of records.
        source: The file the records came from; named in workload.json with its digest.
        folder: Where the stream lies while it is fed: in a nameless file, made before any clock starts.
        batch_size: Records answered together.
        hooks: `watch` and `turn` are called.
    Raises:
        UsageError: no such program, batch size below 1.
        EnvironmentFailure: the folder cannot be written; finished runs are kept.
    """

    def __init__(
        self, target: Target, load: Workload, source: Path, folder: Path, *, batch_size: int, hooks: Hooks = NO_HOOKS
    ):
        if batch_size < 1:
            raise UsageError(f"batch size {batch_size}", rule="it is at least 1")
        self.target, self.load, self.folder = target, load, folder
        self.batch_size, self.hooks = batch_size, hooks
        with self._writing():
            self._stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            self._description = {
                **load.describe(self._stream),
                "source": data.describe(source, load.task, load.records),
            }

    def __enter__(self) -> "RunSeries":
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
            with self.hooks.turn():
                facts = _run_once(
                    self.target, self._stream, len(self.load), unfinished, self.batch_size, self.hooks.watch
                )
            names = {"task": self.load.task.name, "model": self.target.program.model}
            fileio.write_json(
                unfinished / "run.json", {"schema": 1, "purpose": purpose, "run": number, **names, **facts}
            )
            unfinished.rename(run_folder)
        return run_folder


def run_series(
    target: Target, load: Workload, source: Path, folder: Path, *, batch_size: int, repeats: int, purpose: str = "bench"
) -> list[Path]:
    """Run a program `repeats` times on a workload and keep what happened in `folder`/runs/NN; see `RunSeries`."""
    with RunSeries(target, load, source, folder, batch_size=batch_size) as series:
        return [series.run(folder, purpose) for _ in range(repeats)]


def _run_once(
    target: Target,
    stream: BinaryIO,
    expected: int,
    folder: Path,
    batch_size: int,
    watch: Callable[[int], None] | None,
) -> dict[str, Any]:
    """Run the program once and return the facts of `run.json`; the streams are written as they come."""
    program, runner, limits = target.program, target.runner, target.limits
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
        "others": system_load.others(before, after, end.cpu_s, processes.seen, engine=runner.name == "docker"),
        "gpu": gpu,
        "clock": clocks.compare(offsets, clocks.read(), (end.ended_ns - origin_ns) / 1e9),
        "started": started,
        "load_average_1min": os.getloadavg()[0],
        "host": host_facts(),
    }
