"""Programs that keep answers, were given them, or know what is not scored: measured at their true speed, or INVALID."""

import pytest
from cheating import measured


@pytest.mark.parametrize("keep", ["text", "premise", "hypothesis"])
def test_a_cache_gains_nothing_within_a_run(tmp_path, keep):
    result = measured(tmp_path, keep, repeats=2, quick=True)
    assert result["speed_per_s"]["value"] == pytest.approx(500, rel=0.1)
    assert result["input"]["distinct"] == 60 and result["input"]["size"] == 120


@pytest.mark.parametrize(("keep", "reason"), [("known", "CACHED_ANSWERS"), ("skip", "WORK_SKIPPED")])
def test_a_program_that_knows_the_file_is_found(tmp_path, keep, reason):
    result = measured(tmp_path, keep)
    assert reason in result["reasons"] and result["verdict"] == "INVALID"
