"""Models and tasks as the original's tables show them: scores beside published ones, GPU memory, speed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from morocco_lib import formatting
from morocco_lib.report import tables
from morocco_lib.report.machines import is_scaled
from morocco_lib.tasks import get_task

_NUMBER = (float, None)
PUBLISHED = {
    "source": str,
    "models": {
        str: {
            "total?": {"leaderboard?": _NUMBER, "container?": _NUMBER},
            "tasks": {
                str: {"leaderboard?": [float], "container?": [float], "gpu_ram_gib?": _NUMBER, "speed_per_s?": _NUMBER}
            },
        }
    },
}
REACHED, MISSED = "✓", "✗"


class Grid(NamedTuple):
    """A table of models and tasks.

    Args:
        name: What its numbers are.
        tasks: Heads of the columns.
        lines: (model, a cell for each task: {"text", "title"} or None).
    """

    name: str
    tasks: list[str]
    lines: list[tuple[str, list[dict[str, str] | None]]]


def grids(rows: Sequence[dict[str, Any]], published: Mapping[str, Any] | None = None, machine: str = "") -> list[Grid]:
    """Return the tables of scores, memory and speed; none for a single task and nothing published.

    Of several operating points of a model on a task the one with the most records a second is shown, VALID ones first.

    Args:
        published: `models` of a file of published numbers; see `legacy.published`.
        machine: Name of the group of rows, where there are several.
    """
    published = published or {}
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    if len(tasks) < 2 and not published.keys() & {row["model"] for row in rows}:
        return []
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: (r["verdict"] == "VALID", r["speed_per_s"]["value"] or 0)):
        cells[row["model"], row["task"]] = row
    models = sorted({row["model"] for row in rows})
    totals = {(t["model"], t["benchmark"]): t["value"] for t in tables.totals(list(rows)) if t["value"] is not None}

    def grid(name, cell, head=()):
        lines = [(m, [*head_cells(m, head), *(cell(m, t) if (m, t) in cells else None for t in tasks)]) for m in models]
        return Grid(f"{machine}: {name}" if machine else name, [*head, *tasks], lines)

    known = {task: get_task(task) for task in tasks}
    benchmarks = sorted({task.benchmark for task in known.values()})

    def head_cells(model, head):
        ours = next((totals[model, b] for b in benchmarks if (model, b) in totals), None)
        theirs = published.get(model, {}).get("total", {}).get("leaderboard")
        return [_scores([theirs], [ours])] if head else []

    def score(model, task):
        row, theirs = cells[model, task], published.get(model, {}).get("tasks", {}).get(task, {}).get("leaderboard")
        names, found = known[task].metric_names, row["score"].get("metrics", {})
        return _scores(theirs or [None], [found.get(name) for name in names])

    def number(name, text, theirs_of):
        def cell(model, task):
            theirs = theirs_of(published.get(model, {}).get("tasks", {}).get(task, {}))
            return _number(cells[model, task], name, text, theirs)

        return cell

    def speed_of(one):
        return one.get("speed_per_s")

    def memory_of(one):
        return one["gpu_ram_gib"] * 2**30 if one.get("gpu_ram_gib") else None

    gpu = any(row["gpu_ram_bytes"]["value"] for row in rows)
    memory = "gpu_ram_bytes" if gpu else "ram_bytes"
    totalled = ["mean of tasks"] if totals or any(one.get("total") for one in published.values()) else []
    beside = "published, measured here" if published else "measured here"
    return [
        grid(f"Scores: {beside}", score, totalled),
        grid(
            f"{'GPU memory' if gpu else 'Memory'}: {beside}",
            number(memory, formatting.bytes_text, memory_of if gpu else lambda one: None),
        ),
        grid(f"Records a second: {beside}", number("speed_per_s", formatting.speed_text, speed_of)),
    ]


def _scores(theirs: Sequence[float | None], ours: Sequence[float | None]) -> dict[str, str] | None:
    shown = [
        "/".join(formatting.score_text(v) for v in values) for values in (theirs, ours) if None not in values and values
    ]
    if not shown:
        return None
    if None in ours or None in theirs or len(theirs) != len(ours):
        return {"text": shown[-1] if None not in ours else f"{shown[0]} —", "title": ""}
    reached = sum(ours) / len(ours) >= sum(theirs) / len(theirs)
    title = "as good as published, or better" if reached else "below what is published"
    return {"text": f"{REACHED if reached else MISSED} {' '.join(shown)}", "title": title}


def _number(row: dict[str, Any], name: str, text, theirs: float | None) -> dict[str, str] | None:
    e = row[name]
    scaled = name == "speed_per_s" and is_scaled(row)
    ours = None if e["value"] is None else "≈" * scaled + ("" if row["verdict"] == "VALID" else "~") + text(e["value"])
    shown = [part for part in (text(theirs) if theirs else None, ours) if part]
    title = formatting.with_interval(row["measured_speed"] if scaled else e, text)
    title += f" measured on {row['on']}" if scaled else ""
    return {"text": " ".join(shown), "title": title} if shown else None
