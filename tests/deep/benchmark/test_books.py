"""Programs of known speed that work and print in ways that mislead: measured within 3 %, or INVALID where they cheat.

All ways as a table: python benchmarks/truth.py
"""

import pytest
from truth import pool

pytestmark = pytest.mark.timed


@pytest.mark.parametrize("way", ["lazy", "warm-up"])
def test_an_honest_program_is_measured_right(way, tmp_path):
    trial = pool.way(way, tmp_path / "way")
    speed = trial.result["speed_per_s"]
    assert trial.result["verdict"] == "VALID" and speed["value"] == pytest.approx(1000, rel=0.03), trial.result


@pytest.mark.parametrize("way", ["dribble", "slow-when-fewer"])
def test_a_program_does_not_look_faster_than_it_is(way, tmp_path):
    result = pool.way(way, tmp_path / "way").result
    assert result["verdict"] == "INVALID" or result["speed_per_s"]["value"] <= 1030, result
