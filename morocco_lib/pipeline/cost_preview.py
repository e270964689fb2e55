"""Cost preview of a plan: downloads, disk and time, as far as they are known before it runs."""

import shutil
import statistics
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from morocco_lib import formatting
from morocco_lib.artifacts import steps
from morocco_lib.config.model import TRANSFORMER, ModelParams
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.tasks import get_task
from morocco_lib.training.fit import local_source

WEIGHT_BYTES = 4  # of a parameter: weights are kept in fp32
CHECKPOINT_BYTES = 24  # of a parameter while it trains: two checkpoints, each with AdamW's two moments


def lines(
    models: dict[str, ModelParams], plan_dir: Path, listed: Iterable[Any], minutes: float, root: Path
) -> list[str]:
    """Return the cost preview as lines of text.

    Args:
        listed: The plan's steps as `PlanRun.preview` gives them.
        minutes: Limit of a bench step, None where the number of runs is fixed.
    Limits: sizes are of model configs that state `parameters`; times are those of finished steps of the same model.
    """
    listed = [this for this in listed if this.state != "kept"]
    fitted = {(this.model, get_task(this.task).trained_on): this for this in listed if KINDS[this.step].trains}
    listed = [this for this in listed if not KINDS[this.step].trains or this in fitted.values()]
    training = [models[this.model] for this in fitted.values() if models[this.model].kind == TRANSFORMER]
    found = []
    hub = {m.name: m for m in training if m.source and not local_source(m, root) and not in_cache(m)}
    if hub:
        size = formatting.bytes_text(sum((m.parameters or 0) * WEIGHT_BYTES for m in hub.values()))
        found.append(f"downloads: about {size} of weights for {', '.join(hub)}")
    if sizes := [m.parameters for m in training if m.parameters]:
        kept, peak = (formatting.bytes_text(n) for n in (sum(sizes) * WEIGHT_BYTES, max(sizes) * CHECKPOINT_BYTES))
        free, folder = _free_bytes(plan_dir)
        short = free < sum(sizes) * WEIGHT_BYTES + max(sizes) * CHECKPOINT_BYTES
        only = (
            f"; too much: {formatting.bytes_text(free)} are free in {folder}, give --out another disk" if short else ""
        )
        found.append(f"disk: about {kept} of weights, and {peak} more while one trains{only}")
    transformers = {name: model for name, model in models.items() if model.kind == TRANSFORMER}
    if unknown := sorted(name for name, m in transformers.items() if not m.parameters and not m.scratch):
        found.append(f"not counted, as their model configs state no `parameters`: {', '.join(unknown)}")
    known, parts = durations(plan_dir), []
    new = [this for this in listed if (this.step, this.model) not in known and this.model]
    benches = [this for this in new if KINDS[this.step].in_turn and minutes]
    if timed := [known[this.step, this.model] for this in listed if (this.step, this.model) in known]:
        parts.append(f"{formatting.counted(len(timed), 'step')} as before, {clock(sum(timed))}")
    if benches:
        longest = clock(60 * minutes * len(benches))
        parts.append(f"{formatting.counted(len(benches), 'bench step')} of at most {minutes:g} min, {longest}")
    if len(new) > len(benches):
        parts.append(f"{formatting.counted(len(new) - len(benches), 'step')} unknown until run once")
    if parts:
        found.append(f"time: {'; '.join(parts)}")
    return found


def _free_bytes(folder: Path) -> tuple[int, Path]:
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free, there


def durations(plan_dir: Path) -> dict[tuple[str, str], float]:
    """Return (step, model) -> median seconds of the finished steps in a plan's folder."""
    taken: dict[tuple[str, str], list[float]] = {}
    for _, status in steps.find_steps(plan_dir) if Path(plan_dir).is_dir() else ():
        if status["state"] == steps.DONE and status["model"]:
            began, ended = (datetime.fromisoformat(status[name]) for name in ("started", "ended"))
            taken.setdefault((status["step"], status["model"]), []).append((ended - began).total_seconds())
    return {key: statistics.median(values) for key, values in taken.items()}


def in_cache(model: ModelParams) -> bool:
    """Return whether a hub model is in this machine's cache."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError:
        return False
    return isinstance(try_to_load_from_cache(model.source, "config.json", revision=model.revision or None), str)


def clock(seconds: float) -> str:
    """Return seconds as minutes, or as hours and minutes."""
    minutes = max(round(seconds / 60), 1)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
