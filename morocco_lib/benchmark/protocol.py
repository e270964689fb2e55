"""The protocol: what is run in which order at one operating point. How much of it, and when it is enough: `extent`.

    contract      the program is checked against it with a few records       conformance in protocol.json
    idle          load of the machine by other processes                     idle in protocol.json
    short         one batch, fed at once: what start-up and first use cost   short/runs/NN
    cold          the same three times, file caches dropped before           cold/runs/NN
    withheld      one batch, fed when the program is ready and quiet, or     withheld/runs/NN
                  where that changes more, later; so are all that follow
    pilot         more records each time, until a speed can be computed      pilot/runs/NN
    timed         the repeats; where the stream of answers does not explain  runs/NN
                  all time since feeding, each beside one of fewer records   smaller/runs/NN
                  and at last one of more                                    larger/runs/NN
    cached        new texts alone against the records of the file, in turn   cached/unique/runs/NN, cached/repeated/runs/NN
    ones          runs of one record, only for logs in the original's format   ones/runs/NN

What a run is fed is drawn when it is made, so nobody can know it before. `bench.json` is derived from these by
`summary.derive`. In a cell of one's own, in a folder that holds synthetic records (`morocco data synthetic terra --out records`):

    from pathlib import Path
    from morocco_lib import Target, bench, get_task

    Path("measured").mkdir()
    target = Target.of_command("python3 my_model.py")
    records = Path("records/TERRa/val.jsonl")
    result = bench(target, get_task("terra"), records, Path("measured"), input_size=2000, batch_size=32, repeats=3)
    result["speed_per_s"]  # value, low, high: records a second
"""

import os
import random
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from morocco_lib import fileio, formatting
from morocco_lib.analysis import throughput
from morocco_lib.analysis.caching import PAIRS
from morocco_lib.analysis.run_files import Run, read_run, run_folders
from morocco_lib.analysis.startup import start_s
from morocco_lib.analysis.summary import BENCH, LEAST_REPEATS, PROTOCOL, derive, kept_answers
from morocco_lib.analysis.validity import disturbances, ended_well, load_reasons
from morocco_lib.benchmark import conformance, extent
from morocco_lib.benchmark.extent import REST_S, REST_SHARE, Settings
from morocco_lib.benchmark.run import RunSeries
from morocco_lib.benchmark.target import NO_HOOKS, Hooks, Target
from morocco_lib.benchmark.withholding import Withholding
from morocco_lib.data import workload
from morocco_lib.monitors import system_load
from morocco_lib.reasons import Reason
from morocco_lib.tasks.base import Task

SINGLE_RECORD = "ones"
IDLE_S = 0.5
QUIET_S, MOST_WAIT_S = 0.3, 60.0  # a look at the machine before a timed run; how long to wait for a quiet one
COLD_RUNS = 3
STARTS = 3  # fed at once, where neither a ready line nor quiet shows when the start-up is over
QUICK_MOST_S = 60.0  # until a program is fed that is never quiet, where nothing is known of it
LATER = 1.6  # times a start with one batch: by then even one slowed by cold files is over
LARGER_TRIES = 3  # where the machine is busy
# Of the runs that look for a cache, and how many records of the file they are fed; None: as many as it has.
KINDS = (("unique", 0), ("repeated", None))
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def bench(
    target: Target, task: Task, source: Path, folder: Path, *, hooks: Hooks = NO_HOOKS, **settings: Any
) -> dict[str, Any]:
    """Measure one operating point, write bench.json into `folder` and return it.

    Args:
        target: The program, its runner and its limits: `Target.of_command(...)` or `Target.of_image(...)`.
        task: `get_task("terra")`.
        source: A JSONL file of the task's records; labels, if any, are stripped before feeding and used for the score.
        folder: An existing folder without runs; gets runs/NN/ and bench.json. It is no step folder, as `morocco bench`
            and bench.ipynb make one: `report` and `verify` do not look into it.
        hooks: Callbacks: `Hooks(progress=print)`.
        batch_size: Records answered together: `--batch-size` of the program (default 32).
        input_size: Records fed in a timed run, drawn and shuffled anew each time; what the file lacks is recombined from
            its records. None: as many as take about ten seconds, at least ten batches.
        repeats: Timed runs. None: at least three, until the speed's 95 % interval is narrower than `precision` (a share of
            the speed, default 0.02), or the next run would pass `max_minutes` (default 30).
        seed: Of what runs are fed, to make the same streams again. None: drawn anew, so that nobody can know it before.
        baseline: The folder of a point of the same sweep, whose answers these are compared with.
        single_record: Add as many runs of one record as there are timed ones, for logs in the original's format.
        quick: Timed runs only, as with one repeat (and a pilot where the input size is calibrated): no check of the
            contract, no cold starts, no look for a cache, no speed where the stream of answers gives none.
    Returns:
        What bench.json holds: verdict, reasons, and speed_per_s, init_s (seconds), ram_bytes, score and others, each with
        value and 95 % interval (low, high), or with the reason there is none. `formatting.bench_lines` makes text of it.
    Raises:
        UsageError: the file of records cannot be read, no such program, a number out of range.
        EnvironmentFailure: the folder cannot be written, the engine failed; finished runs are kept.
    """
    _Protocol(target, task, Path(source), Path(folder), Settings(**settings), hooks).run()
    result = derive(folder)
    fileio.write_json(Path(folder) / BENCH, result)
    return result


