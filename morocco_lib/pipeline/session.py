"""What a notebook opens with and ends with: strict parameters, its step folder, provenance, the verdict."""

import html
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from morocco_lib import config, data, fileio, formatting
from morocco_lib.artifacts import steps
from morocco_lib.benchmark import protocol
from morocco_lib.config import resolve
from morocco_lib.errors import UsageError
from morocco_lib.models import weights
from morocco_lib.monitors.host import host_facts
from morocco_lib.options import KINDS, SYNTHETIC
from morocco_lib.pipeline import resolve as launch
from morocco_lib.pipeline import scheduler as turns
from morocco_lib.pipeline.synthetic_step import synthetic_step
from morocco_lib.report import build
from morocco_lib.runners.contract import Runner
from morocco_lib.runners.process import ProcessRunner
from morocco_lib.tasks import get_task
from morocco_lib.training import fit

INTERACTIVE = "outputs/interactive"  # plan folder of notebooks run by hand
PLACES = ("data_dir", "out_dir", "weights_dir", "plan_dir")  # say where, not what: not part of a step's key


def identity(p: config.Strict) -> dict[str, Any]:
    """Return the parameters that make a step what it is."""
    chosen = {"machine": {"chosen"}} if "machine" in type(p).model_fields else {}
    return {name: value for name, value in p.model_dump(exclude=chosen).items() if name not in PLACES}


def inputs_of(step: str, p: Any, root: Path) -> dict[str, Path]:
    """Return name -> path of every file a step of one model and one task reads.

    Raises:
        UsageError: a file is not there.
    """
    task, data_dir = get_task(p.task.name), resolve(p.data_dir, root)
    trained = get_task(task.weights_of)  # LiDiRus is answered by what was trained on TERRa
    files = p.task.files if trained is task else None

    def to_train() -> dict[str, Path]:
        found = {split: data.find_split(data_dir, trained, split, files) for split in fit.splits(p.model)}
        return found | fit.sources(p.model, root)

    if step == "train":
        return to_train()
    inputs = {"records": data.find_split(data_dir, task, p.task.split, p.task.files)}
    if p.command or p.image:
        return inputs
    if p.weights_dir:
        return inputs | {f"weights/{path.name}": path for path in weights.files(resolve(p.weights_dir, root))}
    return inputs | to_train()


def key_of(step: str, p: Any, inputs: dict[str, Path]) -> str:
    """Return the key of a step: see `steps.make_key`."""
    return steps.make_key(step, identity(p), {name: fileio.sha256_file(path) for name, path in inputs.items()})


@dataclass
class Session:
    """A notebook at work. Made by `start`, closed by `finish`."""

    step_name: str
    p: Any  # the validated parameters
    root: Path
    folder: Path
    inputs: dict[str, Path]
    step: steps.Step | None  # None when the plan runner keeps the status
    given: frozenset[str]  # global names before the later cells made theirs

    def __repr__(self) -> str:
        what = f" of {self.p.model.name} on {self.p.task.name}" if self.step_name != "report" else ""
        return f"<{self.step_name}{what} in {_short(self.folder, self.root)}>"

    @cached_property
    def task(self):
        return get_task(self.p.task.name)

    @cached_property
    def source(self) -> Path:
        """The file of records that bench and eval feed."""
        return self.inputs["records"]

    @property
    def limits(self):
        return launch.limits_of(self.p.machine)

    @property
    def asked(self) -> dict[str, Any]:
        """What the parameters ask of the protocol; see `bench.Asked`."""
        names = (name for name in (*config.PlanScalars.model_fields, "seed") if name in type(self.p).model_fields)
        asked = {name: getattr(self.p, name) for name in names}
        return asked | {name: asked[name] or None for name in ("input_size", "repeats")}

    @property
    def training(self) -> fit.Plan:
        """What is to be trained: see `train.fit`."""
        files = {split: self.inputs[split] for split in fit.splits(self.p.model)}
        seeds = getattr(self.p, "all_seeds", [self.p.seed])
        return fit.Plan(self.p.model, self.task.weights_of, files, seeds, self.root)

    @property
    def key(self) -> str:
        """The step's key: see `key_of`."""
        return key_of(self.step_name, self.p, self.inputs)

    @cached_property
    def turns(self) -> turns.Place:
        """Its place among the notebooks that take turns with this one; alone where it is run by hand."""
        return turns.Place.of_this_process()

    @cached_property
    def _launched(self) -> tuple[protocol.Program, Runner]:
        p = self.p
        if p.command:
            return protocol.command(p.command, p.model.name), ProcessRunner()
        if p.image:
            return launch.contained(p.image, p.model.name, p.machine)
        folder = resolve(p.weights_dir, self.root) if p.weights_dir else self.folder
        with self.turns.turn():  # two that build on one engine at once would make the same layers twice
            if not p.weights_dir:
                fit.fit(self.training, self.folder, self.key)
            return launch.own(p.machine, folder, self.task, self.source, p.model)

    @property
    def program(self) -> protocol.Program:
        """The program to run: the command, the image, else our own on the weights, fitted now if none are given."""
        return self._launched[0]

    @property
    def runner(self) -> Runner:
        """What runs it."""
        return self._launched[1]

    def provenance(self) -> "Facts":
        """Return what this notebook is, reads and runs on."""
        code, host = steps.code_facts(), host_facts()
        commit = (
            f"{code['commit'][:10]}{' with uncommitted changes' if code['dirty'] else ''}"
            if code["commit"]
            else "not a git checkout"
        )
        rows = {"step": self.step_name, "folder": _short(self.folder, self.root)}
        rows |= {
            f"input {name}": f"{_short(path, self.root)}  sha256 {fileio.sha256_file(path)[:12]}"
            for name, path in self.inputs.items()
        }
        if any(data.is_synthetic(path) for path in self.inputs.values()):
            rows["records"] = "synthetic, a tenth of the labels wrong on purpose"
        rows |= {"code": f"morocco {code['version']}, {commit}", "Python": f"{host['python']} ({sys.executable})"}
        rows |= {
            "host": f"{host['hostname']}: {host['cpu'] or 'unknown CPU'}, {host['cores']} cores, "
            + (formatting.bytes_text(host["memory_bytes"]) if host["memory_bytes"] else "unknown memory")
        }
        if machine := getattr(self.p, "machine", None):
            rows["runner"] = machine.chosen or machine.runner
        rows["started"] = steps.now()
        return Facts(rows)

    def finish(self, verdict: str = "VALID", reasons: list[str] = ()) -> "Verdict":
        """Close the step and return the verdict to show."""
        if self.step:
            self.step.finish(steps.DONE, 0 if verdict == "VALID" else 1)
        return Verdict(verdict, tuple(reasons))


