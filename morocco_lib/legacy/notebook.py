"""What original.ipynb opens with, and its tables."""

import hashlib
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from morocco_lib import config, fileio
from morocco_lib.artifacts import steps
from morocco_lib.errors import UsageError
from morocco_lib.formatting import counted, sized
from morocco_lib.legacy import compare
from morocco_lib.legacy.compare import CONFIRMED, REVERSED, UNCLEAR, Cell
from morocco_lib.legacy.corrected import MEANING, Flag
from morocco_lib.pipeline.session import Facts

STEP = "original"
WIDE_HALF = 0.1  # of a speed: an interval that reaches further does not separate models that differ by less


@dataclass(frozen=True)
class Session:
    """The notebook at work: its logs as cells, and which global names were there when it was opened."""

    path: Path
    cells: list[Cell] = field(repr=False)
    given: frozenset[str] = field(repr=False)

    def provenance(self) -> Facts:
        """Return what this notebook reads and runs on."""
        runs = [log for cell in self.cells for log in (*cell.single, *cell.longer)]
        models, tasks = ({getattr(cell, name) for cell in self.cells} for name in ("model", "task"))
        days = {datetime.fromtimestamp(log.began_s, UTC).date() for log in runs}
        return Facts({
            "logs": f"{self.path}  sha256 {_digest(self.path)[:12]}",
            "recorded": f"{min(days)} to {max(days)}, on {counted(len(days), 'day')}",
            "holds": f"{len(runs)} runs of {counted(len(models), 'model')} on {counted(len(tasks), 'task')}",
            "code": steps.code_text(),
            "Python": f"{sys.version.split()[0]} ({sys.executable})",
            "started": steps.now(),
        })  # fmt: skip


def start(names: dict[str, Any]) -> Session:
    """Read the logs that a notebook's global names lead to; call it in the cell right after the parameters.

    Raises:
        UsageError: an unknown parameter, no logs there, or a log that cannot be read.
    """
    root = config.project_root()
    earlier = next((value.given for value in names.values() if isinstance(value, Session)), None)
    path = config.resolve(config.of_notebook(config.OriginalParams, STEP, names, earlier).logs, root)
    if not path.exists():
        raise UsageError(
            f"no logs in {path}",
            rule="the original publishes them in bench/data/jiant of github.com/RussianNLP/MOROCCO; none come with this project",
            remedy="clone that repository beside this project, or give the path as `logs`: a folder or a .tar.gz",
        )
    return Session(path, compare.read(path), earlier or frozenset(names))


