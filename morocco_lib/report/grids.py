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

    def grid(name, cell, head=None):
        name = f"{name}: {'published, measured here' if published else 'measured here'}"
        lines = []
        for model in models:
            found = [cell(model, task) if (model, task) in cells else None for task in tasks]
            lines.append((model, [head(model), *found] if head else found))
        return Grid(f"{machine}: {name}" if machine else name, [*["mean of tasks"] * bool(head), *tasks], lines)

    def total(model):
        ours = next((value for (name, _), value in totals.items() if name == model), None)
        return _scores([published.get(model, {}).get("total", {}).get("leaderboard")], [ours])

    def published_of(model, task):
        return published.get(model, {}).get("tasks", {}).get(task, {})

    def score(model, task):
        found = cells[model, task]["score"].get("metrics", {})
        theirs = published_of(model, task).get("leaderboard") or [None]
        return _scores(theirs, [found.get(name) for name in get_task(task).metric_names])

    def speed(model, task):
        theirs = published_of(model, task).get("speed_per_s")
        return _number(cells[model, task], "speed_per_s", formatting.speed_text, theirs)

    def memory(model, task):
        if not gpu:
            return _number(cells[model, task], "ram_bytes", formatting.bytes_text, None)
        theirs = (published_of(model, task).get("gpu_ram_gib") or 0) * 2**30
        return _number(cells[model, task], "gpu_ram_bytes", formatting.bytes_text, theirs)

    gpu = any(row["gpu_ram_bytes"]["value"] for row in rows)
    totalled = totals or any(one.get("total") for one in published.values())
    return [
        grid("Scores", score, total if totalled else None),
        grid("GPU memory" if gpu else "Memory", memory),
        grid("Records a second", speed),
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
