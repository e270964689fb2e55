"""The protocol: what is run in which order at one operating point, and when it is enough.

    contract      the program is held against it with a few records          conformance in protocol.json
    idle          what else the machine does                                 idle in protocol.json
    cold          three starts on a few records, file caches dropped before  cold/runs/NN
    short         one batch: what a start costs, and work done unseen        short/runs/NN
    pilot         more records each time, until a speed shows                pilot/runs/NN
    timed         the repeats; with a short run beside each where answers    runs/NN
                  do not tell a speed
    ones          runs of one record, only where the original's logs are wanted   ones/runs/NN
    cached        unique texts against few repeated ones, in turn            cached/unique/runs/NN, cached/repeated/runs/NN

`bench.json` is derived from these by `results.derive`. In a cell of one's own, in a folder that holds synthetic records
(`morocco data synthetic terra --out records`):

    from pathlib import Path
    from morocco_lib.benchmark import protocol as bench
    from morocco_lib.runners.contract import Limits
    from morocco_lib.runners.process import ProcessRunner
    from morocco_lib.tasks import get_task

    Path("measured").mkdir()
    result = bench.bench(
        bench.command("python3 my_model.py"), get_task("terra"), Path("records/TERRa/val.jsonl"), ProcessRunner(),
        Limits(timeout_s=600), Path("measured"), input_size=2000, batch_size=32, repeats=3,
    )
    result["speed_per_s"]  # value, low, high: records a second
"""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from morocco_lib import fileio
from morocco_lib.analysis import estimate, throughput
from morocco_lib.analysis.predictions import run_folders
from morocco_lib.analysis.summary import BENCH, PROTOCOL, derive
from morocco_lib.analysis.validity import exit_reasons
from morocco_lib.benchmark import cache_probe, conformance
from morocco_lib.benchmark.run import Measurement, Program, command, contained, measure
from morocco_lib.data import workload
from morocco_lib.errors import UsageError
from morocco_lib.monitors import system_load
from morocco_lib.reasons import Reason, verdict
from morocco_lib.runners.contract import Limits, Runner
from morocco_lib.tasks.base import Task

__all__ = ["Asked", "Program", "bench", "command", "contained", "derive", "measure"]

ONES = "ones"
IDLE_S = 0.5
COLD_RUNS = 3
LEAST_REPEATS = 3
MORE_SHORT = 2  # than longer ones: of three starts all may be cold, of five hardly
MOST_REPEATS = 100  # for a precision that is never reached
PILOT_BATCHES, PILOT_GROWTH = 8, 8
PILOT_WORK_S = 0.3  # a speed read from less is no more than a guess
TIMED_WORK_S = 10.0  # of one run, where the input size is calibrated; energy counters need as much
MOST_RECORDS = 1_000_000
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True)
class Asked:
    """What is asked of the protocol; `bench` says what each means."""

    batch_size: int = 32
    input_size: int | None = None
    repeats: int | None = None
    precision: float = 0.02
    max_minutes: float = 30.0
    seed: int = 1
    quick: bool = False
    against: Path | None = None
    ones: bool = False

    def __post_init__(self):
        sizes = {"batch_size": self.batch_size, "input_size": self.input_size, "repeats": self.repeats}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}", rule="it is at least 1")
        if not (self.precision > 0 and self.max_minutes > 0):
            raise UsageError(f"precision {self.precision}, {self.max_minutes} minutes", rule="both are above 0")


