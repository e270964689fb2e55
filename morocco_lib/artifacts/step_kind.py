"""What a step is, declared once; the table of kinds stands in `pipeline.step_kinds`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CELL, MODEL, PLAN = "cell", "model", "plan"  # scopes: one model on one task; one model; all that a plan made
POINT, SCORE, TRAINING, PRETRAINING = "operating point", "score", "training", "pre-training"


@dataclass(frozen=True)
class StepKind:
    """A kind of step: plan runner, notebook session, verify and report ask it, and know no step by its name.

    Args:
        name: In plans, folders (`<name>-<key8>`) and statuses; its notebook is notebooks/<name>.ipynb.
        params: The schema of the notebook's parameters.
        inputs: (parameters, project root) -> name and path of every file it reads; raises UsageError.
        result: The JSON file that it leaves in its folder.
        scope: CELL, MODEL or PLAN.
        shows: What a report shows its result as: POINT (a row of estimates), SCORE (of a row, or a row of its own), TRAINING
            (the cost and the seeds), PRETRAINING (perplexities); "" for nothing.
        trains: It makes the weights that the other steps of its cell read, from the records that the task's models are
            trained on.
        start: Of scope MODEL: folder of a finished step -> the folder that the model is trained from.
        heartbeat: Folder of a step -> a file whose time changes while it gets on, where and as long as that is there.
        in_turn: The models of a plan are measured together, one run of each after the other.
        exit_code: Folder of a finished step -> its exit code.
        rebuild: Folder -> (how many numbers follow from its files alone, what does not); None: nothing can be rebuilt.
        rests_on: Folder -> what else that is rebuilt from, beside its own files and its inputs: digests, as JSON.
        contradictions: (folder, status) -> what its files record twice and not alike.
        unchecked: (folder, status) -> what of it is held against nothing; see `artifacts.verify.Unchecked`.
    """

    name: str
    params: type
    inputs: Callable[[Any, Path], dict[str, Path]]
    result: str
    scope: str = CELL
    shows: str = ""
    trains: bool = False
    start: Callable[[Path], Path] | None = None
    heartbeat: Callable[[Path], Path] | None = None
    in_turn: bool = False
    exit_code: Callable[[Path], int] = lambda folder: 0
    rebuild: Callable[[Path], tuple[int, list[str]]] | None = None
    rests_on: Callable[[Path], Any] = lambda folder: None
    contradictions: Callable[[Path, dict[str, Any]], list[str]] = lambda folder, status: []
    unchecked: Callable[[Path, dict[str, Any]], list[Any]] = lambda folder, status: []


Kinds = Mapping[str, StepKind]


def shown_as(status: Mapping[str, Any], kinds: Kinds) -> str:
    """Return what a report shows a step's result as; "" also for steps that are of no kind."""
    kind = kinds.get(status["step"])
    return kind.shows if kind else ""
