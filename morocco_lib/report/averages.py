"""Operating points averaged over the tasks that all of them have: one disc a model, as the original's chart shows."""

from collections.abc import Sequence
from math import hypot
from typing import Any

from morocco_lib.reasons import VALID
from morocco_lib.report import machines

NUMBERS = ("score", "speed_per_s", "ram_bytes", "gpu_ram_bytes")


def averaged(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return (the tasks, an operating point for each model, batch size and machine over them); no tasks if fewer than two are shared.

    Points with a score and a speed on less than half of the tasks are left out, so that one of them does not leave none.
    Score and memory are plain means. The speed is the harmonic mean: records a second where each task has as many. A point
    that is not VALID on one of the tasks is not VALID. Intervals are those of a mean of independent numbers; a mean with a
    number without an interval has none.
    """
    cells: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["score"]["value"] is not None and row["speed_per_s"]["value"] is not None:
            cells.setdefault((row["model"], row["batch_size"], row.get("on")), {})[row["task"]] = row
    tasks = {task for found in cells.values() for task in found}
    cells = {key: found for key, found in cells.items() if 2 * len(found) >= len(tasks)}
    shared = sorted(set.intersection(*map(set, cells.values()))) if cells else []
    if len(shared) < 2:
        return [], []
    points = []
    for (model, batch_size, on), found in sorted(cells.items(), key=str):
        chosen = [found[task] for task in shared]
        worst = next((row["verdict"] for row in chosen if row["verdict"] != VALID), VALID)
        point = {name: _mean([row[name] for row in chosen]) for name in NUMBERS}
        slowness = _mean([_reciprocal(row.get("measured_speed", row["speed_per_s"])) for row in chosen])
        point |= {"task": "", "model": model, "batch_size": batch_size, "on": on, "verdict": worst}
        ratios = [row.get("ratio") for row in chosen]  # their error is the same for all tasks
        if ratios.count(ratios[0]) == len(ratios):
            points.append(machines.scaled({**point, "speed_per_s": _reciprocal(slowness)}, ratios[0]))
    return shared, points


def _mean(estimates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if any(e["value"] is None for e in estimates):
        return {"value": None}
    n = len(estimates)
    value = sum(e["value"] for e in estimates) / n
    if any(e.get("low") is None for e in estimates):
        return {"value": value, "low": None, "high": None}
    below, above = (hypot(*(abs(e[end] - e["value"]) for e in estimates)) / n for end in ("low", "high"))
    return {"value": value, "low": value - below, "high": value + above}


def _reciprocal(e: dict[str, Any]) -> dict[str, Any]:
    ends = (e.get("high"), e.get("low"))
    low, high = (1 / end if end and end > 0 else None for end in ends)
    known = None not in (low, high)
    return {"value": 1 / e["value"], "low": low if known else None, "high": high if known else None}
