"""Task files: which split of which task (params/tasks)."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from morocco_lib.config.schema import Schema, load
from morocco_lib.errors import UsageError
from morocco_lib.tasks import get_task


class TaskParams(Schema):
    """Which split of a task: a params/tasks file. `files` replaces official names by split, relative to the data folder."""

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


def load_task(name: str, root: Path) -> TaskParams:
    """Return params/tasks/<name>.yaml, or the task's defaults where there is no such file."""
    path = root / "params" / "tasks" / f"{name}.yaml"
    return load("task", TaskParams, path) if path.is_file() else TaskParams(name=get_task(name).name)
