"""Parameters: choices made in YAML files, notebooks and plans, validated whole before anything runs."""

import argparse
import difflib
from collections.abc import Container
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, field_validator

from morocco_lib import arguments
from morocco_lib.data import SYNTHETIC
from morocco_lib.errors import UsageError
from morocco_lib.runners.contract import Limits
from morocco_lib.strict import ROOT_MARKS as ROOT_MARKS
from morocco_lib.strict import Strict, load, read_yaml, validate
from morocco_lib.strict import find_root as find_root
from morocco_lib.strict import project_root as project_root
from morocco_lib.strict import resolve as resolve
from morocco_lib.tasks import get_task
from morocco_lib.who import TRANSFORMER as TRANSFORMER
from morocco_lib.who import ModelParams
from morocco_lib.who import load_model as load_model
from morocco_lib.who import load_recipe as load_recipe
from morocco_lib.who import settled as settled

Count = Annotated[StrictInt, Field(ge=1)]  # strict: YAML's `yes` and "32" are no counts
CountOrFound = Annotated[StrictInt, Field(ge=0)]  # 0: the protocol finds it


class TaskParams(Strict):
    """What is asked: a params/tasks file. `files` replaces official names by split, relative to the data folder."""

    name: str
    split: Literal["val", "test", "train"] = "val"
    files: dict[Literal["train", "val", "test"], str] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            get_task(name)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return name


class MachineParams(Strict):
    """Where it runs, and what a run may use: a params/machines file."""

    name: str = "local"
    runner: Literal["process", "docker", "auto"] = "process"
    base: str = "python:3.11-slim-bookworm"  # of images built for `docker`; "debian" is made here from packages
    gpus: list[str] = Field(default_factory=list)  # UUIDs; for containers
    timeout_s: float = Field(default=3600.0, gt=0)
    memory_bytes: Count | None = None
    pids: Count | None = None  # for containers, as is cpus
    cpus: float | None = Field(default=None, gt=0)
    chosen: str = ""  # how `auto` was settled

    @property
    def limits(self) -> Limits:
        contained = (self.pids, self.cpus) if self.runner == "docker" else ()
        return Limits(self.timeout_s, self.memory_bytes, *contained)


class Common(Strict):
    """What every notebook of one model and one task takes."""

    model: ModelParams
    task: TaskParams
    machine: MachineParams = MachineParams()
    data_dir: str = SYNTHETIC
    out_dir: str = ""
    seed: StrictInt = 1


class TrainParams(Common):
    """Parameters of train.ipynb. `seeds` ("1-5", "1,3") trains a transformer with each and keeps the best by val."""

    seeds: str = ""

    @field_validator("seeds")
    @classmethod
    def _numbers(cls, text: str) -> str:
        if text:
            try:
                arguments.seeds(text)
            except argparse.ArgumentTypeError as error:
                raise ValueError(str(error)) from None
        return text

    @property
    def all_seeds(self) -> list[int]:
        """The seeds to train with: `seeds`, else the one `seed`."""
        return arguments.seeds(self.seeds) if self.seeds else [self.seed]


class BenchParams(Common):
    """Parameters of bench.ipynb. `command` or `image` measures any program; else the weights, fitted first if need be.

    The others are of the protocol: see `bench.Asked`.
    """

    weights_dir: str = ""
    command: str = ""
    image: str = ""
    input_size: CountOrFound = 2000
    batch_size: Count = 32
    repeats: CountOrFound = 3
    precision: float = Field(default=0.02, gt=0, lt=1)
    max_minutes: float = Field(default=30.0, gt=0)
    quick: StrictBool = False


class EvalParams(Common):
    """Parameters of eval.ipynb."""

    weights_dir: str = ""
    command: str = ""
    image: str = ""
    batch_size: Count = 32


class ReportParams(Strict):
    """Parameters of report.ipynb. An empty `plan_dir` takes the newest folder of results."""

    plan_dir: str = ""
    out_dir: str = ""


class OriginalParams(Strict):
    """Parameters of original.ipynb: the original's logs, a folder or a .tar.gz."""

    logs: str = "../MOROCCO/bench/data/jiant"


