"""Training results as tables for a notebook."""

from typing import Any

import pandas as pd

from morocco_lib import formatting


def seeds_table(result: dict[str, Any]) -> pd.DataFrame:
    """Return a row a seed, or a row a fit of a grid: val's score, updates, cost, error; empty for a model that is fitted at once.

    Args:
        result: What `train.json` holds.
    """
    if "grid" in result:
        return pd.DataFrame(result["grid"]).set_index(["c", "seed"]).rename(columns={"score": "val"})
    rows = [
        {
            "seed": f"{one['seed']}{' (kept)' if one['seed'] == result['chosen_seed'] else ''}",
            "val": formatting.score_text(one["score"]) if one["score"] is not None else "—",
            "updates": one.get("updates", "—"),
            "wall time": formatting.seconds_text(one["wall_s"]),
            "peak memory": formatting.bytes_text(one["process_peak_bytes"]),
            "energy": _energy(one),
            "error": one.get("error", ""),
        }
        for one in result.get("seeds", [])
    ]
    return pd.DataFrame(rows).set_index("seed") if rows else pd.DataFrame()


def evaluations(result: dict[str, Any]) -> pd.DataFrame:
    """Return val's score at every evaluation, a column a seed; empty for a model that is fitted at once."""
    columns = {f"seed {one['seed']}": dict(one["looks"]) for one in result.get("seeds", []) if one.get("looks")}
    return pd.DataFrame(columns).rename_axis("update").sort_index()


def cost(result: dict[str, Any]) -> pd.DataFrame:
    """Return what training cost in all, failed seeds included."""
    whole = result.get("cost", result)
    rows = {
        "wall time": formatting.seconds_text(whole["wall_s"]),
        "CPU time": formatting.seconds_text(whole["cpu_s"]),
        "peak memory of this kernel": formatting.bytes_text(whole["process_peak_bytes"]),
        "weights on disk": formatting.bytes_text(result["weights_bytes"]),
    }
    if "energy_j" in whole:
        rows["energy of the GPUs"] = _energy(whole)
    if "recipe" in result:
        rows["truncated sequences"] = f"{result['truncated']} of {result['sequences']}"
    return pd.Series(rows, name="cost").to_frame()


def _energy(costs: dict[str, Any]) -> str:
    return formatting.with_interval(costs["energy_j"], lambda joules: f"{formatting.sized(joules)} J")
