"""Factors of the learning rate by update, and Adam's first beta; what a range test of learning rates says."""

from collections.abc import Sequence
from statistics import median
from typing import Any

ONE_CYCLE = "one_cycle"
DIVERGED = 2.0  # a range test ends where the loss is so many times its lowest
SMOOTHED = 5  # evaluations that a median is taken of
DIVIDE, FINAL_DIVIDE = 25.0, 1e4  # of one cycle: what it begins and ends below its peak (Smith & Topin, 2019)
BETA_HIGH, BETA_LOW = 0.95, 0.85


def linear(step: int, steps: int, warmup: int, idle: int = 0, floor: float = 0.0) -> float:
    """Return the factor of a linear warm-up, after some idle updates, and a linear decay to a floor."""
    if step < warmup:
        return max(0, step - idle) / max(1, warmup - idle)
    return max(floor, (steps - step) / max(1, steps - warmup))


def one_cycle(step: int, steps: int, rise: float) -> float:
    """Return the factor of one cycle with straight lines: up in a share `rise` of all updates, then down to nearly 0."""
    top = rise * steps - 1
    first, last = 1 / DIVIDE, 1 / (DIVIDE * FINAL_DIVIDE)
    if step <= top:
        return first + (1 - first) * step / max(top, 1)
    return 1 + (last - 1) * min(1.0, (step - top) / max(steps - 1 - top, 1))


def one_cycle_beta(step: int, steps: int, rise: float) -> float:
    """Return Adam's first beta, lowest where the learning rate is highest."""
    top = rise * steps - 1
    up = step / max(top, 1) if step <= top else 1 - min(1.0, (step - top) / max(steps - 1 - top, 1))
    return BETA_HIGH + (BETA_LOW - BETA_HIGH) * up


def range_test(step: int, steps: int, lowest: float) -> float:
    """Return the factor of a range test: from `lowest` to 1, by the same ratio each update."""
    return lowest ** (1 - step / max(steps - 1, 1))


def has_diverged(evaluations: Sequence[dict[str, Any]]) -> bool:
    """Tell whether a range test need not go on."""
    return evaluations[-1]["loss"] > DIVERGED * min(one["loss"] for one in evaluations)


def suggest(evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a range test says: the rate where the loss of held-back sequences turns up, and half of it as a maximum.

    The loss is smoothed by a running median. Source: Smith, 2017 (cyclical learning rates); half, because a loss that turns up
    within some updates of a rate that only passes by is late. Both are None, with a `reason`, where it does not turn.

    Args:
        evaluations: Each with `learning_rate` and `loss`, in the order of the updates.
    """
    half = SMOOTHED // 2
    losses = [one["loss"] for one in evaluations]
    smooth = [median(losses[max(0, k - half) : k + half + 1]) for k in range(len(losses))]
    lowest = min(range(len(smooth)), key=smooth.__getitem__)
    if lowest >= len(smooth) - half:
        return {
            "turns_up_at": None,
            "suggested": None,
            "reason": "the loss still falls at the highest rate: raise learning_rate",
        }
    rate = evaluations[lowest]["learning_rate"]
    return {"turns_up_at": rate, "suggested": rate / 2}
