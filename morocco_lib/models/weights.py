"""The one format of fitted models: a folder with `model.json` and `model.safetensors`. Nothing in it is executed.

A transformer's has `tokenizer.json` beside them.
"""

import json
import os
from pathlib import Path
from typing import Any

from morocco_lib import foreign
from morocco_lib.errors import MoroccoError, UsageError
from morocco_lib.models import Model, model_class
from morocco_lib.options import Options
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import Task

VALUES, ARRAYS, TOKENIZER = "model.json", "model.safetensors", "tokenizer.json"
SCHEMA = 1


def save(model: Model, task: Task, folder: Path, *, name: str, trained_on: dict[str, Any]) -> None:
    """Write a model into a new folder; equal models give equal bytes."""
    values, arrays = model.state()
    folder = Path(folder)
    folder.mkdir(parents=True)
    description = {
        "schema": SCHEMA,
        "name": name,
        "kind": model.kind,
        "task": task.name,
        "trained_on": trained_on,
        "values": values,
    }
    (folder / VALUES).write_text(json.dumps(description, ensure_ascii=False) + "\n", encoding="utf-8")
    if arrays:
        import numpy as np
        from safetensors.numpy import save as to_bytes

        # safetensors writes an array's memory as it lies; scikit-learn's coefficients of three classes lie by column.
        (folder / ARRAYS).write_bytes(to_bytes({name: np.ascontiguousarray(a) for name, a in arrays.items()}))
    if tokenizer := getattr(model, "tokenizer_text", ""):
        (folder / TOKENIZER).write_text(tokenizer, encoding="utf-8")


def locate(folder: Path) -> Path:
    """Return the weights folder: the one given, or `weights/` in it (a train step's folder).

    Raises:
        UsageError: neither holds a model.
    """
    for place in (Path(folder), Path(folder) / "weights"):
        if (place / VALUES).is_file():
            return place
    raise UsageError(
        f"no model in {folder}",
        rule=f"a weights folder holds {VALUES}",
        remedy="make one with `morocco train MODEL TASK --data DIR --out DIR`",
    )


def describe(folder: Path) -> dict[str, Any]:
    """Return what `model.json` says: schema, name, kind, task, trained_on, values."""
    path = locate(folder) / VALUES
    try:
        description = foreign.parse(foreign.read_bytes(path, within=folder))
        foreign.fits(description, {"schema": int})
        if description["schema"] != SCHEMA:
            raise UsageError(
                f"{path} has schema {description['schema']}",
                rule=f"this version reads schema {SCHEMA}",
                remedy="train it again",
            )
        foreign.fits(description, {"name": str, "kind": str, "task": str, "trained_on": dict, "values": dict})
        return description
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is broken ({error})", remedy="train it again") from None


def load(folder: Path, task_name: str | None = None, options: Options | None = None) -> tuple[Model, Task]:
    """Return (model, task) of a weights folder.

    Args:
        folder: See `locate`.
        task_name: The task to answer; must be the one the model was trained for.
        options: How to compute, for kinds that leave a choice.
    Raises:
        UsageError: not readable, broken, for another task, or of a kind without such options.
    """
    options = options or Options()
    description, given = describe(folder), files(folder)
    folder = given[0].parent
    task = get_task(task_name or description["task"])
    if task.trained_on != description["task"]:
        raise UsageError(
            f"{folder} answers {description['task']}, not {task.name}", remedy=f"train one for {task.trained_on}"
        )
    known = model_class(description["kind"])
    if not hasattr(known, "from_folder") and options != Options():
        raise UsageError(
            f"{description['name']} is of kind {description['kind']}, which computes in one way only",
            rule="precision and backend are chosen for transformers",
        )
    arrays = {}
    try:
        if hasattr(known, "from_folder"):
            return known.from_folder(task, description["values"], folder, options), task
        if folder / ARRAYS in given:
            from safetensors.numpy import load_file

            arrays = load_file(folder / ARRAYS)
        return known.from_state(task, description["values"], arrays), task
    except (MoroccoError, ImportError):
        raise
    except Exception as error:  # safetensors has an error class of its own, from compiled code
        raise UsageError(f"{folder} is broken ({type(error).__name__}: {error})", remedy="train it again") from None


def files(folder: Path) -> list[Path]:
    """Return the files of a weights folder; raises UsageError where one is a link, whose target would be packed in its place."""
    place = locate(folder)
    found = [path for path in (place / VALUES, place / ARRAYS, place / TOKENIZER) if os.path.lexists(path)]
    try:
        return [foreign.check(path, within=folder) for path in found]
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from None
