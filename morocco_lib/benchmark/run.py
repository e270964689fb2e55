"""One run: feed a program, sample it, and keep everything it printed in runs/NN/.

runs/NN/ holds run.json (facts), workload.json (what was fed, and the way back), answers.jsonl (stdout, verbatim),
chunks.jsonl (when how many bytes and lines of it arrived), samples.jsonl, stderr.log, and gpu.jsonl where there is a GPU.
A run that we broke off stays in runs/.NN.partial, without run.json and with failed.json, which says why.
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from morocco_lib import data, fileio
from morocco_lib.artifacts import steps
from morocco_lib.benchmark.target import NO_HOOKS, Hooks, Target, hiding
from morocco_lib.benchmark.withholding import Withholding
from morocco_lib.data.workload import Workload
from morocco_lib.errors import EnvironmentFailure, MoroccoError, UsageError
from morocco_lib.monitors import clocks, system_load
from morocco_lib.monitors.gpu_sampler import GpuSampler
from morocco_lib.monitors.host import host_facts, speed_settings
from morocco_lib.monitors.periodic import open_samples
from morocco_lib.monitors.processes import Processes
from morocco_lib.monitors.readers import ProcReader, Reader, reader_for
from morocco_lib.monitors.sampler import Sampler
from morocco_lib.runners.contract import Conversation, Exit, Handle, Runner, abandon, converse

BLOCK_BYTES = 64 * 1024  # what is fed at a time
STDERR_KEPT_BYTES = 10 * 2**20
STDOUT_BYTES, STDOUT_BYTES_PER_RECORD = 10 * 2**20, 64 * 1024  # more is no predictions, and would fill the disk
FAILED = "failed.json"  # in the folder of a run that was not finished: what broke it off
WATCH_NS = 500_000_000


class RunSeries:
    """One program on one workload: what is fed is made once, and each run is kept in a folder of its own.

    Args:
        target: What is run, in what, with which limits.
        load: The stream of records.
        source: The file the records came from; named in workload.json with its digest.
        folder: Where the stream is stored while it is fed: in an unnamed file, written before any clock starts.
        batch_size: Records answered together.
        withheld: When the program is fed; None: at once.
        hooks: `watch` and `turn` are called.
    Raises:
        UsageError: no such program, batch size below 1.
        EnvironmentFailure: the folder cannot be written; finished runs are kept.
    """

    def __init__(
        self,
        target: Target,
        load: Workload,
        source: Path,
        folder: Path,
        *,
        batch_size: int,
        withheld: Withholding | None = None,
        hooks: Hooks = NO_HOOKS,
    ):
        if batch_size < 1:
            raise UsageError(f"batch size {batch_size}", rule="it is at least 1")
        self.target, self.load, self.folder = hiding(target, load.task, source, folder), load, folder
        self.batch_size, self.withheld, self.hooks = batch_size, withheld, hooks
        with fileio.writing(self.folder):
            self._stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            described = data.describe(source, load.task, load.records)
            self._description = {**load.describe(self._stream), "source": described}

    def __enter__(self) -> "RunSeries":
        return self

    def __exit__(self, *raised) -> None:
        self._stream.close()

    def run(self, folder: Path, purpose: str) -> Path:
        """Run the program once and return where it is kept: the next of `folder`/runs/NN."""
        number = 1 + sum(path.name.isdigit() for path in (folder / "runs").glob("*"))
        run_folder = folder / "runs" / f"{number:02d}"
        unfinished = run_folder.with_name(f".{run_folder.name}.partial")
        program = self.target.program
        names = {"schema": 1, "purpose": purpose, "run": number, "task": self.load.task.name, "model": program.model}
        with fileio.writing(self.folder):
            unfinished.mkdir(parents=True)
            try:
                fileio.write_json(unfinished / "workload.json", self._description)
                with self.hooks.turn():
                    facts = self._run_once(unfinished)
                fileio.write_json(unfinished / "run.json", {**names, **facts})
                unfinished.rename(run_folder)
            except BaseException as error:
                failed = f"{type(error).__name__}: {error}"
                with suppress(OSError):  # of a full disk
                    fileio.write_json(
                        unfinished / FAILED, {**names, "argv": program.argv, "error": failed, "at": steps.now()}
                    )
                if not isinstance(error, Exception) or isinstance(error, MoroccoError | OSError):
                    raise
                raise EnvironmentFailure(
                    f"run {number} of {program.model} failed here, not there: {failed}",
                    remedy=f"rerun the command; what was seen is in {unfinished}",
                ) from error
        return run_folder

    def _run_once(self, folder: Path) -> dict[str, Any]:
        """Run the program once and return the facts of `run.json`; the streams are written as they come."""
        program, runner, limits = self.target.program, self.target.runner, self.target.limits
        argv, expected = program.with_batch(self.batch_size), len(self.load)
        self._stream.seek(0)
        blocks = iter(partial(self._stream.read, BLOCK_BYTES), b"")
        quiet_s = None
        with (
            _Recorder(folder, expected, self.hooks.watch) as recorder,
            open_samples(folder / "samples.jsonl") as samples,
            GpuSampler(folder / "gpu.jsonl") as gpus,
        ):
            started, offsets, before = steps.now(), clocks.read(), system_load.read()
            handle = runner.start(argv, limits)  # after the files: one that cannot be opened must not leave it running
            origin_ns = handle.started_ns
            try:
                reader = reader_for(handle)
                processes = Processes(reader.pids, origin_ns)
                sampler = Sampler(reader, samples, origin_ns, processes=processes)
                sampler.on_refused = gpus.on_refused = handle.kill
                gpus.watch(handle.pids, origin_ns)
                recorder.attach(handle, sampler)
                sampler.start()
            except BaseException:
                abandon(handle)
                raise

            def withhold(ended: Event) -> None:
                nonlocal quiet_s
                if self.withheld:
                    quiet_s = self.withheld.wait(
                        origin_ns, lambda: recorder.ready, lambda: sampler.latest, ended, lambda: gpus.quiet_ns
                    )
                sampler.mark("fed")

            hears = recorder.on_stdout, recorder.on_stderr, recorder.on_event
            try:
                talk = converse(handle, blocks, limits, *hears, withhold)
            finally:
                try:
                    sampling = sampler.stop()
                finally:
                    sampler.halt()  # also where what it saw cannot be told
                    gpu, after = gpus.stop(), system_load.read()
            recorder.finish(talk.last_answer_ns)
        end = talk.exit
        return {
            "argv": argv,
            "runner": runner.name,
            "proven": _proven(runner, reader, end),
            "image_digest": program.image_digest,
            "settings": speed_settings(runner.environment),
            "batch_size": self.batch_size,
            "limits": asdict(runner.bounded(limits)),
            "withheld": asdict(self.withheld) | {"quiet_s": quiet_s} if self.withheld else None,
            "records_fed": expected,
            "bytes_fed": talk.feed.bytes_written,
            "all_fed": talk.feed.complete,
            "lines": recorder.lines,
            "stdout_bytes": recorder.stdout_bytes,
            "stdout_cut": recorder.stdout_cut,
            "stderr_bytes": recorder.stderr_bytes,
            **_ending(talk, origin_ns),
            "cpu_s": end.cpu_s,
            "cpu_source": end.cpu_source,
            "memory": {
                "source": sampling["source"],
                "cgroup_peak_bytes": end.peak_bytes,
                "cgroup_peak_source": end.peak_source,
                "high_water_bytes": sampling["high_water_bytes"],
                "counted": list(reader.counted),
                "outside_pids": sorted({*reader.outside, *end.outside_pids}),
            },
            "ended_processes": processes.ended(),
            "sampler": sampling,
            "others": system_load.others(before, after, end.cpu_s, processes.pids, engine=runner.name == "docker"),
            "gpu": gpu,
            "clock": clocks.compare(offsets, clocks.read(), (end.ended_ns - origin_ns) / 1e9),
            "started": started,
            "load_average_1min": os.getloadavg()[0],
            "host": host_facts(),
        }


class _Recorder:
    """Writes what a program prints into answers.jsonl, chunks.jsonl and stderr.log, as it arrives.

    Args:
        folder: Of the run.
        expected: Predictions to come.
        watch: Called with the number of new ones, twice a second at most.
    """

    def __init__(self, folder: Path, expected: int, watch: Callable[[int], None] | None):
        self._expected, self._watch = expected, watch
        self._most = STDOUT_BYTES + expected * STDOUT_BYTES_PER_RECORD
        self.lines = self.stdout_bytes = self.stderr_bytes = 0
        self._watched = self._watched_ns = 0
        self._ended_line, self.ready = True, False
        with ExitStack() as files:
            self._answers = files.enter_context((folder / "answers.jsonl").open("wb"))
            self._chunks = files.enter_context((folder / "chunks.jsonl").open("w"))
            self._stderr = files.enter_context((folder / "stderr.log").open("wb"))
            self._files = files.pop_all()

    def __enter__(self) -> "_Recorder":
        return self

    def __exit__(self, *raised) -> None:
        self._files.close()

    def attach(self, handle: Handle, sampler: Sampler) -> None:
        """Record a program that was just started."""
        self._handle, self._sampler = handle, sampler

    @property
    def stdout_cut(self) -> bool:
        return self.stdout_bytes > self._most

    def on_stdout(self, t_ns: int, block: bytes) -> None:
        was_cut = self.stdout_cut
        self.stdout_bytes += len(block)
        if self.stdout_cut:
            if not was_cut:
                self._handle.kill()
            return
        count = block.count(b"\n")
        if self.lines == 0 < count:
            self._sampler.mark("first_answer")
        if self.lines < self._expected <= self.lines + count:
            self._sampler.mark("last_answer")
        self._answers.write(block)
        self._add_chunk(t_ns, len(block), count)
        self._ended_line = block.endswith(b"\n")
        if self._watch and t_ns - self._watched_ns > WATCH_NS:
            self._report(t_ns)

    def on_stderr(self, t_ns: int, block: bytes) -> None:
        self._stderr.write(block[: max(0, STDERR_KEPT_BYTES - self.stderr_bytes)])
        self.stderr_bytes += len(block)

    def on_event(self, t_ns: int, event: dict) -> None:
        if event.get("event") == "ready":
            self.ready = True
            self._sampler.mark("ready")

    def finish(self, last_ns: int | None) -> None:
        """Count a last line without line feed, which is a line all the same."""
        if self._watch:
            self._report(0)
        if not self._ended_line:
            self._add_chunk(last_ns, 0, 1)

    def _add_chunk(self, t_ns: int, size: int, lines: int) -> None:
        since_ns = t_ns - self._handle.started_ns
        self._chunks.write(f'{{"t_ns": {since_ns}, "bytes": {size}, "lines": {lines}}}\n')
        self.lines += lines

    def _report(self, t_ns: int) -> None:
        self._watch(self.lines - self._watched)
        self._watched, self._watched_ns = self.lines, t_ns


def _proven(runner: Runner, reader: Reader, end: Exit) -> dict[str, bool]:
    """Return whether all memory of a run was counted, and whether it could do nothing but answer.

    Of a bare process, which can do more, also whether the right answers were hidden from it.
    """
    proven = {
        "memory": reader.source != ProcReader.source and not reader.outside and not end.outside_pids,
        "isolation": runner.name == "docker" and end.disk_mounts == (),
    }
    return proven | ({"gold": runner.confines} if runner.name == "process" else {})


def _ending(talk: Conversation, origin_ns: int) -> dict[str, Any]:
    """Return how a run ended, and when what happened in it."""
    end, feed = talk.exit, talk.feed
    moments_ns = {
        "start_s": origin_ns,
        "engine_start_s": end.engine_started_ns,
        "first_write_s": feed.first_write_ns,
        "first_read_s": end.first_read_ns,
        "ready_s": talk.ready_ns,
        "stdin_closed_s": feed.closed_ns,
        "first_answer_s": talk.first_answer_ns,
        "last_answer_s": talk.last_answer_ns,
        "exit_s": end.ended_ns,
        "engine_die_s": end.engine_died_ns,
    }
    return {
        "exit": {
            "code": end.code,
            "signal": end.signal,
            "oom_killed": end.oom_killed,
            "timed_out": talk.timed_out,
            "left_pids": list(end.left_pids),
            "pids_refused": end.pids_refused,
            "disk_mounts": end.disk_mounts,
        },
        "phases": {name: None if t_ns is None else (t_ns - origin_ns) / 1e9 for name, t_ns in moments_ns.items()},
        "events": [{**event, "t_ns": event["t_ns"] - origin_ns} for event in talk.events],
    }
