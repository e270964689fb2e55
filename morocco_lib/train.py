"""Fit one model on one task."""

import resource
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morocco_lib import data, steps
from morocco_lib.errors import UsageError
from morocco_lib.models import model_class, weights
from morocco_lib.tasks import get_task

RESULT = "train.json"


@dataclass(frozen=True)
class Plan:
    """What a training run reads and is asked to do, fixed before anything is fitted."""

    model: str
    kind: str
    task: str
    path: Path
    seed: int


def fit(plan: Plan, folder: Path) -> dict[str, Any]:
    """Fit the model and write `weights/` and `train.json` into `folder`.

    Returns:
        What `train.json` holds: records, labels, seconds (wall and CPU), peak memory of this process in bytes, size.
    Raises:
        UsageError: the records cannot be read or have no labels.
    """
    task = get_task(get_task(plan.task).weights_of)
    began, cpu_began = time.monotonic(), time.process_time()
    records = task.read(plan.path)
    unlabelled = sum(task.gold(record) is None for record in records)
    if unlabelled:
        raise UsageError(
            f"{unlabelled} of {len(records)} records in {plan.path} have no label",
            rule="training needs labels",
            remedy="give the train split",
        )
    labels = Counter(label for record in records for label in task.labels_in(task.gold(record)))
    model = model_class(plan.kind).fit(task, records, plan.seed)
    origin = {"origin": data.origin(plan.path), "sha256": steps.sha256_file(plan.path), "records": len(records)}
    weights.save(model, task, folder / "weights", name=plan.model, trained_on=origin)
    result = {
        "schema": 1,
        "model": plan.model,
        "kind": plan.kind,
        "task": task.name,
        "seed": plan.seed,
        "data": {**origin, "path": str(plan.path)},
        "labels": {str(label): labels[label] for label in task.labels},
        "wall_s": time.monotonic() - began,
        "cpu_s": time.process_time() - cpu_began,
        "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "weights_bytes": sum(path.stat().st_size for path in weights.files(folder)),
    }
    steps.write_json(folder / RESULT, result)
    return result
