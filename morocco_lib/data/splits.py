"""Folders in the official layout: the file of a split, and how a result describes its records."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morocco_lib import fileio
from morocco_lib.errors import UsageError
from morocco_lib.options import SYNTHETIC
from morocco_lib.tasks.base import Task
from morocco_lib.tasks.jsonl import Record

MARK = "SYNTHETIC.md"  # in every folder of synthetic records


def find_split(data_dir: Path, task: Task, split: str, files: dict[str, str] | None = None) -> Path:
    """Return the file of one split.

    Args:
        data_dir: A folder in the official layout (`TERRa/val.jsonl`), or the task's own folder (`val.jsonl`);
            `.jsonl.gz` serves as well, and JSON Lines where the official files are tables.
        split: train, val or test.
        files: Paths relative to `data_dir` that replace the official names, by split.
    Raises:
        UsageError: there is no such file; the message lists the paths tried.
    """
    data_dir = Path(data_dir)
    if files and split in files:
        places = [data_dir / fileio.expand(files[split])]
    else:
        name = task.files.get(split, f"{split}.jsonl")
        names = dict.fromkeys((name, jsonl_name(name)))
        names = [name + ending for name in names for ending in ("", ".gz")]
        places = [data_dir / task.title / n for n in names] + [data_dir / n for n in names]
    for place in places:
        if place.is_file():
            return place
    raise UsageError(
        f"no {split} split of {task.title} in {data_dir}",
        rule=f"looked for {', '.join(os.path.relpath(place, data_dir) for place in places)}",
        remedy="give the folder that holds the official files, or `synthetic`",
    )


def jsonl_name(name: str) -> str:
    """Return what a file is called as JSON Lines: out_of_domain_dev.jsonl for out_of_domain_dev.csv."""
    return f"{Path(name).stem}.jsonl"


def read_split(
    data_dir: Path, task: Task, split: str, files: dict[str, str] | None = None
) -> tuple[Path, list[Record]]:
    """Return the path and the records of one split."""
    path = find_split(data_dir, task, split, files)
    return path, task.read(path)


def is_synthetic(path: Path) -> bool:
    """Tell whether a data file or folder was made by the kit."""
    path = Path(path).resolve()
    return any((parent / MARK).is_file() for parent in (path, *list(path.parents)[:2]))


def origin(path: Path) -> str:
    """Return "synthetic" or "files": the origin of records in every result."""
    return SYNTHETIC if is_synthetic(path) else "files"


def describe(path: Path, task: Task, records: Sequence[Record]) -> dict[str, Any]:
    """Return a result's description of its records: path, sha256, origin, number, whether a sample, spans that do not match.

    A sample is a file of real records that holds another number than the official split of its name.
    """
    official = task.sizes.get(Path(Path(path).name.removesuffix(".gz")).stem)
    return {
        "path": str(path),
        "sha256": fileio.sha256_file(path),
        "origin": origin(path),
        "records": len(records),
        "official_records": official,
        "sample": origin(path) != SYNTHETIC and len(records) != official,
        "unaligned_spans": task.unaligned(records),
    }