class _Protocol:
    def __init__(self, target: Target, task: Task, source: Path, folder: Path, settings: Settings, hooks: Hooks):
        self.target, self.task, self.source, self.folder = target, task, source, folder
        self.settings, self.hooks = settings, hooks
        self.records = task.read(source)
        self.quick = settings.timed_only
        requested = asdict(settings)
        baseline, requested["ones"] = requested.pop("baseline"), requested.pop("single_record")
        self.facts: dict[str, Any] = {"schema": 1, "asked": requested, "quick": self.quick}
        if baseline:
            self.facts["against"] = os.path.relpath(baseline, folder)
        self.seeds = random.SystemRandom() if settings.seed is None else random.Random(settings.seed)
        self.short: list[Run] = []
        self.smaller: list[Run] = []
        self.withheld = Withholding(QUICK_MOST_S)
        self.rest = 0, 0.0  # records of a small run, and seconds from its first byte to its last answer

    def run(self) -> None:
        began = time.monotonic()
        if not self.quick:
            self._contract()
            self.facts["idle"] = self._idle()
            self._short_run()
            if ended_well(self.short[0]):
                self._cold()
                self._withhold()
        size = self._size()
        self.hooks.barrier()
        runs = self._timed(size)
        if not self.quick and all(map(ended_well, (*self.short, *self.smaller, *runs))):
            self._after(runs, size)
        if self.settings.single_record:
            self._single_record_runs()
        self.facts["took_s"] = time.monotonic() - began
        fileio.write_json(self.folder / PROTOCOL, self.facts)

    def _series(
        self, size: int, *, true: int | None = None, batch_size: int | None = None, **settings: Any
    ) -> RunSeries:
        load = workload.build(self.task, self.records, size, self.seeds.getrandbits(48), true)
        settings = {"withheld": self.withheld, "hooks": Hooks(turn=self.hooks.turn), **settings}
        batch_size = batch_size or self.settings.batch_size
        return RunSeries(self.target, load, self.source, self.folder, batch_size=batch_size, **settings)

    def _one(self, size: int, stage: str, purpose: str | None = None, **settings: Any) -> Run:
        """Draw what is fed; make and return one run of a stage."""
        with self.hooks.turn(), self._series(size, **settings) as series:  # drawing uses the machine, too
            return read_run(series.run(self.folder / stage, purpose or Path(stage).name))

    # -- before the timed runs -------------------------------------------------------------------------------------
    def _contract(self) -> None:
        if self.target.program.checked:
            self.facts["conformance"] = {"ok": True, "when": "image built", "failed": [], "warned": []}
            return
        with self.hooks.turn():
            report = conformance.check(self.target, self.task, self.source)
        failed, warned = report.rules(conformance.FAIL), report.rules(conformance.WARN)
        self.facts["conformance"] = {"ok": report.ok, "when": "now", "failed": failed, "warned": warned}
        self.hooks.progress(f"contract: {'kept' if report.ok else 'broken: ' + ', '.join(failed)}")

    def _idle(self) -> dict[str, Any] | Reason:
        with self.hooks.turn():
            return system_load.look(IDLE_S)

    def _cold(self) -> None:
        self.facts["cold"] = None
        for _ in range(COLD_RUNS):
            # In one turn: another program's run in between would warm shared files.
            with self.hooks.turn(), self._series(self.settings.short_size, withheld=None) as series:
                try:
                    drop_caches()
                except OSError:
                    self.facts["cold"] = Reason.CACHES_KEPT
                    return
                series.run(self.folder / "cold", "cold")

    def _short_run(self) -> None:
        self.short.append(self._one(self.settings.short_size, "short", withheld=None))

    def _withhold(self) -> None:
        """Find out when to feed: the later the less of the start-up is in what follows, until nothing changes."""
        start, size = self.short[0], self.settings.short_size
        whole_s = start.arrivals[-1][0] if start.arrivals else start.total_s
        self.withheld = Withholding(2 * whole_s + 1.0, ready=start.ready_s is not None)
        probe = self._one(size, "withheld")
        if probe.ready_s is None or probe.ready_s > probe.fed_s:  # printed only when it has read
            self.withheld = replace(self.withheld, ready=False)
        rest_s = extent.since_fed(probe)
        if rest_s > max(REST_S, REST_SHARE * whole_s):
            later = replace(self.withheld, least_s=LATER * whole_s + REST_S, most_s=(1 + LATER) * whole_s + 1.0)
            later_s = extent.since_fed(self._one(size, "withheld", withheld=later))
            if later_s < rest_s - max(REST_S, REST_SHARE * rest_s):
                self.withheld, rest_s = later, later_s
        self.rest = size, rest_s

    def _size(self) -> int:
        """Return the input size, calibrated if it was not given; report how long the timed runs will take."""
        batch_size, given = self.settings.batch_size, self.settings.input_size
        size, most = extent.PILOT_BATCHES * batch_size, given or extent.MOST_RECORDS
        per_s = run = None
        while (given is None or not self.quick) and size < most:
            run = self._one(size, "pilot")
            if not ended_well(run):
                break
            per_s = extent.roughly(run, self.rest, self.settings)
            if per_s is not None and size / per_s >= extent.PILOT_WORK_S:
                break
            size *= extent.PILOT_GROWTH
        chosen = given or extent.calibrated(per_s, batch_size, size)
        if per_s:
            self._predict(chosen, per_s, run)
        return chosen

    def _predict(self, size: int, per_s: float, run: Run) -> None:
        start_s = max(0.0, run.total_s - run.lines / per_s)
        count = self.settings.repeats or LEAST_REPEATS
        timed_s = count * (start_s + size / per_s)
        extra = 0 if self.quick else len(KINDS) * PAIRS
        extra_s = extra * (start_s + self._probe_size(per_s, size) / per_s)
        self.facts["predicted_s"] = timed_s + extra_s
        more = "" if self.settings.repeats else " or more"
        also = f" and {extra} short ones that look for a cache" if extra else ""
        self.hooks.progress(f"{count}{more} runs of {size} records{also}: about {_duration(timed_s + extra_s)}")

    def _probe_size(self, per_s: float | None, size: int, first_use_s: float = 0.0) -> int:
        return extent.probe_size(per_s, self.settings.batch_size, len(self.records), size, first_use_s)

    # -- the timed runs --------------------------------------------------------------------------------------------
    def _timed(self, size: int) -> list[Run]:
        """Make and return the timed runs."""
        runs: list[Run] = []
        took_s = 0.0
        while not (stopped := runs and extent.enough(self.settings, runs, self.smaller, took_s)):
            self.hooks.expect(size * max(self.settings.repeats or LEAST_REPEATS, len(runs) + 1))
            with self.hooks.turn():  # one for both runs of a pair; waiting for it does not count as time spent
                self._wait_for_quiet()
                began = time.monotonic()
                run = self._one(size, ".", "bench", hooks=self.hooks)
                runs.append(run)
                if len(runs) <= 10 or len(runs) % 10 == 0:
                    self.hooks.progress(
                        f"{self._run_name(len(runs))}: {run.lines} answers, {run.facts['phases']['exit_s']:.2f} s"
                    )
                if not self.quick and size > 1 and all(map(ended_well, runs)) and not throughput.balanced(runs):
                    while len(self.smaller) < len(runs):
                        few = extent.drawn(size, self.settings.batch_size, extent.SMALLER)
                        self.smaller.append(self._one(few, "smaller"))
                took_s += time.monotonic() - began
        self.facts["stopped_by"] = stopped
        return runs

    def _wait_for_quiet(self) -> None:
        """Wait a minute at most until other processes leave the machine alone; where that was in vain, not again."""
        if self.quick or self.facts.get("waited_s", 0.0) >= MOST_WAIT_S:
            return
        began, reported = time.monotonic(), False
        while isinstance(load := system_load.look(QUIET_S), dict) and (reasons := load_reasons(load)):
            if not reported:
                waiting = f"waiting up to {MOST_WAIT_S:.0f} s for a quiet machine"
                self.hooks.progress(f"{waiting}: {formatting.load_text(load)} ({reasons[0]})")
                reported = True
            if time.monotonic() - began > MOST_WAIT_S:
                break
        self.facts["waited_s"] = max(self.facts.get("waited_s", 0.0), time.monotonic() - began)

    def _run_name(self, number: int) -> str:
        repeats = self.settings.repeats
        if repeats and number > repeats:
            return f"run {number} (beyond the {repeats} requested: one that was disturbed is repeated)"
        return f"run {number} of {repeats}" if repeats else f"run {number}"

    # -- after them ------------------------------------------------------------------------------------------------
    def _after(self, runs: list[Run], size: int) -> None:
        """Make the runs that show what else the speed must explain: more records, starts, the file's records and new ones."""
        speed = throughput.read(runs, self.smaller)
        per_s = speed.estimate["value"]
        if self.smaller and speed.first_use_s:
            more = extent.drawn(size, self.settings.batch_size, extent.LARGER)
            if per_s is not None and speed.first_use_s + more / per_s < self.settings.max_minutes * 60:
                for _ in range(LARGER_TRIES):
                    with self.hooks.turn():
                        self._wait_for_quiet()
                        if not disturbances(self._one(more, "larger")):
                            break
        if start_s(runs, speed, self.short).get("method") == "total":
            while len(self.short) < STARTS:
                self._short_run()
        if not workload.opening_words(self.task, self.records):
            self.facts["cached"] = Reason.TEXTS_REPEAT
            return
        few = self._probe_size(per_s, size, speed.first_use_s)
        self.facts["cached"] = {"size": few}
        for pair in range(2 * PAIRS):
            if pair == PAIRS:  # what is found is looked for again: a machine may be slow at the wrong moments
                found = kept_answers(self.folder, self.facts, speed.first_use_s)
                if not (found["fires"] or found.get("skips")):
                    break
            with self.hooks.turn():  # both of a pair in one; in turn, so that a drift of the machine affects both alike
                for kind, true in KINDS[:: (-1) ** pair]:
                    self._one(few, f"cached/{kind}", true=true)

    def _single_record_runs(self) -> None:
        for _ in run_folders(self.folder):
            self._one(1, SINGLE_RECORD, "one record", batch_size=1)


def drop_caches() -> None:
    """Drop the kernel's file cache, so that the next start reads from the disk; raises OSError.

    Limits: of the whole machine, not of one program; caches of a hypervisor or of the disk itself stay.
    """
    os.sync()
    DROP_CACHES.write_text("3\n")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