PARAMS = {
    "train": TrainParams, "bench": BenchParams, "eval": EvalParams, "report": ReportParams, "original": OriginalParams,
}  # fmt: skip
CELL_STEPS = ("train", "bench", "eval")


class PlanScalars(Strict):
    """What a plan sets for the notebooks, and an override changes for some cells."""

    input_size: CountOrFound = 2000
    batch_size: Count = 32
    repeats: CountOrFound = 3
    precision: float = Field(default=0.02, gt=0, lt=1)
    max_minutes: float = Field(default=30.0, gt=0)
    quick: StrictBool = False
    seeds: str = ""


class Override(Strict):
    """A change for the cells it names; without `model` or `task` for all of them."""

    model: str | None = None
    task: str | None = None
    files: dict[Literal["train", "val", "test"], str] | None = None
    split: Literal["val", "test", "train"] | None = None
    input_size: CountOrFound | None = None
    batch_size: Count | None = None
    repeats: CountOrFound | None = None
    precision: float | None = Field(default=None, gt=0, lt=1)
    max_minutes: float | None = Field(default=None, gt=0)
    quick: StrictBool | None = None
    seeds: str | None = None


class PlanParams(PlanScalars):
    """A params/plans file: models x tasks, step by step."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    models: list[str] = Field(min_length=1)
    tasks: list[str] = Field(min_length=1)
    steps: list[Literal["train", "bench", "eval", "report"]] = Field(default=["train", "bench", "eval", "report"])
    machine: str = "local"
    data_dir: str = SYNTHETIC
    seed: StrictInt = 1
    overrides: list[Override] = Field(default_factory=list)

    @field_validator("models", "tasks", "steps")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        return names


# -- reading -------------------------------------------------------------------------------------------------------
def of_notebook(step: str, names: dict[str, Any], given: Container[str] | None = None) -> Strict:
    """Return the validated parameters of a notebook from its global names, so that a misspelt one stops it at once.

    Args:
        step: train, bench, eval or report.
        names: `globals()` of the notebook.
        given: When its cells run again in one kernel: the names that were there the first time, before later cells made
            theirs. Of the others only those count that are a parameter's name, or nearly.
    """
    shell = {"In", "Out", "exit", "quit", "open", "get_ipython"}
    values = {
        name: value
        for name, value in names.items()
        if not name.startswith("_") and name not in shell and not isinstance(value, ModuleType) and not callable(value)
    }
    if given is not None:
        known = list(PARAMS[step].model_fields)
        values = {n: v for n, v in values.items() if n in given or difflib.get_close_matches(n, known, cutoff=0.85)}
    try:
        return validate(PARAMS[step], values, f"{step}.ipynb")
    except UsageError as error:
        raise UsageError(
            error.seen, remedy="correct the cell and restart the kernel, which still knows the old name"
        ) from None


def load_task(name: str, root: Path) -> TaskParams:
    """Return params/tasks/<name>.yaml, or the task's defaults where there is no such file."""
    path = root / "params" / "tasks" / f"{name}.yaml"
    return load("task", TaskParams, path) if path.is_file() else TaskParams(name=get_task(name).name)


def load_machine(name: str, root: Path) -> MachineParams:
    """Return params/machines/<name>.yaml."""
    folder = root / "params" / "machines"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UsageError(f"no machine {name!r} in {folder}", rule=f"machines: {', '.join(known)}")
    return load("machine", MachineParams, folder / f"{name}.yaml")


def load_plan(path: Path) -> PlanParams:
    """Return a plan; raises UsageError for anything in it that is unknown, double or impossible."""
    plan = validate(PlanParams, read_yaml(path), str(path))
    for number, override in enumerate(plan.overrides):
        for key, names in (("model", plan.models), ("task", plan.tasks)):
            name = getattr(override, key)
            if name is not None and name not in names:
                raise UsageError(
                    f"{path}: overrides.{number} is for {key} {name!r}", rule=f"the plan has {', '.join(names)}"
                )
    return plan
