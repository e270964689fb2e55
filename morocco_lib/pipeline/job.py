"""A step that is to be run: its kind, its parameters, and the inputs, key and folder that follow from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morocco_lib import config, fileio
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.step_kind import CELL, PLAN, StepKind

PATHS = ("data_dir", "out_dir", "weights_dir", "plan_dir")  # where, not what: no part of a step's key


@dataclass(frozen=True)
class Job:
    """A step of a plan, in its folder. Use `of`."""

    kind: StepKind
    p: Any  # validated parameters
    inputs: dict[str, Path]
    parameters: dict[str, Any]  # the part of `p` that the key depends on
    key: str
    folder: Path

    @classmethod
    def of(cls, kind: StepKind, p: Any, root: Path, plan_dir: Path, **also: Any) -> "Job":
        """Return the job of a kind with these parameters; raises UsageError if an input is missing.

        Args:
            root: The project root, from which paths in parameters count.
            plan_dir: Where the step folders of its plan are.
            also: What else distinguishes it from other steps.
        """
        values = p.model_dump(exclude={"machine": {"chosen"}})  # why a runner was chosen
        inputs, parameters = kind.inputs(p, root), {n: v for n, v in values.items() if n not in PATHS} | also
        digests = {name: fileio.sha256_file(path) for name, path in inputs.items()}
        key = steps.make_key(kind.name, _without(f"{config.from_root(plan_dir, root)}/", parameters), digests)
        parent = plan_dir.joinpath(*_names(kind, p).values())
        return cls(kind, p, inputs, parameters, key, parent / f"{kind.name}-{key}")

    def begin(self, folder: Path | None = None, parameters: dict[str, Any] | None = None) -> steps.Step:
        """Begin the step in its own folder or another; see `Step.begin`."""
        return steps.Step.begin(
            folder or self.folder, self.kind.name, **_names(self.kind, self.p), parameters=parameters or self.parameters,
            inputs=self.inputs, key=self.key,
        )  # fmt: skip


def _without(folder: str, value: Any) -> Any:
    """Return a JSON value in which paths into a folder begin there: a plan's own models are the same wherever it lies."""
    if isinstance(value, dict):
        return {name: _without(folder, one) for name, one in value.items()}
    return value.removeprefix(folder) if isinstance(value, str) else value


def _names(kind: StepKind, p: Any) -> dict[str, str]:
    """Return the names of the model and the task of a step, as far as it has them."""
    names = {} if kind.scope == PLAN else {"model": p.model.name}
    return names | {"task": p.task.name} if kind.scope == CELL else names
