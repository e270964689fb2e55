"""Runs a plan: each step of each model and task in a fresh kernel; finished steps are kept and not repeated."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from morocco_lib import config
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.step_kind import CELL, MODEL, PLAN, POINT, SCORE, StepKind
from morocco_lib.config.pretraining import RANGE_TEST
from morocco_lib.config.schema import parse_seeds
from morocco_lib.errors import InvalidResult, MoroccoError, UsageError
from morocco_lib.options import SYNTHETIC
from morocco_lib.pipeline import scheduler, targets
from morocco_lib.pipeline.job import Job
from morocco_lib.pipeline.notebook_runner import Stalled, run_notebook
from morocco_lib.pipeline.progress import DONE, FAILED, KEPT, SKIPPED, TO_DO, PlanResult, StepResult
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.pipeline.synthetic_step import synthetic_step
from morocco_lib.report import build, seeds_table
from morocco_lib.tasks import get_task

ATTEMPTS = 3  # at a training that stalls
DATA_VARIABLE = "MOROCCO_DATA"  # read here and nowhere else, and injected as data_dir


class PlanRun:
    """One run of a plan.

    Args:
        plan: The validated plan.
        root: Project root.
        plan_dir: Where its step folders are.
        data_dir: Replaces the plan's own.
        force: Repeat what is done.
        shard: (2, 3): the second of three parts, which machines may run beside each other. Tasks that are answered by the same
            training are in one part, with all models.
        elsewhere: Its steps are run by others: only the plan's own (the report) are run here.
    Raises:
        UsageError: the plan does not fit together, or has fewer parts.
    """

    def __init__(
        self, plan: config.PlanParams, root: Path, plan_dir: Path, data_dir: str | None = None, force: bool = False,
        shard: tuple[int, int] = (1, 1), elsewhere: bool = False,
    ):  # fmt: skip
        self.elsewhere, self.plan, self.root, self.plan_dir, self.force = elsewhere, plan, root, Path(plan_dir), force
        self.data_dir = data_dir or plan.data_dir
        self.machine = targets.resolve_runner(config.load_machine(plan.machine, root))
        self.models = {name: config.load_model(name, root, plan.own) for name in plan.model_names}
        self._check_pretraining()
        trained = {name: get_task(name).trained_on for name in plan.tasks}  # LiDiRus is answered with TERRa's weights
        names = dict.fromkeys((*plan.tasks, *sorted(trained.values())))
        self.tasks = {name: config.load_task(name, root) for name in names}
        self.parts, (number, count) = list(dict.fromkeys(trained.values())), shard
        if count > len(self.parts):
            raise UsageError(
                f"part {number} of {count}", rule=f"a part has whole tasks, and {plan.name} trains on {len(self.parts)}",
                remedy="take as many machines at most",
            )  # fmt: skip
        self.is_part = count > 1
        mine = [name for name in plan.tasks if trained[name] in self.parts[number - 1 :: count]]
        self.plan = plan.model_copy(update={"tasks": mine})

    def _check_pretraining(self) -> None:
        names = list(self.models)
        for place, name in enumerate(names):
            given, teacher = self.models[name].pretraining, self._teacher(name)
            if given and given.recipe.schedule == RANGE_TEST and self.cell_steps(name):
                raise UsageError(f"{name} is a range test, which leaves no model", remedy="steps: [pretrain]")
            if teacher and (teacher not in names[:place] or not self.models[teacher].pretraining):
                raise UsageError(
                    f"{name} learns from {teacher}",
                    rule="a teacher of the plan is pre-trained in it, before its students",
                )

    def _teacher(self, model: str) -> str | None:
        """Return the model of the plan that a model is pre-trained by."""
        given = self.models[model].pretraining
        distill = given.recipe.distill if given else None
        return distill.teacher if distill and distill.teacher in self.models else None

    def cells(self) -> Iterator[tuple[str, str]]:
        """Yield (model, task) in the order of the plan, task by task."""
        for task in self.plan.tasks:
            for model in self.models:
                yield model, task

    def cell_steps(self, model: str | None = None) -> list[str]:
        """Return the steps of each cell, or of a model's: what is a program already is not trained."""
        ready = model is not None and self.models[model].kind == config.PROGRAM
        steps_of = [name for name, kind in KINDS.items() if kind.scope == CELL and name in self.plan.steps]
        return [name for name in steps_of if not (ready and KINDS[name].trains)]

    def plan_steps(self) -> list[StepKind]:
        """Return what is done with the whole plan, which a part of it does not have."""
        return [] if self.is_part else self._of_scope(PLAN)

    def model_steps(self) -> list[tuple[str, StepKind, int]]:
        """Return (model, kind, seed) of what is done with a model before all tasks."""
        return [
            (name, kind, seed)
            for name, m in self.models.items()
            if m.pretraining
            for kind in self._of_scope(MODEL)
            for seed in (parse_seeds(m.pretraining.seeds) if m.pretraining.seeds else [self.plan.seed])
        ]

    def _of_scope(self, scope: str) -> list[StepKind]:
        return [kind for name, kind in KINDS.items() if kind.scope == scope and name in self.plan.steps]

    @property
    def task_names(self) -> set[str]:
        """The tasks of this part, and those that their models are trained on."""
        return {name for task in self.plan.tasks for name in (task, get_task(task).trained_on)}

    @property
    def total(self) -> int:
        """The number of steps of the plan."""
        return sum(len(self.cell_steps(model)) for model, _ in self.cells()) + len(
            [*self.plan_steps(), *self.model_steps()]
        )

    def order(self) -> Iterator[tuple[str, str]]:
        """Yield (task, step) in the order of execution: each step with all models before the next step."""
        return product(self.plan.tasks, self.cell_steps())

    def parameters(self, step: str, model: str, task: str, weights_dir: str) -> Any:
        """Return the validated parameters of one step, overrides applied in the order of the plan."""
        scalars = {name: getattr(self.plan, name) for name in config.PlanScalars.model_fields}
        task_params = self.tasks[task]
        for override in self.plan.overrides:
            if override.model in (None, model) and override.task in (None, task):
                chosen = override.model_dump(exclude_none=True, exclude={"model", "task"})
                of_task = {name: chosen.pop(name) for name in ("files", "split") if name in chosen}
                task_params = task_params.model_copy(update=of_task)
                scalars |= chosen
        known = KINDS[step].params.model_fields
        values = {name: value for name, value in scalars.items() if name in known}
        if "weights_dir" in known:
            values["weights_dir"] = weights_dir
        values |= {"model": self.models[model], "task": task_params, "machine": self.machine}
        return KINDS[step].params(data_dir=self.data_dir, seed=self.plan.seed, **values)

    def check_data(self) -> None:
        """Raise UsageError if the data folder is not there."""
        if self.data_dir != SYNTHETIC and not (folder := config.resolve(self.data_dir, self.root)).is_dir():
            raise UsageError(
                f"no data folder {folder}",
                remedy=f"set {DATA_VARIABLE} to a folder in the official layout, or unset it",
            )

    def _path(self, path: Path) -> str:
        return config.from_root(path, self.root)

    def run(
        self, progress, check: Callable[[], None] = lambda: None, between: Callable[[], None] = lambda: None
    ) -> PlanResult:
        """Run every step that is not done; after a failed one only the later steps of its cell are skipped.

        Args:
            progress: Called with (StepResult, "start" | "end").
            check: Called between and during steps; what it raises ends the plan, the running step marked as killed.
            between: Called after each step, or steps that are measured in turn: while nothing is measured.
        """
        cells = {cell: {s: StepResult(*cell, s, SKIPPED) for s in self.cell_steps(cell[0])} for cell in self.cells()}
        result = PlanResult(self.plan_dir, [this for cell in cells.values() for this in cell.values()])
        if self.data_dir == SYNTHETIC:
            self.data_dir = self._path(synthetic_step(self.plan_dir, list(self.tasks), self.plan.seed))
        unmade: dict[str, str] = {}  # model -> what failed
        started: dict[str, config.ModelParams] = {}  # from the first seed
        for model, kind, seed in self.model_steps():
            this = StepResult(model, None, kind.name, SKIPPED)
            result.steps.append(this)
            if (broken := self._teacher(model)) in unmade:
                this.state, this.error, unmade[model] = FAILED, f"{broken}: {unmade[broken]} failed", kind.name
                progress(this, "end")
                continue
            self._step(this, partial(self._of_model, kind, model, seed, started), progress, check)
            if this.state == FAILED:
                unmade[model] = kind.name
            else:
                started.setdefault(model, self._started_from(model, kind.start(this.folder)))
            between()
        self.models |= started
        for task, step in self.order():
            due = []
            for model in self.models:
                cell = cells[model, task]
                if step not in cell:
                    continue
                this, trained = cell[step], next((s for s in cell.values() if KINDS[s.step].trains), None)
                if broken := unmade.get(model) or next((s.step for s in cell.values() if s.state == FAILED), None):
                    this.error = f"{broken} failed"
                    progress(this, "end")
                    continue
                weights_dir = self._path(trained.folder) if trained and trained.folder else ""
                due.append((this, partial(self._cell, step, model, task, weights_dir)))
            if KINDS[step].in_turn and len(due) > 1:
                self._in_turn(due, progress, check)
                between()
                continue
            for this, prepare in due:
                self._step(this, prepare, progress, check)
                seeds_table.write(self.plan_dir, KINDS)
                between()
        if any(KINDS[s.step].shows in (POINT, SCORE) and s.state in (DONE, KEPT) for s in result.steps):
            for kind in self.plan_steps():
                this = StepResult(None, None, kind.name, SKIPPED)
                result.steps.append(this)
                self._step(this, partial(self._of_plan, kind), progress, check)
                between()
                if this.state != FAILED and (this.folder / build.PAGE).is_file():
                    result.page = this.folder / build.PAGE
        return result

    def _in_turn(self, due: list[tuple[StepResult, Callable]], progress, check) -> None:
        """Run steps together, a kernel each, of which only one is measured at a time, in turn: see `scheduler`."""
        ended: list[BaseException] = []

        def check_ended() -> None:
            if ended:
                raise ended[0]

        def one(slot: scheduler.WorkerSlot, this: StepResult, prepare: Callable) -> None:
            try:
                self._step(this, prepare, progress, check_ended, slot)
            finally:
                slot.leave()

        groups = -(-len(due) // scheduler.SLOTS)
        for group in (due[first::groups] for first in range(groups)):
            with scheduler.Scheduler(len(group)) as turns, ThreadPoolExecutor(len(group)) as pool:
                underway = [pool.submit(one, slot, *step) for slot, step in zip(turns.slots, group, strict=True)]
                try:
                    while wait(underway, 0.1).not_done:
                        check()
                except BaseException as error:
                    ended.append(error)  # the others end their kernels, and are waited for
                    raise
            for step in underway:
                step.result()

    def _cell(self, step: str, model: str, task: str, weights_dir: str) -> Job:
        kind = KINDS[step]
        if kind.trains:
            task = get_task(task).trained_on
        also = targets.image_of_program(self.models[model])
        return Job.of(kind, self.parameters(step, model, task, weights_dir), self.root, self.plan_dir, **also)

    def _of_model(self, kind: StepKind, model: str, seed: int, started: Mapping[str, config.ModelParams]) -> Job:
        given = self.models[model].pretraining.model_copy(update={"seeds": ""})
        if teacher := self._teacher(model):
            distill = given.recipe.distill.model_copy(update={"teacher": started[teacher].source})
            given = given.model_copy(update={"recipe": given.recipe.model_copy(update={"distill": distill})})
        own = {
            "recipe": "",
            "precision": "fp32",
            "backend": "torch",
        }  # of later steps: they may change without a new pre-training
        p = kind.params(model=self.models[model].model_copy(update={**own, "pretraining": given}), seed=seed)
        return Job.of(kind, p, self.root, self.plan_dir)

    def _started_from(self, model: str, folder: Path) -> config.ModelParams:
        return self.models[model].model_copy(update={"source": self._path(folder), "pretraining": None})

    def _of_plan(self, kind: StepKind) -> Job:
        job = Job.of(kind, kind.params(plan_dir=self._path(self.plan_dir)), self.root, self.plan_dir)
        for older, status in list(steps.find_steps(self.plan_dir)):
            if status["step"] == kind.name and older != job.folder and not steps.is_retired(status):
                steps.retire(older)  # it is out of date, and rests on files that may have been set aside
        return job

    def _step(self, this: StepResult, prepare, progress, check, slot: scheduler.WorkerSlot | None = None) -> None:
        check()
        began = time.monotonic()
        progress(this, "start")
        try:
            job = prepare()
            this.folder = job.folder
            status = steps.read_status(this.folder) if (this.folder / steps.STATUS).exists() else None
            if status and self._kept(status):
                this.state, this.exit = KEPT, status["exit"]
            elif self.elsewhere and job.kind.scope != PLAN:
                raise InvalidResult(
                    "its part has not finished it", remedy="see what the part said, and run the plan again"
                )
            else:
                if status and status["state"] == steps.DONE:
                    (self.plan_dir / seeds_table.RESULTS).unlink(missing_ok=True)  # it may list what is set aside
                for attempt in range(1, ATTEMPTS + 1):
                    steps.retire(this.folder)
                    try:
                        this.exit = run_notebook(job, self.root, check, slot, self.plan.stall_s)
                        break
                    except Stalled as error:
                        if attempt == ATTEMPTS:
                            raise
                        this.error = (
                            f"stalled {attempt} time{'s' if attempt > 1 else ''} ({str(error).partition(';')[0]})"
                        )
                this.state = DONE
        except MoroccoError as error:
            this.state, this.exit, this.error = FAILED, error.exit_code, str(error)
        this.seconds = time.monotonic() - began
        progress(this, "end")

    def _kept(self, status: dict[str, Any]) -> bool:
        """Tell whether a step is kept as it is: it is done, and was not disturbed, or cannot be repeated here."""
        good = status["state"] == steps.DONE if self.elsewhere else steps.is_good(status)
        return good and not self.force

    @staticmethod
    def _is_done(folder: Path) -> bool:
        return (folder / steps.STATUS).exists() and steps.read_status(folder)["state"] == steps.DONE

    def preview(self) -> list[StepResult]:
        """Return what `run` would do, in its order, as far as it is known before weights exist; writes nothing."""
        listed, weights_dirs, trained = [], {}, set()
        known = dict.fromkeys(self.cells(), self.data_dir != SYNTHETIC)
        started: dict[str, config.ModelParams] = {}
        for model, kind, seed in self.model_steps():
            listed.append(this := StepResult(model, None, kind.name, TO_DO))
            if (teacher := self._teacher(model)) and teacher not in started:
                continue
            this.folder = self._of_model(kind, model, seed, started).folder
            if self._is_done(this.folder):
                this.state = KEPT
                started.setdefault(model, self._started_from(model, kind.start(this.folder)))
        self.models |= started
        known |= {cell: False for cell in known if self.models[cell[0]].pretraining}
        for (task, step), model in product(self.order(), self.models):
            if step not in self.cell_steps(model):
                continue
            cell, this = (model, task), StepResult(model, task, step, TO_DO)
            listed.append(this)
            if KINDS[step].trains:
                shared = (model, get_task(task).trained_on)
                this.state = KEPT if shared in trained else TO_DO  # LiDiRus is answered with TERRa's weights
                trained.add(shared)
            if not known[cell]:
                continue
            try:
                this.folder = self._cell(step, model, task, weights_dirs.get(cell, "")).folder
            except MoroccoError as error:
                this.state, this.exit, this.error = FAILED, error.exit_code, str(error)
                known[cell] = False
                continue
            done = self._is_done(this.folder)
            if done and self._kept(steps.read_status(this.folder)):
                this.state = KEPT
            if KINDS[step].trains:
                weights_dirs[cell], known[cell] = self._path(this.folder), done
        listed += [StepResult(None, None, kind.name, TO_DO) for kind in self.plan_steps()]
        return listed
