"""results.tsv of a plan: a line for every seed of every model on every task, failed ones too."""

import csv
import io
from pathlib import Path
from typing import Any

from morocco_lib import steps

RESULTS = "results.tsv"
COLUMNS = (
    "task", "model", "seed", "kept", "val_score", "score", "updates", "wall_s", "cpu_s", "process_peak_bytes",
    "gpu_reserved_peak_bytes", "energy_j", "error",
)  # fmt: skip


def rows(plan_dir: Path) -> list[dict[str, Any]]:
    """Return the lines, sorted by task, model and seed; None is what is not known.

    `val_score` is of the looks in training, `score` of the split that the plan's eval step fed, by the kept seed.
    """
    fitted, scores = [], {}
    for folder, status in steps.find_steps(plan_dir):
        if status["state"] != steps.DONE or steps.is_retired(folder):
            continue
        if status["step"] == "train":
            fitted.append((status["task"], steps.read_json(folder / "train.json")))
        elif status["step"] == "eval":
            scores[status["task"], status["model"]] = steps.read_json(folder / "score.json")["score"]["value"]
    found = []
    for task, result in fitted:
        for one in result.get("seeds", [{**result, "score": None, "state": "done"}]):
            kept = one["seed"] == result["seed"]
            line = {name: one.get(name) for name in COLUMNS}
            line |= {"task": task, "model": result["model"], "kept": kept, "val_score": one["score"]}
            line |= {"score": scores.get((task, result["model"])) if kept else None}
            line |= {"energy_j": (one.get("energy_j") or {}).get("value")}
            found.append(line)
    return sorted(found, key=lambda line: (line["task"], line["model"], line["seed"]))


def write(plan_dir: Path) -> Path:
    """Write results.tsv into a plan's folder and return it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows({n: "" if v is None else v for n, v in line.items()} for line in rows(plan_dir))
    path = Path(plan_dir) / RESULTS
    steps.write_text(path, text.getvalue())
    return path