def _digest(path: Path) -> str:
    if path.is_file():
        return fileio.sha256_file(path)
    files = sorted(path.rglob("*.jsonl*"))
    lines = "".join(f"{file.relative_to(path)} {fileio.sha256_file(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


# -- tables --------------------------------------------------------------------------------------------------------
def speeds(cells: Sequence[Cell]):
    """Return a row a cell: published and corrected speed, both with intervals, and their ratio."""
    rows = {
        (c.task, c.model): {
            "published": _text(c.published.rps),
            "published, 95 %": _interval(*c.published_interval),
            "corrected": c.point.reason or _text(c.point.per_s),
            "corrected, 95 %": _interval(c.point.low_per_s, c.point.high_per_s),
            "published / corrected": "—" if c.inflation is None else f"{c.inflation:.2f}",
            "runs used": f"{c.point.used}/{c.point.runs} + {c.point.used_single}/{c.point.single}",
        }
        for c in sorted(cells, key=lambda c: (c.task, -(c.published.rps or 0)))
    }
    return _frame(rows, "task", "model")


def losses(cells: Sequence[Cell]):
    """Return the seconds of start-up that the longer runs lost, by the first GPU sample: a row a task, a column a model."""
    rows: dict[str, dict[str, str]] = {}
    for cell in sorted(cells, key=lambda c: (c.task, c.model)):
        lost_s = cell.point.onset_shift_s
        rows.setdefault(cell.task, {})[cell.model] = "—" if lost_s is None else f"{lost_s:.1f}"
    return _frame(rows, "task")


def other_rules(cells: Sequence[Cell]):
    """Return a row a rule: how its speeds compare with the corrected ones, over all cells."""
    rules = {
        "clock from the sample in which the model is on the GPU": [(c.by_loaded, c) for c in cells],
        "clock of the longer runs set back by RAM; no reading of the GPU": [(c.by_ram, c) for c in cells],
    }
    rows = {}
    for rule, speeds in rules.items():
        known = [(speed, cell) for speed, cell in speeds if speed and cell.inflation]
        nearer = [abs(v / c.point.per_s - 1) < abs(v / c.point.per_s - c.inflation) for v, c in known]
        rows[rule] = {
            "cells": len(known),
            "speed / corrected": _span(v / c.point.per_s for v, c in known),
            "inside the corrected interval": sum(c.contains(v) for v, c in known),
            "nearer to corrected than to published": sum(nearer),
        }
    return _frame(rows, "rule")


def orders(cells: Sequence[Cell]):
    """Return a row a pair of models whose published order is not confirmed."""
    rows = {
        (p.task, f"{p.faster} before {p.slower}"): {
            "published ratio": f"{p.published_ratio:.2f}",
            "corrected ratio": f"{p.corrected_ratio:.2f}",
            "order": p.order,
        }
        for p in compare.pairs(cells)
        if p.order != CONFIRMED
    }
    return _frame(rows, "task", "published order")


def flags(cells: Sequence[Cell]) -> Facts:
    """Return each flag: how many runs or cells have it, and what it means."""
    found = {(f.flag, f.file or f.seen, c.model, c.task) for c in cells for f in c.point.findings}
    counts = Counter(flag for flag, *_ in found)
    return Facts({f"{flag}, {counts[flag]}": MEANING[flag] for flag in Flag if counts[flag]})


def key_figures(cells: Sequence[Cell]):
    """Return the numbers that the conclusions rest on; "A to B" is the lowest and the highest of all cells."""
    known = [c for c in cells if c.inflation]
    lost_s = [c.point.onset_shift_s for c in cells if c.point.onset_shift_s is not None]
    pairs = compare.pairs(cells)
    orders = Counter(p.order for p in pairs)
    singles, colds = ([len(c.single) for c in cells], [c.cold for c in cells])
    grown = [c.point.gpu_ram_bytes / c.point.gpu_ram_single_bytes for c in cells if c.point.gpu_ram_bytes]
    shifted = sum(f.flag is Flag.ONSET_SHIFT for c in cells for f in c.point.findings)
    one_more = sum(cold < single / 2 < cold + 1 for cold, single in zip(colds, singles, strict=True))
    n = f"of {len(cells)}"
    rows = {
        "published / corrected speed": _span(c.inflation for c in known),
        "published speeds outside the corrected interval": f"{sum(not c.contains(c.published.rps) for c in known)} {n}",
        "start-up lost, s": _span(lost_s, digits=2),
        "cells with a significant loss": f"{shifted} {n}",
        "RAM in the first sample of a longer run, MiB": _span(c.ram_bytes / 2**20 for c in cells if c.ram_bytes),
        "RAM in the first sample of a single-record run, MiB": _span(
            c.ram_single_bytes / 2**20 for c in cells if c.ram_single_bytes
        ),
        "speed by loaded model / corrected": _span(c.by_loaded / c.point.per_s for c in known if c.by_loaded),
        "speed by RAM / corrected": _span(c.by_ram / c.point.per_s for c in known if c.by_ram),
        "cold single-record runs": f"{sum(colds)} of {sum(singles)}",
        "cells in which one more cold start makes the median cold": f"{one_more} {n}",
        "published intervals wider than 10 % to either side": f"{sum(map(_wide, known))} {n}",
        "pairs that the published intervals separate": f"{sum(p.published_apart for p in pairs)} of {len(pairs)}",
        "pairs with a confirmed order": f"{orders[CONFIRMED]} of {len(pairs)}",
        "pairs with an unclear order": str(orders[UNCLEAR]),
        "pairs with a reversed order": str(orders[REVERSED]),
        "GPU memory at the speed's point / published": _span(grown, digits=2),
        "cells with over 10 % more GPU memory": f"{sum(times > 1 + WIDE_HALF for times in grown)} {n}",
    }
    return _frame({name: {"value": value} for name, value in rows.items()}, "key figure")


def _wide(cell: Cell) -> bool:
    low, high = cell.published_interval
    return (math.inf if high is None else high - low) / 2 / cell.published.rps > WIDE_HALF


def _frame(rows: dict[Any, dict[str, Any]], *names: str):
    import pandas

    frame = pandas.DataFrame.from_dict(rows, orient="index")
    if rows and len(names) > 1:
        frame.index = pandas.MultiIndex.from_tuples(list(rows), names=names)
        return frame
    return frame.rename_axis(names[0])


def _text(value: float | None) -> str:
    return "—" if value is None else sized(value)


def _interval(low: float | None, high: float | None) -> str:
    return "—" if low is None else f"{_text(low)} to {'any' if high is None else sized(high)}"


def _span(values: Iterable[float], digits: int = 3) -> str:
    known = sorted(values)
    return f"{sized(known[0], digits)} to {sized(known[-1], digits)}" if known else "not known"
