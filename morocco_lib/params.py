"""Parameters: choices made in YAML files, notebooks and plans, validated whole before anything runs."""

import difflib
from collections.abc import Container
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, field_validator

from morocco_lib.data import SYNTHETIC
from morocco_lib.errors import UsageError
from morocco_lib.models import KINDS, model_class
from morocco_lib.runners.contract import Limits
from morocco_lib.tasks import get_task

ROOT_MARKS = ("notebooks", "params", "pyproject.toml")


Count = Annotated[StrictInt, Field(ge=1)]  # strict: YAML's `yes` and "32" are no counts


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelParams(Strict):
    """Who answers: a params/models file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    kind: str

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"no kind {kind!r}; kinds: {', '.join(KINDS)}")
        return kind


class TaskParams(Strict):
    """What is asked: a params/tasks file. `files` replaces official names by split, relative to the data folder."""

    name: str
    split: Literal["val", "test", "train"] = "val"
    files: dict[Literal["train", "val", "test"], str] = {}

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
    gpus: list[str] = []  # UUIDs; for containers
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
    """Parameters of train.ipynb."""


class BenchParams(Common):
    """Parameters of bench.ipynb. `command` or `image` measures any program; else the weights, fitted first if need be."""

    weights_dir: str = ""
    command: str = ""
    image: str = ""
    input_size: Count = 2000
    batch_size: Count = 32
    repeats: Count = 3


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


PARAMS = {"train": TrainParams, "bench": BenchParams, "eval": EvalParams, "report": ReportParams}
CELL_STEPS = ("train", "bench", "eval")


class PlanScalars(Strict):
    """What a plan sets for the notebooks, and an override changes for some cells."""

    input_size: Count = 2000
    batch_size: Count = 32
    repeats: Count = 3


class Override(Strict):
    """A change for the cells it names; without `model` or `task` for all of them."""

    model: str | None = None
    task: str | None = None
    files: dict[Literal["train", "val", "test"], str] | None = None
    split: Literal["val", "test", "train"] | None = None
    input_size: Count | None = None
    batch_size: Count | None = None
    repeats: Count | None = None


class PlanParams(PlanScalars):
    """A params/plans file: models x tasks, step by step."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    models: list[str] = Field(min_length=1)
    tasks: list[str] = Field(min_length=1)
    steps: list[Literal["train", "bench", "eval", "report"]] = ["train", "bench", "eval", "report"]
    machine: str = "local"
    data_dir: str = SYNTHETIC
    seed: StrictInt = 1
    overrides: list[Override] = []

    @field_validator("models", "tasks", "steps")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        return names


# -- places --------------------------------------------------------------------------------------------------------
def find_root(start: Path) -> Path | None:
    """Return the project root at or above a folder, None if there is none."""
    start = Path(start).resolve()
    for folder in (start, *start.parents):
        if all((folder / mark).exists() for mark in ROOT_MARKS):
            return folder
    return None


def project_root(start: Path | None = None) -> Path:
    """Return the project root; raises UsageError."""
    start = Path(start or Path.cwd())
    root = find_root(start)
    if root is None:
        raise UsageError(
            f"no project found at or above {start}",
            rule=f"a project holds {', '.join(ROOT_MARKS)}",
            remedy="change into the project",
        )
    return root


def resolve(path: str, root: Path) -> Path:
    """Return a parameter's path: relative ones count from the project root."""
    return (root / path).resolve()


# -- reading and refusing ------------------------------------------------------------------------------------------
def refuse(error: ValidationError, where: str, known: type[BaseModel]) -> UsageError:
    """Return pydantic's findings as one error that names the nearest known parameter."""
    lines = []
    for finding in error.errors():
        place = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            names = _names_at(known, finding["loc"][:-1])
            near = difflib.get_close_matches(str(finding["loc"][-1]), names, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
            lines.append(f"unknown parameter {place!r}; {hint}")
        elif finding["type"] == "missing":
            lines.append(f"parameter {place!r} is missing")
        else:
            message = finding["msg"].removeprefix("Value error, ")
            lines.append(f"parameter {place!r} is {finding['input']!r}: {message}")
    return UsageError(f"{where}: " + "; ".join(lines))


def _names_at(known: type[BaseModel], loc: tuple) -> list[str]:
    for part in loc:
        field = known.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            continue
        inner = field.annotation
        inner = next(
            (a for a in getattr(inner, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)), inner
        )
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            known = inner
    return sorted(known.model_fields)


def validate(known: type[BaseModel], values: dict[str, Any], where: str):
    """Return validated parameters.

    Raises:
        UsageError: unknown, missing or impossible values, all at once.
    """
    try:
        return known.model_validate(values)
    except ValidationError as error:
        raise refuse(error, where, known) from None


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


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, where YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raises UsageError."""
    try:
        value = yaml.load(Path(path).read_text(encoding="utf-8-sig"), Loader=_Loader)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", remedy="give the path of a YAML file") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2001-99-99
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no mapping", rule="key: value lines")
    return value


def _load(kind: str, known: type[BaseModel], path: Path):
    value = read_yaml(path)
    if set(value) != {kind}:
        raise UsageError(f"{path} has the keys {', '.join(map(str, value))}", rule=f"one top-level key, {kind}:")
    return validate(known, value[kind] or {}, str(path))


def load_model(name: str, root: Path | None = None) -> ModelParams:
    """Return a model by name: params/models/<name>.yaml if the project has it, else a built-in kind."""
    root = root or find_root(Path.cwd())
    path = root / "params" / "models" / f"{name}.yaml" if root else None
    if path and path.is_file():
        return _load("model", ModelParams, path)
    model_class(name)
    return ModelParams(name=name, kind=name)


def load_task(name: str, root: Path) -> TaskParams:
    """Return params/tasks/<name>.yaml, or the task's defaults where there is no such file."""
    path = root / "params" / "tasks" / f"{name}.yaml"
    return _load("task", TaskParams, path) if path.is_file() else TaskParams(name=get_task(name).name)


def load_machine(name: str, root: Path) -> MachineParams:
    """Return params/machines/<name>.yaml."""
    folder = root / "params" / "machines"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UsageError(f"no machine {name!r} in {folder}", rule=f"machines: {', '.join(known)}")
    return _load("machine", MachineParams, folder / f"{name}.yaml")


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
