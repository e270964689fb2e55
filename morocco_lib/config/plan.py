"""Models x tasks, step by step: params/plans."""

from pathlib import Path
from typing import Literal

from pydantic import Field, StrictBool, StrictInt, field_validator

from morocco_lib.config.schema import Count, CountOrFound, Strict, read_yaml, validate
from morocco_lib.errors import UsageError
from morocco_lib.options import SYNTHETIC


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
