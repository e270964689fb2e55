"""The step that makes synthetic records, before all others of a plan."""

from pathlib import Path

from morocco_lib import data
from morocco_lib.artifacts import steps
from morocco_lib.options import SYNTHETIC


def synthetic_step(plan_dir: Path, task_names: list[str], seed: int) -> Path:
    """Return a step folder of synthetic records below a plan folder, made now unless it is there already."""
    parameters = {"tasks": sorted(task_names), "seed": seed}
    folder = Path(plan_dir) / f"{SYNTHETIC}-{steps.make_key(SYNTHETIC, parameters, {})}"
    if (folder / steps.STATUS).exists():
        status = steps.read_status(folder)
        if status["state"] == steps.DONE and status["outputs"] == steps.digest_outputs(folder):
            return folder
    steps.retire(folder)
    with steps.Step.begin(folder, SYNTHETIC, parameters=parameters, inputs={}):
        data.make_synthetic(folder, task_names, seed)
    return folder
