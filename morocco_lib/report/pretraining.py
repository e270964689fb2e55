"""What pre-training made: the perplexity of each model with its spread, how much of it is off, and what it took."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from morocco_lib.artifacts import steps
from morocco_lib.artifacts.step_kind import PRETRAINING, Kinds, shown_as
from morocco_lib.report.points import Found, read_result


def pretrainings(plan_dir: Path, kinds: Kinds, found: Found) -> list[dict[str, Any]]:
    """Return a line for each model that was pre-trained in a plan, with one seed or several.

    Each: model, seeds, mean, sd, low, high (of the perplexities), perplexity and loss of the one that was gone on from (the
    first), weights, sparsity (of the backbone), updates, tokens_per_s (mean), wall_s (of all seeds together), folder.
    """
    done = [(f, s) for f, s in found if s["state"] == steps.DONE]
    started = {s["parameters"]["model"].get("source", "") for _, s in done if s["task"] and "model" in s["parameters"]}
    runs: dict[str, list[tuple[bool, int, Path, dict[str, Any]]]] = {}
    for folder, status in done:
        if shown_as(status, kinds) == PRETRAINING:
            result = read_result(folder, status, kinds)
            first = any(f"/{folder.name}/" in source for source in started)
            runs.setdefault(status["model"], []).append((not first, result["seed"], folder, result))
    lines = []
    for model, of_model in sorted(runs.items()):
        of_model.sort(key=lambda run: run[:2])
        results, (_, _, folder, first) = [run[3] for run in of_model], of_model[0]
        values = [one["perplexity"] for one in results]
        lines.append({
            "model": model, "seeds": len(values), "mean": fmean(values), "sd": stdev(values) if len(values) > 1 else None,
            "low": min(values), "high": max(values), "perplexity": first["perplexity"], "loss": first["loss"],
            "weights": first["weights"]["backbone"], "sparsity": first["weights"]["sparsity"], "updates": first["updates"],
            "tokens_per_s": fmean(one["tokens_per_s"] for one in results), "wall_s": sum(one["wall_s"] for one in results),
            "folder": folder.relative_to(plan_dir).as_posix(),
        })  # fmt: skip
    return lines
