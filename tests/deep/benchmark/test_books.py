"""Programs of known speed that work and print in ways that mislead: measured within 3 %, or INVALID where they cheat.

All ways as a table: python benchmarks/truth.py
"""

import pytest
from truth import pool

pytestmark = pytest.mark.timed


def test_an_honest_program_that_loads_when_it_is_fed_is_measured_right(tmp_path):
    result = pool.way("lazy", tmp_path / "way").result
    assert result["verdict"] == "VALID" and result["speed_per_s"]["value"] == pytest.approx(1000, rel=0.03), result


def test_a_program_that_lets_answers_go_later_does_not_look_faster_than_it_is(tmp_path):
    result = pool.way("dribble", tmp_path / "way").result
    assert result["verdict"] == "INVALID" or result["speed_per_s"]["value"] <= 1030, result
