"""Programs that know what they are fed, and honest ones, in the ways that they print their answers."""

import pytest
from cheating import measured

pytestmark = pytest.mark.timed
BATCHES, HELD_BACK = (), ("--held-back",)


@pytest.mark.parametrize(
    ("keep", "options"),
    [(None, BATCHES), (None, HELD_BACK), ("text", HELD_BACK), ("hypothesis", BATCHES)],
)
def test_who_knows_nothing_of_other_runs_is_measured_at_its_true_speed(tmp_path, keep, options):
    result = measured(tmp_path, keep, *options, input_size=600)
    assert result["verdict"] == "VALID" and result["speed_per_s"]["value"] == pytest.approx(500, rel=0.03)
    assert result["kept_answers"]["value"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("size", "options"), [(60, BATCHES), (300, HELD_BACK)])
@pytest.mark.parametrize(
    ("keep", "reason"), [("file", "CACHED_ANSWERS"), ("known", "CACHED_ANSWERS"), ("skip", "WORK_SKIPPED")]
)
def test_who_knows_records_of_the_file_is_invalid(tmp_path, keep, reason, size, options):
    result = measured(tmp_path, keep, *options, input_size=size, ms=4.0)
    assert reason in result["reasons"] and result["verdict"] == "INVALID"