@dataclass(frozen=True)
class Facts:
    """Names and values; shows itself as text and as HTML, nothing cut off."""

    rows: dict[str, str]

    def __repr__(self) -> str:
        width = max(map(len, self.rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows.items())

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in self.rows.items())
        return f'<table style="word-break:break-word">{cells}</table>'


@dataclass(frozen=True)
class Verdict:
    """VALID or INVALID with its reasons; shows itself as text and as HTML."""

    verdict: str
    reasons: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join([self.verdict, *(f"  {line}" for line in formatting.reason_lines(list(self.reasons)))])

    def _repr_html_(self) -> str:
        colour = "#00634a" if self.verdict == "VALID" else "#a40000"
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in formatting.reason_lines(list(self.reasons)))
        return f'<p style="font-size:1.3em"><b style="color:{colour}">{self.verdict}</b></p><ul>{lines}</ul>'


def start(step_name: str, names: dict[str, Any]) -> Session:
    """Open a step from a notebook's global names; call it in the cell right after the parameters.

    With `out_dir` set by the plan runner, that folder and its status are the runner's. Otherwise the step gets a folder
    of its own (`out_dir`, or one below outputs/interactive), and an earlier one with the same key is set aside.

    Raises:
        UsageError: unknown or impossible parameters, missing input.
    """
    root = config.project_root()
    earlier = next((value.given for value in names.values() if isinstance(value, Session)), None)
    p, given = config.of_notebook(step_name, names, earlier), earlier or frozenset(names)
    plan_dir = root / INTERACTIVE
    if step_name == "report":
        chosen = resolve(p.plan_dir, root) if p.plan_dir else newest_plan(root)
        p = p.model_copy(update={"plan_dir": str(chosen)})
        inputs, folder = build.inputs_of(chosen), chosen
        if not inputs:
            raise UsageError(f"no result in {chosen}", remedy="run `morocco run PLAN.yaml` or the bench notebook first")
    else:
        p = p.model_copy(update={"machine": launch.settle(p.machine), "model": config.settled(p.model, root)})
        if (getattr(p, "command", "") or getattr(p, "image", "")) and p.model.name in KINDS:  # not one of our models
            program = protocol.command(p.command) if p.command else launch.contained(p.image, None, p.machine)[0]
            p = p.model_copy(update={"model": p.model.model_copy(update={"name": program.model})})
        if p.data_dir == SYNTHETIC:
            p = p.model_copy(update={"data_dir": str(synthetic_step(plan_dir, [p.task.name], p.seed))})
        inputs, folder = inputs_of(step_name, p, root), plan_dir / p.model.name / p.task.name
    key = key_of(step_name, p, inputs)
    folder = resolve(p.out_dir, root) if p.out_dir else folder / f"{step_name}-{key}"
    if p.out_dir and (folder / steps.STATUS).exists() and steps.read_status(folder)["state"] == steps.RUNNING:
        return Session(step_name, p, root, folder, inputs, None, given)
    if not p.out_dir:
        steps.retire(folder)
    names = {} if step_name == "report" else {"model": p.model.name, "task": p.task.name}
    step = steps.Step.begin(folder, step_name, **names, parameters=p.model_dump(), inputs=inputs, key=key)
    return Session(step_name, p, root, folder, inputs, step, given)


def newest_plan(root: Path) -> Path:
    """Return the plan folder under outputs/ in which a step was started last; raises UsageError if there is none."""
    outputs = root / "outputs"
    found = [
        (status["started"], folder)
        for folder, status in steps.find_steps(outputs)
        if status["task"] and status["state"] == steps.DONE and status["step"] in ("bench", "eval")
    ]
    if not found:
        raise UsageError(f"no result in {outputs}", remedy="run `morocco run params/plans/demo.yaml` first")
    return outputs / max(found)[1].relative_to(outputs).parts[0]


def _short(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
