"""Factors of the learning rate by update, and Adam's first beta."""

LINEAR, ONE_CYCLE = "linear", "one_cycle"
DIVIDE, FINAL_DIVIDE = 25.0, 1e4  # of one cycle: what it begins and ends below its peak (Smith & Topin, 2019)
BETA_HIGH, BETA_LOW = 0.95, 0.85


def linear(step: int, steps: int, warmup: int) -> float:
    """Return the factor of a linear warm-up and a linear decay to 0."""
    if step < warmup:
        return step / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))


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
