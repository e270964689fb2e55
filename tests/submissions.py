"""Submissions written from run folders, as `morocco bench` and `morocco pack` would leave them."""

import random
import shutil
from pathlib import Path

import complete_runs
from helpers import write_records

from morocco_lib.leaderboard import submission

SIZE = 80  # ten batches


def write_val(folder: Path) -> Path:
    """Write few records as the file of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_records(folder / "val.jsonl", 20, premise_chars=40)


def bench_step(folder: Path, val: Path, model="m", seed=1, runs=3, like=None, **options) -> Path:
    """Write a finished bench step that verifies; its times are its own, or those of the model `like`."""
    chance = random.Random(f"{like or model}/{seed}")
    complete_runs.write_bench(folder, val, size=SIZE, few=8, repeats=runs, model=model, chance=chance, **options)
    return folder


def submit(place: Path, val: Path, model="m", key=None, **options) -> Path:
    """Pack a submission of one bench of TERRa in a folder; returns the archive."""
    theirs = shutil.copy(val, place / "val.jsonl")
    bench_step(place / "out" / model / "terra/bench-1", theirs, model, **options)
    submission.pack(place / "out", place / "s.zip", key=key)
    theirs.unlink()  # the organiser has another copy
    return place / "s.zip"
