"""What original.ipynb opens with, its tables, and what it ends with."""

import hashlib
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from morocco_lib import config, fileio
from morocco_lib.artifacts import steps
from morocco_lib.errors import UsageError
from morocco_lib.formatting import counted, sized
from morocco_lib.legacy import compare
from morocco_lib.legacy.compare import KEPT, OPEN, TURNED, Cell
from morocco_lib.legacy.corrected import MEANING, Flag
from morocco_lib.pipeline.session import Facts

STEP = "original"
WIDE_HALF = 0.1  # of a speed: an interval that reaches further does not tell models apart that differ by less


@dataclass(frozen=True)
class Session:
    """The notebook at work: its logs as cells, and which global names were there when it was opened."""

    path: Path
    cells: list[Cell]
    given: frozenset[str]

    def __repr__(self) -> str:
        return f"<{counted(len(self.cells), 'cell')} of {self.path}>"

    def provenance(self) -> Facts:
        """Return what this notebook reads and runs on."""
        code = steps.code_facts()
        changed = " with uncommitted changes" if code["dirty"] else ""
        runs = sum(len(c.ones) + len(c.longer) + len(c.others) for c in self.cells)
        models, tasks = ({getattr(c, name) for c in self.cells} for name in ("model", "task"))
        return Facts({
            "logs": f"{self.path}  sha256 {_digest(self.path)[:12]}",
            "recorded": _recorded(self.cells),
            "holds": f"{runs} runs of {counted(len(models), 'model')} on {counted(len(tasks), 'task')}",
            "code": f"morocco {code['version']}, {code['commit'][:10] + changed if code['commit'] else 'not a git checkout'}",
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
    path = config.resolve(config.of_notebook(STEP, names, earlier).logs, root)
    if not path.exists():
        raise UsageError(
            f"no logs in {path}",
            rule="the original publishes them in bench/data/jiant of github.com/RussianNLP/MOROCCO; none come with this project",
            remedy="clone that repository beside this project, or give the path as `logs`: a folder or a .tar.gz",
        )
    return Session(path, compare.read(path), earlier or frozenset(names))


def _recorded(cells: Sequence[Cell]) -> str:
    """Return on which days the runs were made, and how long the two kinds of a cell lie apart."""
    days = {datetime.fromtimestamp(r.log.began_s, UTC).date() for c in cells for r in (*c.ones, *c.longer, *c.others)}
    both = [[median(run.log.began_s for run in runs) for runs in (c.ones, c.longer)] for c in cells]
    apart_s = max(abs(longer - one) for one, longer in both)
    told = f"{min(days)} to {max(days)}, on {len(days)} days" if len(days) > 1 else f"{min(days)}"
    return f"{told}; the one-record and the longer runs of a cell up to {apart_s / 3600:.0f} hours apart"


def _digest(path: Path) -> str:
    if path.is_file():
        return fileio.sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.jsonl*")):
        digest.update(f"{file.relative_to(path)} {fileio.sha256_file(file)}\n".encode())
    return digest.hexdigest()


# -- tables --------------------------------------------------------------------------------------------------------
def speeds(cells: Sequence[Cell]):
    """Return a row a cell: published and corrected speed, both with intervals, and how far they are apart."""
    rows = {
        (c.task, c.model): {
            "published": _told(c.published.rps),
            "its own 95 %": _between(*c.published_interval),
            "corrected": _told(c.point.per_s) if c.point.per_s is not None else c.point.reason,
            "95 %": _between(c.point.low_per_s, c.point.high_per_s) if c.point.low_per_s is not None else "—",
            "published / corrected": "—" if c.inflation is None else f"{c.inflation:.2f}",
            "runs used": f"{c.point.used}/{c.point.runs} + {c.point.used_ones}/{c.point.ones}",
        }
        for c in sorted(cells, key=lambda c: (c.task, -(c.published.rps or 0)))
    }
    return _frame(rows, ("task", "model"))


def beginnings(cells: Sequence[Cell]):
    """Return a row an input size and kind of beginning: what first samples saw, as the lowest and highest median of a cell.

    `late` is a clock whose first sample finds a program nearer in RAM to those of the longer runs than to those of the
    one-record runs. Runs with a flag are left out where these can be judged: of one record, and of the published size.
    """
    found: dict[tuple[int, int, str], list[tuple[float, float, str]]] = {}
    for cell in cells:
        if (begun := compare.lost(cell)) is None:
            continue
        kinds: dict[tuple[int, int], list[compare.Trace]] = {}
        for run in (*cell.good_ones, *cell.good, *cell.others):
            kinds.setdefault((run.log.place.input_size, run.log.place.batch_size), []).append(run)
        for size, runs in kinds.items():
            seen = [both for run in runs if None not in (both := (run.begins_with("ram"), run.log.onset_s))]
            if seen:
                ram, onset_s = map(median, zip(*seen, strict=True))
                late = ram**2 > begun.ram_one_bytes * begun.ram_bytes
                found.setdefault((*size, "late" if late else "in time"), []).append((ram / 2**20, onset_s, cell.task))
    every = {cell.task for cell in cells}
    rows = {}
    for (records, batch, clock), of_cells in sorted(found.items()):
        rams, onsets, tasks = zip(*of_cells, strict=True)
        left_out = every - set(tasks)
        rows[f"{counted(records, 'record')}, batch {batch}", clock] = {
            "RAM in the first sample, MiB": _span(rams),
            "first GPU sample, s": _span(onsets),
            "cells": len(of_cells),
            "tasks": ", ".join(sorted(set(tasks))) if len(left_out) > len(every) / 2 else _all_but(left_out),
        }
    return _frame(rows, ("runs of", "clock"))


def _all_but(names: Iterable[str]) -> str:
    return f"all but {', '.join(sorted(names))}" if names else "all"


def other_ways(cells: Sequence[Cell]):
    """Return a row a way to correct: how its speeds compare with those of the first GPU sample, over all cells."""
    ways = [compare.by_other_ways(cell) for cell in cells]
    means = {
        "loaded": "clock from the sample in which the model is on the GPU",
        "ram": "clock of the longer runs set back until their RAM is that of a one-record run; no GPU reading",
        "marginal": "two longer input sizes, no one-record run",
    }
    rows = {}
    for name, meaning in means.items():
        both = [(way, cell) for way, cell in zip(ways, cells, strict=True) if way[name] and way["onset"]]
        told = [(way[name] / way["onset"], cell) for way, cell in both]
        within = sum(_within(ratio * cell.point.per_s, cell) for ratio, cell in told)
        nearer = sum(abs(ratio - 1) < abs(ratio - cell.inflation) for ratio, cell in told if cell.inflation)
        rows[meaning] = {
            "cells": len(told),
            "speed / corrected": _span([ratio for ratio, _ in told], 3) if told else "no such logs",
            "inside its interval": within if told else "—",
            "nearer to it than to the published": nearer if told else "—",
        }
    return _frame(rows, "way")


def orders(cells: Sequence[Cell]):
    """Return a row a pair of models whose order is open or has turned."""
    rows = {
        (p.task, f"{p.faster} before {p.slower}"): {
            "published ratio": f"{p.published_ratio:.2f}",
            "corrected ratio": f"{p.corrected_ratio:.2f}",
            "the logs": "say the opposite" if p.order == TURNED else "do not tell",
            "speeds change places": "yes" if p.swapped else "",
        }
        for p in compare.pairs(cells)
        if p.order in (OPEN, TURNED)
    }
    return _frame(rows, ("task", "published order"))


def flags(cells: Sequence[Cell]) -> list[str]:
    """Return a line a flag: how many runs or cells have it, and what it means."""
    seen = Counter(flag for flag, *_ in {(f.flag, f.file, c.model, c.task) for c in cells for f in c.point.findings})
    return [f"{flag}, {seen[flag]}: {MEANING[flag]}" for flag in Flag if seen[flag]]


def _frame(rows: dict[Any, dict[str, Any]], names: str | Sequence[str]):
    import pandas

    frame = pandas.DataFrame.from_dict(rows, orient="index")
    if isinstance(names, str):
        return frame.rename_axis(names)
    if rows:
        frame.index = pandas.MultiIndex.from_tuples(list(rows), names=names)
    return frame


def _told(value: float | None) -> str:
    return "—" if value is None else sized(value)


def _between(low: float | None, high: float | None) -> str:
    return f"{_told(low)} to {'any' if high is None else sized(high)}"


def _span(values: Sequence[float], digits: int = 3) -> str:
    return f"{sized(min(values), digits)} to {sized(max(values), digits)}"


def _within(value: float, cell: Cell) -> bool:
    low, high = cell.point.low_per_s, cell.point.high_per_s
    return low is not None and low <= value and (high is None or value <= high)


# -- what follows --------------------------------------------------------------------------------------------------
def summary(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the numbers that the last cell's sentences are made of; pairs of numbers are the lowest and the highest."""
    told = [c for c in cells if c.inflation]
    losses = [found for c in cells if (found := compare.lost(c))]
    ways = [compare.by_other_ways(c) for c in cells]
    started = [compare.starts(c) for c in cells]
    pairs = compare.pairs(cells)
    grown = [c.point.gpu_ram_bytes / c.point.gpu_ram_one_bytes for c in cells if c.point.gpu_ram_bytes]
    return {
        "cells": len(cells),
        "inflation": _ends(c.inflation for c in told),
        "outside": sum(not _within(c.published.rps, c) for c in told),
        "lost_s": _ends(found.gpu_s for found in losses),
        "shifted": sum(f.flag is Flag.ONSET_SHIFT for c in cells for f in c.point.findings),
        "first_ram_one_bytes": _ends(found.ram_one_bytes for found in losses),
        "first_ram_bytes": _ends(found.ram_bytes for found in losses),
        "loaded": _ends(way["loaded"] / way["onset"] for way in ways if way["loaded"] and way["onset"]),
        "ram": _ends(way["ram"] / way["onset"] for way in ways if way["ram"] and way["onset"]),
        "one_record_runs": sum(s.found for s in started),
        "cold": sum(s.cold for s in started),
        "one_more_turns_the_median": sum(s.one_more_turns_the_median for s in started),
        "wide": sum(_half_width(c) > WIDE_HALF for c in told),
        "pairs": len(pairs),
        "kept": sum(p.order == KEPT for p in pairs),
        "open": sum(p.order == OPEN for p in pairs),
        "turned": sum(p.order == TURNED for p in pairs),
        "swapped": sum(p.swapped for p in pairs),
        "published_apart": sum(p.published_apart for p in pairs),
        "memory": _ends(grown),
        "memory_grown": sum(times > 1 + WIDE_HALF for times in grown),
    }


def conclusions(cells: Sequence[Cell]) -> list[str]:
    """Return what follows from the logs, in sentences."""
    s = summary(cells)

    def span(name: str, divisor: float = 1.0, digits: int = 2) -> str:
        return "nothing known" if s[name] is None else " to ".join(sized(v / divisor, digits) for v in s[name])

    n = s["cells"]
    return [
        f"Published speeds are {span('inflation', digits=3)} times the corrected ones; "
        f"{s['outside']} of {n} lie outside the corrected 95 % interval.",
        f"The first GPU sample comes {span('lost_s')} s sooner in the longer runs, in {s['shifted']} of {n} cells by more "
        f"than sampling explains. Their first sample finds {span('first_ram_bytes', 2**20, 3)} MiB of RAM, "
        f"that of a one-record run {span('first_ram_one_bytes', 2**20)} MiB.",
        f"With the clock from where the model is on the GPU speeds are {span('loaded', digits=3)} times the corrected ones, "
        f"by RAM alone {span('ram', digits=3)}.",
        f"{s['cold']} of {s['one_record_runs']} one-record runs started cold; in {s['one_more_turns_the_median']} of {n} "
        "cells one more would have made the start-up that is subtracted a cold one.",
        f"Resampled, the published rule's own interval is wider than {WIDE_HALF * 100:.0f} % to either side in {s['wide']} of {n} "
        f"cells, and tells {s['published_apart']} of {s['pairs']} pairs of models apart.",
        f"Corrected, {s['kept']} of {s['pairs']} pairs keep the published order with intervals apart, {s['open']} are open "
        f"(in {s['swapped']} the speeds change places), {s['turned']} are turned.",
        f"At the point of the speed the models hold {span('memory')} times the published GPU memory; over {WIDE_HALF * 100:.0f} % "
        f"more in {s['memory_grown']} of {n} cells.",
    ]


def _ends(values: Iterable[float]) -> tuple[float, float] | None:
    known = sorted(values)
    return (known[0], known[-1]) if known else None


def _half_width(cell: Cell) -> float:
    low, high = cell.published_interval
    return math.inf if high is None else (high - low) / 2 / cell.published.rps
