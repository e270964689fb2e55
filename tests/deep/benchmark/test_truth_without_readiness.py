"""Measured against known truth: programs that answer at the end and print no ready line are fed when their start-up is over."""

import pytest
from truth import pool

SEED = 1
pytestmark = pytest.mark.timed


@pytest.mark.parametrize("name", pool.without_readiness(SEED))
def test_all_at_the_end_without_readiness_is_measured_from_when_it_was_fed(name, tmp_path):
    trial = pool.ours(pool.without_readiness(SEED)[name], tmp_path / "fed", repeats=3)
    speed, of_pairs = trial.result["speed_per_s"], trial.result["paired_per_s"]
    # Of pairs alone where the machine delayed runs; an interval that it widened holds the truth.
    assert speed["method"] in ("ready", "paired") and (trial.holds or abs(trial.error) <= 0.01), speed
    assert trial.width <= 0.1 and of_pairs["value"] == pytest.approx(trial.per_s, rel=0.05), (speed, of_pairs)
