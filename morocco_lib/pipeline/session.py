"""A notebook's session: validated parameters, its step folder, provenance, the verdict."""

import html
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from morocco_lib import config, data, fileio, formatting
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.step_kind import CELL, MODEL, PLAN, POINT, SCORE, shown_as
from morocco_lib.benchmark.target import Hooks, Target
from morocco_lib.errors import UsageError
from morocco_lib.monitors.host import host_facts
from morocco_lib.options import KINDS as MODEL_KINDS
from morocco_lib.options import SYNTHETIC
from morocco_lib.pipeline import scheduler, targets
from morocco_lib.pipeline.job import Job
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.pipeline.synthetic_step import synthetic_step
from morocco_lib.reasons import DISTURBED, EXIT_CODES, INVALID, VALID
from morocco_lib.report import build
from morocco_lib.tasks import get_task
from morocco_lib.training import fit

INTERACTIVE = "outputs/interactive"  # plan folder of notebooks run by hand


@dataclass(frozen=True, repr=False)
class Session(Job):
    """A running notebook, in `folder`. `start_session` opens it, `finish` closes it."""

    root: Path
    step: steps.Step | None  # None when the plan runner writes the status
    given: frozenset[str]  # global names before the later cells defined theirs

    def __repr__(self) -> str:
        what = f" of {self.p.model.name}" if self.kind.scope != PLAN else ""
        what += f" on {self.p.task.name}" if self.kind.scope == CELL else ""
        return f"<{self.kind.name}{what} in {config.from_root(self.folder, self.root)}>"

    @cached_property
    def task(self):
        return get_task(self.p.task.name)

    @cached_property
    def source(self) -> Path:
        """The file of records that bench and eval feed."""
        return self.inputs["records"]

    def run_facts(self, run: str) -> dict[str, Any]:
        """Return run.json of one of the step's runs, as `runs/01`."""
        return fileio.read_json(self.folder / run / "run.json")

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters of the protocol, as arguments of `bench`; 0 becomes None."""
        names = (name for name in config.PlanScalars.model_fields if name in type(self.p).model_fields)
        chosen = {name: getattr(self.p, name) for name in names}
        return chosen | {name: chosen[name] or None for name in ("input_size", "repeats")}

    @property
    def training(self) -> fit.Plan:
        """What to train: the first argument of `fit`."""
        files = {split: self.inputs[split] for split in fit.splits(self.p.model)}
        seeds = getattr(self.p, "all_seeds", [self.p.seed])
        return fit.Plan(self.p.model, self.task.trained_on, files, seeds, self.root)

    @cached_property
    def pretraining(self) -> Any:
        """What to pre-train: `minibatch` shows what is hidden, `run` trains and writes into the step folder."""
        with fit.without_bars_warning():
            from morocco_lib.training.pretraining import pretrain

        return pretrain.prepare(self.p.model.pretraining, self.root, self.folder, seed=self.p.seed, say=print)

    @cached_property
    def scheduled(self) -> scheduler.Client:
        """Its connection to the scheduler of the plan; without one where it is run by hand. Enter it to measure."""
        return scheduler.Client.of_this_process()

    @cached_property
    def target(self) -> Target:
        """The command, the image, else the model's weights, which are fitted now if none are given."""
        p = self.p
        if p.command:
            return Target.of_command(p.command, p.model.name, targets.limits_of(p.machine))
        if p.image:
            return targets.target_from_image(p.image, p.model.name, p.machine)
        if p.model.kind == config.PROGRAM:
            return targets.target_from_program(p.model, p.machine, self.root)
        folder = config.resolve(p.weights_dir, self.root) if p.weights_dir else self.folder
        with self.scheduled.turn():  # two that build on one engine at once would make the same layers twice
            if not p.weights_dir:
                fit.fit(self.training, self.folder)
            return targets.target_from_weights(p.machine, folder, self.task, self.source, p.model)

    @property
    def hooks(self) -> Hooks:
        """Hooks for `bench`: each run is printed, and measured in turn with the notebooks that run at the same time."""
        return Hooks(progress=print, turn=self.scheduled.turn, barrier=self.scheduled.barrier)

    def report(self) -> dict[str, Any]:
        """Build the page of a report: see `report.build.build`."""
        return build.build(Path(self.p.plan_dir), self.folder, KINDS, own_notebook=self.step is None)

    def provenance(self) -> "Facts":
        """Return what this notebook is, reads and runs on."""
        host = host_facts()
        rows = {"step": self.kind.name, "folder": config.from_root(self.folder, self.root)}
        for name, path in self.inputs.items():
            rows[f"input {name}"] = f"{config.from_root(path, self.root)}  sha256 {fileio.sha256_file(path)[:12]}"
        if any(data.is_synthetic(path) for path in self.inputs.values()):
            rows["records"] = "synthetic, a tenth of the labels wrong on purpose"
        rows |= {"code": steps.code_text(), "Python": f"{host['python']} ({sys.executable})"}
        memory = formatting.bytes_text(host["memory_bytes"]) if host["memory_bytes"] else "unknown memory"
        rows["host"] = f"{host['hostname']}: {host['cpu'] or 'unknown CPU'}, {host['cores']} cores, {memory}"
        if machine := getattr(self.p, "machine", None):
            rows["runner"] = machine.chosen or machine.runner
        rows["started"] = steps.now()
        return Facts(rows)

    def finish(self, verdict: str = "VALID", reasons: list[str] = ()) -> "Verdict":
        """Close the step and return the verdict to show."""
        if self.step:
            self.step.finish(steps.DONE, EXIT_CODES[verdict])
        return Verdict(verdict, tuple(reasons))


