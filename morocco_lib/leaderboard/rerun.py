"""A submitted image measured again, here: the one proof that a program does what its files say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from morocco_lib.artifacts import steps
from morocco_lib.benchmark import Hooks, Target, bench
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.leaderboard.checks import Terms
from morocco_lib.leaderboard.entry import HEAD, METRICS, WORST, Check, Entry, Outcome, cells_of
from morocco_lib.reasons import DISTURBED, EXIT_CODES, INVALID
from morocco_lib.tasks import get_task

NEAR = 0.05  # of what was submitted
SETTINGS = ("batch_size", "input_size", "repeats")


def rerun(entry: Entry, image: str, terms: Terms, folder: Path, say: Callable[[str], None]) -> Entry:
    """Return an entry with what its image does here, on every task that it answered with this image.

    Args:
        folder: Gets a step folder a task.
    Raises:
        UsageError: it was not made by this image.
        EnvironmentFailure: the engine failed, or the machine was disturbed: nothing was concluded.
    """
    target = Target.of_image(image, entry.model)
    digest = target.program.image_digest
    points = {task: point for task, point in entry.points.items() if point["image_digest"] == digest}
    if not points:
        raise UsageError(
            f"{image} ({digest}) made nothing of {entry.file}", rule="a submission names its images by digest"
        )
    seen, outcomes = [], []
    for task, point in points.items():
        place, source = folder / f"{entry.id}-{task}", terms.files[task]
        settings = {name: point[name] for name in SETTINGS}
        steps.retire(place)
        names = {"model": entry.model, "task": task, "parameters": {"image": digest, **settings}}
        with steps.Step.begin(place, "bench", **names, inputs={"data": source}) as step:
            result = bench(target, get_task(task), source, place, hooks=Hooks(progress=say), **settings)
            step.finish(steps.DONE, EXIT_CODES[result["verdict"]])
        if result["verdict"] == DISTURBED:
            raise EnvironmentFailure(f"{image} was disturbed here", remedy="rank it again when the machine is quiet")
        outcome, text = _compared(result, entry.cells[task])
        outcomes.append(outcome)
        seen.append(f"{task}: {text}")
    return replace(entry, checks=(*entry.checks, Check("RERUN", max(outcomes, key=WORST.index), "; ".join(seen))))


def _compared(result: dict[str, Any], submitted: Mapping[str, Sequence[float | None]]) -> tuple[Outcome, str]:
    """Return what a rerun's bench.json makes of submitted numbers."""
    if result["verdict"] == INVALID:
        return Outcome.REFUSED, f"INVALID here: {', '.join(result['reasons'])}"
    here = cells_of(result)
    both = {name: (here[name][0], submitted[name][0]) for name in METRICS}
    ratios = {name: a / b for name, (a, b) in both.items() if a is not None and b}
    near = len(ratios) == len(METRICS) and all(abs(ratio - 1) <= NEAR for ratio in ratios.values())
    text = ", ".join(f"{HEAD[name]} x{ratio:.2f}" for name, ratio in ratios.items())
    return (Outcome.OK if near else Outcome.MARKED), f"{text}{'' if near else f': not all within {NEAR:.0%}'}"
