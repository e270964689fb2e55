"""results.tsv of a plan: a line for every seed of every model on every task, failed ones too."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from morocco_lib import fileio, foreign
from morocco_lib.analysis.intervals import expected_maximum
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.step_kind import SCORE, TRAINING, Kinds, shown_as
from morocco_lib.report.points import Found, read_result
from morocco_lib.report.tables import csv_text

RESULTS = "results.tsv"
KEPT = {"best": "best checkpoint", "last": "end of training"}
COLUMNS = (
    "task", "model", "seed", "kept", "val_score", "score", "updates", "wall_s", "cpu_s", "process_peak_bytes",
    "gpu_reserved_peak_bytes", "energy_j", "error", "train_step", "eval_step",
)  # fmt: skip


def rows(plan_dir: Path, kinds: Kinds) -> list[dict[str, Any]]:
    """Return the lines, sorted by task, model and seed; None is what is not known.

    `val_score` is of the evaluations in training, `score` of the split that an eval step fed to the kept seed. Where its task
    is not the training task (LiDiRus), it has a line of its own.
    """
    found = []
    for fitted, result, evals in _fitted(plan_dir, kinds):
        by_task = {score["task"]: (place, score) for place, score in evals}
        for task in dict.fromkeys([result["task"], *by_task]):
            for one in _seeds(result):
                if one["seed"] == result["seed"]:
                    found.append(_line(plan_dir, task, fitted, result, one, *by_task.get(task, (None, None))))
                elif task == result["task"]:
                    found.append(_line(plan_dir, task, fitted, result, one))
    return sorted(found, key=lambda line: (line["task"], line["model"], line["train_step"], line["seed"]))


def trainings(plan_dir: Path, kinds: Kinds, points: list[dict[str, Any]], found: Found) -> list[dict[str, Any]]:
    """Return a line for each training: how far its seeds differ, what it cost, and the memory of its weights in use.

    Each: task, model, seeds (how many have a score), mean, sd, low, high (of val scores; null without), gain (how much of the
    highest is expected by chance alone), kept (which evaluation of a run), metrics (name -> mean, sd, and that of the run that
    was kept), wall_s, cpu_s, energy_j, weights_bytes, ram_bytes (the largest peak measured of these weights, or null), folder.

    Args:
        points: The rows of the report.
    """
    lines, held = [], defaultdict(int)  # digest of weights -> the largest peak
    for row in points:
        digest = row["measured"].get("weights_sha256")
        held[digest] = max(held[digest], row["ram_bytes"]["value"] or 0)
    for folder, status in found:
        if status["state"] != steps.DONE or shown_as(status, kinds) != TRAINING:
            continue
        result = read_result(folder, status, kinds)
        runs = [one for one in _seeds(result) if one["score"] is not None]
        scores, sd = [one["score"] for one in runs], _sd([one["score"] for one in runs])
        whole = result.get("cost", result)
        ram_bytes = max((held.get(digest, 0) for digest in status["outputs"].values()), default=0) or None
        lines.append({
            "task": status["task"], "model": status["model"], "seeds": len(scores),
            "mean": fmean(scores) if scores else None, "sd": sd, "low": min(scores, default=None), "high": max(scores, default=None),
            "gain": None if sd is None else expected_maximum(len(scores)) * sd,
            "kept": KEPT.get(result.get("recipe", {}).get("select", "best")) if scores else None, "metrics": _metrics(runs, result["seed"]),
            "wall_s": whole.get("wall_s"), "cpu_s": whole.get("cpu_s"), "energy_j": (whole.get("energy_j") or {}).get("value"),
            "weights_bytes": result.get("weights_bytes"), "ram_bytes": ram_bytes,
            "folder": folder.relative_to(plan_dir).as_posix(),
        })  # fmt: skip
    return sorted(lines, key=lambda line: (line["task"], line["model"], line["folder"]))


def _sd(values: list[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _metrics(runs: list[dict[str, Any]], seed: int) -> dict[str, dict[str, float | None]]:
    """Return the mean and spread of each metric over runs, and that of the one run that was kept."""
    kept = next((one["metrics"] for one in runs if one["seed"] == seed and "metrics" in one), {})
    each = {name: [one["metrics"][name] for one in runs if name in one.get("metrics", {})] for name in kept}
    return {name: {"mean": fmean(values), "sd": _sd(values), "kept": kept[name]} for name, values in each.items()}


def _fitted(plan_dir: Path, kinds: Kinds) -> list[tuple[Path, dict[str, Any], list[tuple[Path, dict[str, Any]]]]]:
    """Return (folder, train.json, [(folder, score.json) of the eval steps that read its weights]) of train steps."""
    fitted, evals = [], defaultdict(list)
    for folder, status in steps.find_steps(plan_dir):
        if status["state"] != steps.DONE or steps.is_retired(status):
            continue
        if shown_as(status, kinds) == TRAINING:
            fitted.append((folder, read_result(folder, status, kinds)))
        elif shown_as(status, kinds) == SCORE:
            for place in {(folder / name).resolve().parent.parent for name in status["inputs"]}:
                evals[place].append((folder, {**read_result(folder, status, kinds), "task": status["task"]}))
    return [(folder, result, evals[folder.resolve()]) for folder, result in fitted]


def _seeds(result: dict[str, Any]) -> list[dict[str, Any]]:
    return result.get("seeds", [{**result, "score": None}])


def _line(plan_dir: Path, task: str, fitted: Path, result: dict, one: dict, place=None, score=None) -> dict[str, Any]:
    line = {name: one.get(name) for name in COLUMNS}
    return line | {
        "task": task,
        "model": result["model"],
        "kept": one["seed"] == result["seed"],
        "val_score": one["score"],
        "score": score["score"]["value"] if score else None,
        "energy_j": (one.get("energy_j") or {}).get("value"),
        "train_step": fitted.relative_to(plan_dir).as_posix(),
        "eval_step": place.relative_to(plan_dir).as_posix() if place else None,
    }


def _text(lines: list[dict[str, Any]]) -> str:
    return csv_text([COLUMNS, *(line.values() for line in lines)], "\t")


def write(plan_dir: Path, kinds: Kinds) -> Path:
    """Write results.tsv into a plan's folder and return it."""
    path = Path(plan_dir) / RESULTS
    fileio.write_text(path, _text(rows(path.parent, kinds)))
    return path


def wrong_lines(path: Path, kinds: Kinds) -> Iterator[int]:
    """Yield the numbers of the lines in a results.tsv that do not follow from the steps beside it.

    A file may be older than the newest step, if a run was killed in between: it is incomplete then, but not wrong.
    """
    plan_dir = path.parent
    every = rows(plan_dir, kinds)
    for fitted, result, evals in _fitted(plan_dir, kinds):
        kept = next(one for one in _seeds(result) if one["seed"] == result["seed"])
        every.append(_line(plan_dir, result["task"], fitted, result, kept))
        every += [_line(plan_dir, s["task"], fitted, result, kept, place, s) for place, s in evals]
    known = set(_text(every).splitlines())
    lines = foreign.read_bytes(path).decode(errors="replace").split("\n")
    head, ended = "\t".join(COLUMNS), lines.pop() == ""
    for number, line in enumerate(lines, 1):
        if line not in known or (line == head) != (number == 1) or (number == len(lines) and not ended):
            yield number
    if not lines:
        yield 1
