"""What a plan will take before it is run: downloads, disk, time, as far as that can be known without doing anything."""

import statistics
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from morocco_lib import formatting
from morocco_lib.artifacts import steps
from morocco_lib.config.model import TRANSFORMER, ModelParams
from morocco_lib.tasks import get_task

WEIGHT_BYTES = 4  # of a parameter: weights are kept in fp32
CHECKPOINT_BYTES = 2 * 12  # of a parameter while it trains: the best and the last look, each with AdamW's two moments


def lines(
    models: dict[str, ModelParams], plan_dir: Path, listed: Iterable[Any], minutes: float, root: Path
) -> list[str]:
    """Return the forecast as lines of text.

    Args:
        listed: The plan's steps as `PlanRun.preview` gives them.
        minutes: What a bench step may take at most, None where a count of runs is asked.
    Limits: sizes are of models that say how many parameters they have; time is that of finished steps of the same model.
    """
    listed = [this for this in listed if this.state != "kept"]
    fitted = {(this.model, get_task(this.task).weights_of): this for this in listed if this.step == "train"}
    listed = [this for this in listed if this.step != "train" or this in fitted.values()]
    training = [this for this in fitted.values() if models[this.model].kind == TRANSFORMER]
    sizes = {name: model.parameters for name, model in models.items() if model.kind == TRANSFORMER}
    unknown = sorted(name for name, size in sizes.items() if not size and not models[name].scratch)
    found = []
    hub = {models[this.model].name: models[this.model] for this in training if models[this.model].source}
    wanted = {n: m for n, m in hub.items() if not (root / m.source).is_dir() and not in_cache(m)}
    if wanted:
        size = formatting.bytes_text(sum((m.parameters or 0) * WEIGHT_BYTES for m in wanted.values()))
        found.append(f"downloads: about {size} of weights for {', '.join(wanted)}")
    if any(sizes[this.model] for this in training):
        kept = sum((sizes[this.model] or 0) * WEIGHT_BYTES for this in training)
        peak = max((sizes[this.model] or 0) * CHECKPOINT_BYTES for this in training)
        found.append(
            f"disk: about {formatting.bytes_text(kept)} of weights, and {formatting.bytes_text(peak)} more while one trains"
        )
    if unknown:
        found.append(f"not counted, as their files name no `parameters`: {', '.join(unknown)}")
    known = durations(plan_dir)
    timed = [known[this.step, this.model] for this in listed if (this.step, this.model) in known]
    new = [this for this in listed if (this.step, this.model) not in known and this.model]
    benches = [this for this in new if this.step == "bench" and minutes]
    rest = [this for this in new if this not in benches]
    parts = []
    if timed:
        parts.append(f"{formatting.counted(len(timed), 'step')} as before, {clock(sum(timed))}")
    if benches:
        parts.append(
            f"{formatting.counted(len(benches), 'bench step')} of {minutes:g} min at most, {clock(60 * minutes * len(benches))}"
        )
    if rest:
        parts.append(f"{formatting.counted(len(rest), 'step')} not known before they ran once")
    if parts:
        found.append(f"time: {'; '.join(parts)}")
    return found


def durations(plan_dir: Path) -> dict[tuple[str, str], float]:
    """Return (step, model) -> median seconds of the finished steps in a plan's folder."""
    taken: dict[tuple[str, str], list[float]] = {}
    for _, status in steps.find_steps(plan_dir) if Path(plan_dir).is_dir() else ():
        if status["state"] == steps.DONE and status["model"]:
            began, ended = (datetime.fromisoformat(status[name]) for name in ("started", "ended"))
            taken.setdefault((status["step"], status["model"]), []).append((ended - began).total_seconds())
    return {key: statistics.median(values) for key, values in taken.items()}


def in_cache(model: ModelParams) -> bool:
    """Tell whether a hub model lies on this machine already."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError:
        return False
    return isinstance(try_to_load_from_cache(model.source, "config.json", revision=model.revision or None), str)


def clock(seconds: float) -> str:
    """Return seconds as minutes, or as hours and minutes."""
    minutes = max(round(seconds / 60), 1)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
