"""Programs that know what they are fed, and honest ones, in the ways that they print their answers."""

import pytest
from cheating import measured

pytestmark = pytest.mark.timed
PRINTS = {"batches": [], "held-back": ["--held-back"]}


@pytest.mark.parametrize("options", PRINTS.values(), ids=PRINTS)
@pytest.mark.parametrize("keep", [None, "text", "premise", "hypothesis"])
def test_who_knows_nothing_of_other_runs_is_measured_at_its_true_speed(tmp_path, keep, options):
    result = measured(tmp_path, keep, *options, input_size=600)
    assert result["verdict"] == "VALID" and result["speed_per_s"]["value"] == pytest.approx(500, rel=0.03)
    assert result["kept_answers"]["value"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("options", PRINTS.values(), ids=PRINTS)
@pytest.mark.parametrize(
    ("keep", "reason"), [("file", "CACHED_ANSWERS"), ("known", "CACHED_ANSWERS"), ("skip", "WORK_SKIPPED")]
)
@pytest.mark.parametrize("size", [60, 300])
def test_who_knows_records_of_the_file_is_invalid(tmp_path, keep, reason, options, size):
    result = measured(tmp_path, keep, *options, input_size=size, ms=4.0)
    assert reason in result["reasons"] and result["verdict"] == "INVALID"
