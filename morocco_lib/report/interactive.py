"""The chart and the scripts of a report page: everything in the page itself, and nothing else allowed to run."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from morocco_lib import formatting
from morocco_lib.analysis import pareto
from morocco_lib.reasons import VALID
from morocco_lib.report import averages, figures, machines

LARGEST, SMALLEST = 44, 6  # diameters of discs, pixels


def scripts() -> list[str]:
    """Return the scripts of a page, in their order: the charting library, and our own."""
    library = Path(find_spec("bokeh").origin).parent / "server/static/js"  # importing it would read settings of its own
    names = ("bokeh.min.js", "bokeh-api.min.js")
    own = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    return [(library / name).read_text(encoding="utf-8") for name in names] + [own]


def policy(texts: Sequence[str]) -> str:
    """Return the content security policy under which these scripts run and no others, and no request leaves."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def views(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the chart can show: the points averaged over tasks, then those of each task; of each group of machines.

    Each: name, majority (score of the most frequent answer, or None), points. A point: speed, score and their intervals,
    diameter of its disc (its area is the memory), colour, texts, `front` (None | share of draws on the Pareto front),
    `row`, its place in `rows`, and `on`, where its speed is scaled, the machine of it.
    """
    colours, found = figures.colour_of(list(rows)), []
    for machine, here in machines.groups(rows):
        shared, mean = averages.averaged(here)
        chosen = [(f"mean of {', '.join(shared)}", mean)] if shared else []
        chosen += [(task, [r for r in here if r["task"] == task]) for task in sorted({r["task"] for r in here})]
        memory = "gpu_ram_bytes" if any(row["gpu_ram_bytes"]["value"] for row in here) else "ram_bytes"
        found += [_view(f"{machine}: {name}" if machine else name, some, colours, memory) for name, some in chosen]
    return [view for view in found if view["points"]]


def _view(name: str, rows: Sequence[dict[str, Any]], colours: dict[str, str], memory: str) -> dict[str, Any]:
    shown = [r for r in rows if r["score"]["value"] is not None and r["speed_per_s"]["value"]]
    largest = max((row[memory]["value"] or 0 for row in shown), default=0)
    compared = [row for row in shown if row["verdict"] == VALID and row[memory]["value"] is not None]
    fronts = pareto.front([(row["score"], row["speed_per_s"], _less(row[memory])) for row in compared])
    on = {id(row): share for row, (best, share) in zip(compared, fronts, strict=True) if best}
    points = []
    for row in shown:
        size = (row[memory]["value"] or 0) / largest if largest else 0
        points.append({
            "row": row.get("row"), "model": row["model"], "batch": row["batch_size"], "verdict": row["verdict"],
            "colour": colours[row["model"]], "front": on.get(id(row)),
            "speed": _ends(row["speed_per_s"]), "score": _ends(row["score"]), "size": round(max(SMALLEST, LARGEST * size**0.5), 1),
            "texts": {
                "score": formatting.with_interval(row["score"], formatting.score_text),
                "records/s": machines.scaled_text(row) or formatting.with_interval(row["speed_per_s"], formatting.speed_text),
                "peak GPU memory" if memory == "gpu_ram_bytes" else "peak memory":
                    formatting.with_interval(row[memory], formatting.bytes_text),
            },
            **({"on": row["on"]} if machines.is_scaled(row) else {}),
        })  # fmt: skip
    bars = {row["score"]["majority"]["value"] for row in rows if row["task"] and "majority" in row["score"]}
    return {"name": name, "majority": bars.pop() if len(bars) == 1 else None, "points": points}


def _less(e: dict[str, Any]) -> dict[str, Any]:
    low, high = e.get("low"), e.get("high")
    return {"value": -e["value"], "low": None if high is None else -high, "high": None if low is None else -low}


def _ends(e: dict[str, Any]) -> list[float]:
    ends = (e["value"] if e.get(end) is None else e[end] for end in ("value", "low", "high"))
    return [float(f"{end:.6g}") for end in ends]


def json_text(value: Any) -> str:
    """Return JSON that can stand in a script element, whatever texts it holds."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")
