"""Runs a plan: each step of each model and task in a fresh kernel through papermill, and what is done stays done."""

import fcntl
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import chain, count, product
from pathlib import Path
from typing import Any

from morocco_lib import config
from morocco_lib.artifacts import steps
from morocco_lib.errors import EnvironmentFailure, MoroccoError, UsageError
from morocco_lib.options import SYNTHETIC
from morocco_lib.pipeline import cost_preview, resolve, scheduler, writable_home
from morocco_lib.pipeline.notebook_runner import check_loopback, execute
from morocco_lib.pipeline.progress import DONE, FAILED, KEPT, SKIPPED, TO_DO, PlanResult, Progress, StepResult
from morocco_lib.pipeline.session import inputs_of, key_of
from morocco_lib.pipeline.signals import Signals
from morocco_lib.pipeline.synthetic_step import synthetic_step
from morocco_lib.report import build, seeds_table, tables
from morocco_lib.tasks import get_task

LOCK = ".lock"
DATA_VARIABLE = "MOROCCO_DATA"  # read here and nowhere else, and injected as data_dir


class PlanRun:
    """One go at a plan.

    Args:
        plan: The validated plan.
        root: Project root.
        plan_dir: Where its step folders are.
        data_dir: Replaces the plan's own.
        force: Repeat what is done.
    """

    def __init__(
        self, plan: config.PlanParams, root: Path, plan_dir: Path, data_dir: str | None = None, force: bool = False
    ):
        self.plan, self.root, self.plan_dir, self.force = plan, root, Path(plan_dir), force
        self.data_dir = data_dir or plan.data_dir
        self.machine = resolve.settle(config.load_machine(plan.machine, root))
        self.models = {name: config.load_model(name, root) for name in plan.models}
        trained = {get_task(name).weights_of for name in plan.tasks}  # LiDiRus is answered by what TERRa trained
        self.tasks = {name: config.load_task(name, root) for name in dict.fromkeys((*plan.tasks, *sorted(trained)))}

    def cells(self) -> Iterator[tuple[str, str]]:
        """Yield (model, task) in the order of the plan, task by task."""
        for task in self.plan.tasks:
            for model in self.plan.models:
                yield model, task

    def cell_steps(self) -> list[str]:
        return [name for name in config.CELL_STEPS if name in self.plan.steps]

    def order(self) -> Iterator[tuple[str, str]]:
        """Yield (task, step) in the order of execution: a step is taken with all models before the next one."""
        return product(self.plan.tasks, self.cell_steps())

    def parameters(self, step: str, model: str, task: str, weights_dir: str) -> Any:
        """Return the validated parameters of one step, overrides applied in the order of the plan."""
        scalars = {name: getattr(self.plan, name) for name in config.PlanScalars.model_fields}
        task_params = self.tasks[task]
        for override in self.plan.overrides:
            if override.model in (None, model) and override.task in (None, task):
                chosen = override.model_dump(exclude_none=True, exclude={"model", "task"})
                scalars |= {name: value for name, value in chosen.items() if name in scalars}
                task_params = task_params.model_copy(
                    update={n: v for n, v in chosen.items() if n in ("files", "split")}
                )
        known = config.PARAMS[step].model_fields
        values = {name: value for name, value in scalars.items() if name in known}
        if "weights_dir" in known:
            values["weights_dir"] = weights_dir
        return config.PARAMS[step](
            model=self.models[model],
            task=task_params,
            machine=self.machine,
            data_dir=self.data_dir,
            seed=self.plan.seed,
            **values,
        )

    def folder_of(self, step: str, p: Any, inputs: dict[str, Path]) -> tuple[Path, str]:
        key = key_of(step, p, inputs)
        return self.plan_dir / p.model.name / p.task.name / f"{step}-{key}", key

    def check_data(self) -> None:
        """Raise UsageError if the data folder is not there."""
        if self.data_dir != SYNTHETIC and not (folder := config.resolve(self.data_dir, self.root)).is_dir():
            raise UsageError(
                f"no data folder {folder}",
                remedy=f"set {DATA_VARIABLE} to a folder in the official layout, or unset it",
            )

    def prepare(self) -> None:
        """Make synthetic records if the plan wants them."""
        self.check_data()
        if self.data_dir == SYNTHETIC:
            self.data_dir = self._path(synthetic_step(self.plan_dir, list(self.tasks), self.plan.seed))

    def _path(self, path: Path) -> str:
        # As a parameter: from the root where possible, so that a notebook reads the same on every machine.
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def run(self, progress, check: Callable[[], None] = lambda: None) -> PlanResult:
        """Run every step that is not done; a failed one takes only the later steps of its cell with it.

        Args:
            progress: Called with (StepResult, "start" | "end").
            check: Called between and during steps; what it raises ends the plan, the running step marked as killed.
        """
        cells = {cell: {s: StepResult(*cell, s, SKIPPED) for s in self.cell_steps()} for cell in self.cells()}
        result = PlanResult(self.plan_dir, [this for cell in cells.values() for this in cell.values()])
        self.prepare()
        for task, step in self.order():
            due = []
            for model in self.plan.models:
                cell = cells[model, task]
                this, trained = cell[step], cell.get("train")
                if broken := next((s.step for s in cell.values() if s.state == FAILED), None):
                    this.error = f"{broken} failed"
                    progress(this, "end")
                    continue
                weights_dir = self._path(trained.folder) if trained and trained.folder else ""
                due.append((this, partial(self._cell, step, model, task, weights_dir)))
            if step == "bench" and len(due) > 1:
                self._in_turn(due, progress, check)
                continue
            for this, prepare in due:
                self._step(this, prepare, progress, check)
                seeds_table.write(self.plan_dir)
        if "report" in self.plan.steps and any(
            s.step in ("bench", "eval") and s.state in (DONE, KEPT) for s in result.steps
        ):
            this = StepResult(None, None, "report", SKIPPED)
            result.steps.append(this)
            self._step(this, self._report, progress, check)
            if this.state != FAILED:
                result.page = this.folder / build.PAGE
        return result

    def _in_turn(self, due: list[tuple[StepResult, Callable]], progress, check) -> None:
        """Run steps together, a kernel each, in which only one run is measured at a time, in turn: see `turns`."""
        ended: list[BaseException] = []

        def check_ended() -> None:
            if ended:
                raise ended[0]

        def one(seat: scheduler.Seat, this: StepResult, prepare: Callable) -> None:
            try:
                self._step(this, prepare, progress, check_ended, seat)
            finally:
                seat.leave()

        groups = -(-len(due) // scheduler.SEATS)
        for group in (due[first::groups] for first in range(groups)):
            with scheduler.Turns(len(group)) as given, ThreadPoolExecutor(len(group)) as pool:
                underway = [pool.submit(one, seat, *step) for seat, step in zip(given.seats, group, strict=True)]
                try:
                    while wait(underway, 0.1).not_done:
                        check()
                except BaseException as error:
                    ended.append(error)  # they end their kernels, and are waited for
                    raise
            for step in underway:
                step.result()

    def _cell(self, step: str, model: str, task: str, weights_dir: str):
        if step == "train":
            task = get_task(task).weights_of
        p = self.parameters(step, model, task, weights_dir)
        inputs = inputs_of(step, p, self.root)
        folder, key = self.folder_of(step, p, inputs)
        return p, inputs, folder, key

    def _report(self):
        inputs = build.inputs_of(self.plan_dir)
        p = config.ReportParams(plan_dir=self._path(self.plan_dir))
        key = key_of("report", p, inputs)
        folder = self.plan_dir / f"report-{key}"
        for older in self.plan_dir.glob("report-*"):
            if not steps.is_retired(older) and older != folder:
                steps.retire(older)  # it shows what was, and rests on files that may have been set aside
        return p, inputs, folder, key

    def _step(self, this: StepResult, prepare, progress, check, seat: scheduler.Seat | None = None) -> None:
        check()
        began = time.monotonic()
        progress(this, "start")
        try:
            p, inputs, this.folder, key = prepare()
            status = steps.read_status(this.folder) if (this.folder / steps.STATUS).exists() else None
            if status and status["state"] == steps.DONE and not self.force:
                this.state, this.exit = KEPT, status["exit"]
            else:
                if status and status["state"] == steps.DONE:
                    (self.plan_dir / seeds_table.RESULTS).unlink(missing_ok=True)  # it may tell of what is set aside
                steps.retire(this.folder)
                this.exit = execute(this.step, p, inputs, this.folder, key, self.root, check, seat)
                this.state = DONE
        except MoroccoError as error:
            this.state, this.exit, this.error = FAILED, error.exit_code, str(error)
        this.seconds = time.monotonic() - began
        progress(this, "end")

    def preview(self) -> list[StepResult]:
        """Return what `run` would do, in its order, as far as it can be known before weights exist; writes nothing."""
        listed, weights_dirs, trained = [], {}, set()
        known = dict.fromkeys(self.cells(), self.data_dir != SYNTHETIC)
        for (task, step), model in product(self.order(), self.plan.models):
            cell, this = (model, task), StepResult(model, task, step, TO_DO)
            listed.append(this)
            if step == "train":
                shared = (model, get_task(task).weights_of)
                this.state = KEPT if shared in trained else TO_DO  # LiDiRus is answered by what TERRa trained
                trained.add(shared)
            if not known[cell]:
                continue
            try:
                _, _, this.folder, _ = self._cell(step, model, task, weights_dirs.get(cell, ""))
            except MoroccoError as error:
                this.state, this.exit, this.error = FAILED, error.exit_code, str(error)
                known[cell] = False
                continue
            done = (this.folder / steps.STATUS).exists() and steps.read_status(this.folder)["state"] == steps.DONE
            if done and not self.force:
                this.state = KEPT
            if step == "train":
                weights_dirs[cell], known[cell] = self._path(this.folder), done
        if "report" in self.plan.steps:
            listed.append(StepResult(None, None, "report", TO_DO))
        return listed


# -- the verb ------------------------------------------------------------------------------------------------------
def plan_folder(plan: config.PlanParams, root: Path, out: Path | None, fresh: bool) -> Path:
    """Return where a plan's step folders go."""
    if out:
        return out.resolve()
    folder = root / "outputs" / plan.name
    if fresh:
        stamped = folder.with_name(f"{plan.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
        names = chain([stamped], (stamped.with_name(f"{stamped.name}-{n}") for n in count(2)))
        folder = next(name for name in names if not name.exists())  # the clock may have been set back
    return folder


@contextmanager
def lock(plan_dir: Path) -> Iterator[None]:
    """Hold a plan folder for this process alone; the system lets go of it however the process ends.

    Raises:
        EnvironmentFailure: another process works on it, which is named; or the folder cannot be written.
    """
    try:
        plan_dir.mkdir(parents=True, exist_ok=True)
        file = (plan_dir / LOCK).open("a+")
    except OSError as error:
        raise EnvironmentFailure(
            f"cannot write {plan_dir}: {error.strerror}", remedy="choose another folder with --out"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise EnvironmentFailure(
                f"{plan_dir} is being worked on by {file.read().strip() or 'another run'}",
                rule="one run at a time in a plan folder",
                remedy="wait for it, end it, or give --out another folder",
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} since {steps.now()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def main(args, say, show) -> int:
    """Run the verb `run`; talk goes to `say`, a result for machines to `show`."""
    from morocco_lib.artifacts import verify

    plan = config.load_plan(args.plan)
    root = config.find_root(args.plan.resolve().parent) or config.project_root()
    data_dir = os.environ.get(DATA_VARIABLE)
    plan_dir = plan_folder(plan, root, args.out, args.fresh)
    job = PlanRun(plan, root, plan_dir, str(Path(data_dir).resolve()) if data_dir else None, args.force)
    source = "synthetic" if job.data_dir == SYNTHETIC else job.data_dir
    say(f"plan {plan.name}: {source} records; results go to {plan_dir}")
    if job.machine.chosen:
        say(job.machine.chosen)
    if args.dry_run:
        listed = job.preview()
        for s in listed:
            print(
                "  ".join(
                    [s.state.ljust(6), s.step.ljust(6), f"{s.model or ''} {s.task or ''}".strip(), s.error or ""]
                ).rstrip()
            )
        for line in cost_preview.lines(job.models, plan_dir, listed, None if plan.repeats else plan.max_minutes, root):
            print(line)
        return max((s.exit for s in listed), default=0)
    if plan_dir.exists() and not plan_dir.is_dir():
        raise UsageError(f"{plan_dir} is a file", remedy="give --out a folder")
    job.check_data()
    total = len(list(job.cells())) * len(job.cell_steps()) + ("report" in plan.steps)
    check_loopback()
    with lock(plan_dir), writable_home.lent(plan_dir), Signals() as signals:
        result = job.run(Progress(total, say, bar=not args.quiet and sys.stderr.isatty()), signals.check)
    rows = tables.collect(plan_dir)
    new = {s.folder.resolve() for s in result.steps if s.folder and s.state == DONE}
    findings = verify.verify(plan_dir, new)
    broken = [f for f in findings if not f.ok]
    code = max(result.exit, 1 if broken else 0)
    if args.json:
        show(
            {
                "schema": 1,
                "plan_dir": str(plan_dir),
                "exit": code,
                "report": str(result.page) if result.page else None,
                "verified": not broken,
                "steps": [{**s.__dict__, "folder": str(s.folder) if s.folder else None} for s in result.steps],
                "rows": rows,
            }
        )
        return code
    print(tables.text_table(rows))
    for line in tables.remarks(rows):
        print(f"- {line}")
    print(verify.table(findings))
    if any(s.state == KEPT for s in result.steps):
        print(
            f"kept steps were held against their digests; `morocco verify {_shown(plan_dir)}` rebuilds their numbers too"
        )
    if result.page:
        print(f"report: {_shown(result.page)}")
    return code


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
