"""Models x tasks, step by step: params/plans."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, create_model, field_validator
from pydantic.fields import FieldInfo

from morocco_lib.config.notebooks import ProtocolSettings
from morocco_lib.config.schema import CountOrFound, Schema, Seeds, read_yaml, validate
from morocco_lib.errors import UsageError
from morocco_lib.options import SYNTHETIC


class PlanScalars(ProtocolSettings):
    """What a plan sets for its notebooks, and an override for some cells (a cell: one model on one task)."""

    seeds: Seeds = ""


def _optional(field: FieldInfo) -> tuple:
    kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return kind | None, None


class _Where(Schema):
    """The cells that an override is for; without `model` or `task` all of them."""

    model: str | None = None
    task: str | None = None
    files: dict[Literal["train", "val", "test"], str] | None = None
    split: Literal["val", "test", "train"] | None = None


Override = create_model(
    "Override",
    __base__=_Where,
    **{name: _optional(field) for name, field in PlanScalars.model_fields.items()},
)


class PlanParams(PlanScalars):
    """A params/plans file: models x tasks, step by step. A model is a name in params/models, or a config that may extend one."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    models: list[str | dict[str, Any]] = Field(min_length=1)
    tasks: list[str] = Field(min_length=1)
    steps: list[str] = Field(default=["pretrain", "train", "bench", "eval", "report"], min_length=1)
    machine: str = "local"
    data_dir: str = SYNTHETIC
    seed: StrictInt = 1
    stall_s: CountOrFound = 600  # without an update a training is ended and started again; 0: it never is
    overrides: list[Override] = Field(default_factory=list)

    @property
    def own(self) -> dict[str, dict[str, Any]]:
        """Name -> values of the model configs that stand in the plan itself."""
        return {m["name"]: m for m in self.models if isinstance(m, dict)}

    @property
    def model_names(self) -> list[str]:
        return [m if isinstance(m, str) else m["name"] for m in self.models]

    @field_validator("models", "tasks", "steps")
    @classmethod
    def _once(cls, entries: list) -> list:
        if unnamed := [m for m in entries if isinstance(m, dict) and not isinstance(m.get("name"), str)]:
            raise ValueError(f"a model without a name: {unnamed[0]}")
        names = [m["name"] if isinstance(m, dict) else m for m in entries]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"duplicate: {', '.join(twice)}")
        return entries


def load_plan(path: Path, steps: Collection[str]) -> PlanParams:
    """Return a plan; raises UsageError for anything in it that is unknown, duplicate or impossible.

    Args:
        steps: The names of the steps there are.
    """
    plan = validate(PlanParams, read_yaml(path), str(path))
    if unknown := [name for name in plan.steps if name not in steps]:
        raise UsageError(f"{path}: steps: no step {unknown[0]!r}", rule=f"steps: {', '.join(steps)}")
    for number, override in enumerate(plan.overrides):
        for key, names in (("model", plan.model_names), ("task", plan.tasks)):
            name = getattr(override, key)
            if name is not None and name not in names:
                raise UsageError(
                    f"{path}: overrides.{number} is for {key} {name!r}", rule=f"the plan has {', '.join(names)}"
                )
    return plan
