"""Measured against known truth: programs that answer at the end and print no ready line, from pairs of short and long runs."""

import pytest
from truth import pool

SEED = 1
pytestmark = pytest.mark.timed


@pytest.mark.parametrize("name", pool.without_readiness(SEED))
def test_all_at_the_end_without_readiness_is_measured_from_pairs_of_runs(name, tmp_path):
    trial = pool.ours(pool.without_readiness(SEED)[name], tmp_path / "paired", repeats=5)
    assert trial.result["speed_per_s"]["method"] == "paired"
    assert trial.holds and trial.width <= 0.1, trial.result["speed_per_s"]