@dataclass(frozen=True)
class Facts:
    """Names and values, displayed as text and as HTML, not truncated."""

    rows: dict[str, str]

    def __repr__(self) -> str:
        width = max(map(len, self.rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows.items())

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in self.rows.items())
        return f'<table style="word-break:break-word">{cells}</table>'


@dataclass(frozen=True)
class Verdict:
    """VALID, INVALID or DISTURBED with its reasons, displayed as text and as HTML."""

    verdict: str
    reasons: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join([self.verdict, *(f"  {line}" for line in formatting.reason_lines(list(self.reasons)))])

    def _repr_html_(self) -> str:
        colour = {VALID: "#00634a", DISTURBED: "#8a5a00", INVALID: "#a40000"}[self.verdict]
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in formatting.reason_lines(list(self.reasons)))
        return f'<p style="font-size:1.3em"><b style="color:{colour}">{self.verdict}</b></p><ul>{lines}</ul>'


def start_session(step: str, names: dict[str, Any]) -> Session:
    """Open a step from a notebook's global names; call it in the cell right after the parameters.

    With `out_dir` set by the plan runner, that folder and its status are the runner's. Otherwise the step gets a folder
    of its own (`out_dir`, or one below outputs/interactive), and an earlier one with the same key is set aside.

    Args:
        step: Name of the step kind: train, bench, eval, report.
        names: `globals()` of the notebook.
    Returns:
        The session: `task`, `source`, `target`, `settings`, `hooks`, `folder`, `provenance()`, `finish()`.
    Raises:
        UsageError: unknown or impossible parameters, missing input.
    """
    root, kind = config.project_root(), KINDS[step]
    earlier = next((value.given for value in names.values() if isinstance(value, Session)), None)
    p, given = config.of_notebook(kind.params, step, names, earlier), earlier or frozenset(names)
    plan_dir = root / INTERACTIVE
    if kind.scope == PLAN:
        plan_dir = config.resolve(p.plan_dir, root) if p.plan_dir else newest_plan(root)
        p = p.model_copy(update={"plan_dir": str(plan_dir)})
    elif kind.scope == MODEL:
        p = p.model_copy(update={"model": config.with_recipe(p.model, root)})
    else:
        p = _resolved(p, root, plan_dir)
    job = Job.of(kind, p, root, plan_dir)
    folder = config.resolve(p.out_dir, root) if p.out_dir else job.folder
    facts = vars(job) | {"folder": folder, "root": root, "given": given}
    if p.out_dir and (folder / steps.STATUS).exists() and steps.read_status(folder)["state"] == steps.RUNNING:
        return Session(**facts, step=None)
    if not p.out_dir:
        steps.retire(folder)
    return Session(**facts, step=job.begin(folder, p.model_dump()))


def _resolved(p: Any, root: Path, plan_dir: Path) -> Any:
    """Return the parameters with runner, recipe, the program's name and synthetic records filled in."""
    p = p.model_copy(update={"machine": targets.resolve_runner(p.machine), "model": config.with_recipe(p.model, root)})
    command, image = getattr(p, "command", ""), getattr(p, "image", "")
    if (command or image) and p.model.name in MODEL_KINDS:  # not one of our models: named after its program
        target = Target.of_command(command) if command else targets.target_from_image(image, None, p.machine)
        p = p.model_copy(update={"model": p.model.model_copy(update={"name": target.program.model})})
    if p.data_dir == SYNTHETIC:
        p = p.model_copy(update={"data_dir": str(synthetic_step(plan_dir, [p.task.name], p.seed))})
    return p


def newest_plan(root: Path) -> Path:
    """Return the plan folder under outputs/ with the newest result; raises UsageError if there is none."""
    outputs = root / "outputs"
    found = [
        (status["started"], folder)
        for folder, status in steps.find_steps(outputs)
        if status["task"] and status["state"] == steps.DONE and shown_as(status, KINDS) in (POINT, SCORE)
    ]
    if not found:
        raise UsageError(f"no result in {outputs}", remedy="run `morocco run params/plans/demo.yaml` first")
    return outputs / max(found)[1].relative_to(outputs).parts[0]