def bench(
    program: Program,
    task: Task,
    source: Path,
    runner: Runner,
    limits: Limits,
    folder: Path,
    *,
    progress: Callable[[str], None] = lambda text: None,
    watch: Callable[[int], None] | None = None,
    expect: Callable[[int], None] = lambda records: None,
    turn: Callable[[], AbstractContextManager] = nullcontext,
    meet: Callable[[], None] = lambda: None,
    **asked: Any,
) -> dict[str, Any]:
    """Measure one operating point, write bench.json into `folder` and return it.

    Args:
        source: A JSONL file of the task's records; labels, if any, are stripped before feeding and used for the score.
        runner, limits: `ProcessRunner()` or one of containers, and what it lets a run use.
        folder: An existing folder without runs; gets runs/NN/ and bench.json. It is no step folder, as `morocco bench`
            and bench.ipynb make one: `report` and `verify` do not look into it.
        progress: Called with a line of text after each run; `progress=print` tells of every run.
        watch: Called with the number of answers of timed runs that came since it was called last, twice a second at most.
        expect: Called with the number of answers to come in timed runs, as far as it is known.
        turn: Entered around whatever keeps the machine busy, so that nothing else is measured at the same time; one
            within another is the same.
        meet: Called before the timed runs; returns when all that take turns with this one have come so far.
        batch_size: Records answered together: `--batch-size` of the program.
        input_size: Records fed in a timed run; the file is cycled, shuffled anew each time. None: as many as take about
            ten seconds, at least ten batches.
        repeats: Timed runs. None: at least three, until the speed's 95 % interval is narrower than `precision` of the
            speed, or the next run would pass `max_minutes`.
        seed: Of the shuffles.
        against: The folder of a point of the same sweep, whose answers these are held against.
        ones: Add as many runs of one record as there are timed ones, for logs in the original's format.
        quick: As one repeat is: timed runs only (and a pilot where the input size is calibrated): nothing is told of the
            contract, of cold starts, of kept answers, or of a speed that the stream of answers does not show.
    Returns:
        What bench.json holds: verdict, reasons, and speed_per_s, init_s (seconds), ram_bytes, score and others, each with
        value and 95 % interval (low, high), or with the reason there is none. `report.words.bench_lines` makes text of it.
    Raises:
        UsageError: the file of records cannot be read, no such program, a number out of range.
        EnvironmentFailure: the folder cannot be written, the engine failed; finished runs are kept.
    """
    protocol = _Protocol(
        program, task, source, runner, limits, Path(folder), Asked(**asked), progress, watch, expect, turn, meet
    )
    protocol.run()
    result = derive(folder)
    fileio.write_json(folder / BENCH, result)
    return result


