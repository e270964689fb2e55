"""Synthetic benchmark records from templates, for demonstrations and tests that need no download.

One generator module a task, found by its file name, with its sentences and words in the JSON file of the same name; the
tasks of GLUE share one (`_glue`). It has `SIZES` (split -> number of records that `write` makes) and
`records_with_truth(split, size, seed)`: records, each beside what is true by construction, since a tenth of the published
labels is wrong and the test split has none. They are the same on every machine and different for every split: a random
stream is seeded with a string, which Python hashes by SHA-512, whatever PYTHONHASHSEED is.
"""

import importlib
import json
import pkgutil
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

from morocco_lib import fileio
from morocco_lib.data.splits import MARK, jsonl_name
from morocco_lib.data.synthetic import _glue
from morocco_lib.errors import UsageError
from morocco_lib.tasks import get_task
from morocco_lib.tasks.jsonl import Record


def generator_names() -> list[str]:
    """Return the short ids of the tasks that have synthetic records, sorted."""
    own = (module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return sorted([*own, *_glue.GENERATORS])


def generator(task_name: str) -> ModuleType | SimpleNamespace:
    """Return the generator of a task: a module, or what stands for one.

    Raises:
        UsageError: there is none.
    """
    if task_name not in generator_names():
        raise UsageError(
            f"no synthetic records for {task_name!r}",
            rule=f"generators exist for {', '.join(generator_names())}",
            remedy="name one of these, or point to a folder with the official data",
        )
    return _glue.GENERATORS.get(task_name) or importlib.import_module(f"{__name__}.{task_name}")


def records(task_name: str, split: str, size: int, seed: int) -> list[Record]:
    """Return synthetic records in the schema of a task's official files.

    Args:
        task_name: Short id of the task.
        split: train, val or test.
        size: Number of records.
        seed: Same task, split, size and seed give the same records on every machine; splits differ from each other.
    Raises:
        UsageError: no such split, or no generator for the task.
    Limits: material for demonstrations and tests, not a benchmark; a score on them says nothing about real text.
    """
    module = generator(task_name)
    if split not in module.SIZES:
        raise UsageError(f"no split {split!r}", rule=f"splits are {', '.join(module.SIZES)}")
    return [record for record, _ in module.records_with_truth(split, size, seed)]


def write(folder: Path, tasks: Sequence[str], seed: int, train_records: int = 0) -> list[Path]:
    """Write the synthetic splits of the tasks in the layout of the official data, and a note that says what they are.

    Args:
        folder: Where `<Title>/{train,val,test}.jsonl` and SYNTHETIC.md go; made if missing, same names overwritten.
        tasks: Short ids of tasks that have a generator.
        seed: Seed of every split.
        train_records: Size of the train splits; 0 is that of each task's `SIZES`.
    Returns:
        The paths written, the note last.
    Raises:
        UsageError: no such task, or none of its records can be made; nothing is written then.
    Limits: see `records`.
    """
    contents = {}
    for name in tasks:
        task = get_task(name)
        for split, size in generator(name).SIZES.items():
            size = train_records if train_records and split == "train" else size
            lines = (json.dumps(record, ensure_ascii=False) for record in records(name, split, size, seed))
            # CRLF as in the official TERRa files, so that readers meet it here first.
            contents[folder / task.title / jsonl_name(task.files.get(split, split))] = "".join(
                line + "\r\n" for line in lines
            )
    contents[folder / MARK] = (
        f"These records ({', '.join(tasks)}) are synthetic: morocco made them from templates with seed {seed}.\n"
        "10 % of the labels in labelled splits are wrong on purpose.\n"
        "They are no benchmark: a score on them says nothing about how well a model knows a language.\n"
    )
    new = not folder.exists()
    try:
        for path, text in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            fileio.write_text(path, text)
    except OSError:
        for path in contents:  # half of the records would look like all of them
            path.unlink(missing_ok=True)
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return list(contents)