class _Protocol:
    def __init__(self, program, task, source, runner, limits, folder, asked, progress, watch, expect, turn, meet):
        self.program, self.task, self.source, self.folder, self.asked = program, task, source, folder, asked
        self.runner, self.limits = runner, limits
        self.say, self.watch, self.expect, self.turn, self.meet = progress, watch, expect, turn, meet
        self.records = task.read(source)
        self.quick = asked.quick or asked.repeats == 1
        chosen = {name: value for name, value in asdict(asked).items() if name != "against"}
        self.facts: dict[str, Any] = {"schema": 1, "asked": chosen, "quick": self.quick}
        if asked.against:
            self.facts["against"] = os.path.relpath(asked.against, folder)
        self.short: list[estimate.Run] = []
        self.open = ExitStack()

    def run(self) -> None:
        with self.open:
            self._run()

    def _run(self) -> None:
        began = time.monotonic()
        if not self.quick:
            self._contract()
            self.facts["idle"] = self._idle()
            self._short_run()
            if _ended_well(self.short[0]):
                self._cold()
        size = self._size()
        self.meet()
        runs = self._timed(size)
        if not self.quick:
            self._cached(runs, size)
        if self.asked.ones:
            self._ones()
        self.facts["took_s"] = time.monotonic() - began
        fileio.write_json(self.folder / PROTOCOL, self.facts)

    def _measurement(self, load: workload.Workload, watch=None, batch_size: int | None = None) -> Measurement:
        return Measurement(
            self.program, load, self.source, self.runner, self.limits, self.folder,
            batch_size=batch_size or self.asked.batch_size, watch=watch, turn=self.turn,
        )  # fmt: skip

    def _few(self, size: int) -> workload.Workload:
        return workload.build(self.task, self.records, size, self.asked.seed)

    # -- before the timed runs -------------------------------------------------------------------------------------
    def _contract(self) -> None:
        if self.program.checked:
            self.facts["conformance"] = {"ok": True, "when": "image built", "failed": [], "warned": []}
            return
        with self.turn():
            report = conformance.check(self.program, self.task, self.source, self.runner, self.limits)
        failed, warned = report.rules(conformance.FAIL), report.rules(conformance.WARN)
        self.facts["conformance"] = {"ok": report.ok, "when": "now", "failed": failed, "warned": warned}
        self.say(f"contract: {'kept' if report.ok else 'broken: ' + ', '.join(failed)}")

    def _idle(self) -> dict[str, Any] | Reason:
        with self.turn():
            before = system_load.read()
            time.sleep(IDLE_S)
            return system_load.others(before, system_load.read(), 0.0)

    def _cold(self) -> None:
        self.facts["cold"] = None
        with self._measurement(self._few(self._short_size)) as measurement:
            for _ in range(COLD_RUNS):
                with self.turn():  # another's run in between would warm what they share
                    try:
                        drop_caches()
                    except OSError:
                        self.facts["cold"] = Reason.CACHES_KEPT
                        return
                    measurement.run(self.folder / "cold", "cold")

    @property
    def _short_size(self) -> int:
        size = self.asked.input_size
        return self.asked.batch_size if size is None or size >= 2 * self.asked.batch_size else 1

    @cached_property
    def _shorts(self) -> Measurement:
        return self.open.enter_context(self._measurement(self._few(self._short_size)))

    def _short_run(self) -> None:
        self.short.append(estimate.read_run(self._shorts.run(self.folder / "short", "short")))

    def _size(self) -> int:
        """Return the input size, calibrated if it was not given; and say how long the timed runs will take."""
        size, most, per_s, run = (
            PILOT_BATCHES * self.asked.batch_size,
            self.asked.input_size or MOST_RECORDS,
            None,
            None,
        )
        wanted = self.asked.input_size is None or not self.quick
        while wanted and size < most:
            with self._measurement(self._few(size)) as measurement:
                run = estimate.read_run(measurement.run(self.folder / "pilot", "pilot"))
            if not _ended_well(run):
                break
            per_s = self._roughly(run)
            if per_s is not None and size / per_s >= PILOT_WORK_S:
                break
            size *= PILOT_GROWTH
        chosen = self.asked.input_size or _rounded(per_s, self.asked.batch_size, size)
        if per_s:
            self._predict(chosen, per_s, run)
        return chosen

    def _roughly(self, run: estimate.Run) -> float | None:
        per_s = estimate.speed([run], self.short)[0]["value"]
        if per_s is not None:
            return per_s
        start_s = self.short[0].total_s if self.short else 0.0
        more_s = run.total_s - start_s
        return run.lines / more_s if more_s > max(PILOT_WORK_S, estimate.START_JITTER * start_s) else None

    def _predict(self, size: int, per_s: float, run: estimate.Run) -> None:
        start_s = max(0.0, run.total_s - run.lines / per_s)
        count = self.asked.repeats or LEAST_REPEATS
        timed_s = count * (start_s + size / per_s)
        extra = 0 if self.quick else 2 * cache_probe.PAIRS
        extra_s = extra * (start_s + cache_probe.size_for(per_s, self.asked.batch_size, size) / per_s)
        self.facts["predicted_s"] = timed_s + extra_s
        more = "" if self.asked.repeats else " or more"
        also = f" and {extra} short ones that look for kept answers" if extra else ""
        self.say(f"{count}{more} runs of {size} records{also}: about {_duration(timed_s + extra_s)}")

    # -- the timed runs --------------------------------------------------------------------------------------------
    def _timed(self, size: int) -> list[estimate.Run]:
        """Make and return the timed runs."""
        runs: list[estimate.Run] = []
        pairs, took_s = False, 0.0
        with self._measurement(self._few(size), self.watch) as measurement:
            while True:
                self.expect(size * max(self.asked.repeats or LEAST_REPEATS, len(runs) + 1))
                with self.turn():  # one for both runs of a pair, and waiting for it is no time of ours
                    began = time.monotonic()
                    runs.append(estimate.read_run(measurement.run(self.folder, "bench")))
                    run = runs[-1]
                    of = f" of {self.asked.repeats}" if self.asked.repeats else ""
                    if len(runs) <= 10 or len(runs) % 10 == 0:
                        self.say(f"run {len(runs)}{of}: {run.lines} answers, {run.facts['phases']['exit_s']:.2f} s")
                    if len(runs) == 1 and not self.quick and _ended_well(run):
                        pairs = estimate.speed(runs, self.short)[0].get("method") in (None, "paired")
                    while pairs and len(self.short) < len(runs) + MORE_SHORT:
                        self._short_run()
                    took_s += time.monotonic() - began
                if stopped := self._enough(runs, pairs, took_s):
                    self.facts["stopped_by"] = stopped
                    break
        return runs

    def _enough(self, runs: list[estimate.Run], pairs: bool, took_s: float) -> str | None:
        asked = self.asked
        warm = len(runs)
        if pairs:  # one that started cold tells nothing: it is made again, within reason
            warm = len(throughput.warm_pairs([s.total_s for s in self.short], [run.total_s for run in runs]))
        if asked.repeats:
            return "repeats" if warm >= asked.repeats or len(runs) >= 2 * asked.repeats else None
        if len(runs) < LEAST_REPEATS:
            return None
        if not all(map(_ended_well, runs)):
            return "invalid runs"
        speed = estimate.speed(runs, self.short)[0]
        if speed["value"] is None:
            return "no speed"
        if speed["high"] - speed["low"] < asked.precision * speed["value"]:
            return "precision"
        if took_s * (len(runs) + 1) / len(runs) > asked.max_minutes * 60:
            return "max_minutes"
        return "most repeats" if len(runs) >= MOST_REPEATS else None

    # -- after them ------------------------------------------------------------------------------------------------
    def _cached(self, runs: list[estimate.Run], size: int) -> None:
        if not all(map(_ended_well, (*self.short, *runs))):
            return
        speed_per_s = estimate.speed(runs, self.short)[0]
        start_s = estimate.start_s(runs, speed_per_s)["value"] or 0.0
        size = cache_probe.size_for(speed_per_s["value"], self.asked.batch_size, size, start_s)
        seed = int.from_bytes(os.urandom(6))  # none that a cache from an earlier measurement could know
        self.facts["cached"] = {"size": size, "seed": seed}
        for pair in range(1, cache_probe.PAIRS + 1):
            unique, repeated = cache_probe.workloads(self.task, self.records, size, seed, pair)
            loads = {"unique": unique, "repeated": repeated}
            with self.turn():  # both of a pair in one
                for _, kind in (step for step in cache_probe.sequence() if step[0] == pair):
                    with self._measurement(loads[kind]) as measurement:
                        measurement.run(self.folder / "cached" / kind, kind)

    def _ones(self) -> None:
        load = self._few(1)
        with self._measurement(load, batch_size=1) as measurement:
            for _ in run_folders(self.folder):
                measurement.run(self.folder / ONES, "one record")


def drop_caches() -> None:
    """Make the kernel forget what it holds of files, so that the next start reads them from the disk; raises OSError.

    Limits: of the whole machine, not of one program; caches of a host below, or of the disk itself, stay.
    """
    os.sync()
    DROP_CACHES.write_text("3\n")


def _ended_well(run: estimate.Run) -> bool:
    return verdict(exit_reasons(run.facts["exit"])) == "VALID"


def _rounded(per_s: float | None, batch_size: int, fallback: int) -> int:
    wanted = fallback if per_s is None else max(per_s * TIMED_WORK_S, 10 * batch_size)
    return min(MOST_RECORDS, batch_size * round(wanted / batch_size))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
