"""Real programs that cache, or do not, in all the ways that they print their answers."""

from functools import partial

import pytest
from cache_probe_runs import probe

from morocco_lib.analysis import caching
from morocco_lib.reasons import Reason

pytestmark = pytest.mark.timed


@pytest.fixture
def probed(tmp_path, monkeypatch):
    """Run a program on three pairs of 400 records; returns the folders of its runs on unique and on repeated texts."""
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))  # where the program keeps its cache
    return partial(probe, tmp_path, size=400)


PRINTS = {
    "plain": [],
    "ready": ["--ready"],
    "one-by-one": ["--one-by-one"],
    "unflushed": ["--unflushed"],
    "held-back": ["--held-back"],
    "held-back-ready": ["--held-back", "--ready"],
    "late-ready": ["--late-ready"],
}
KEEPS = {
    "own-work": ["--keep", "text", "--own-rounds", 200],
    "text": ["--keep", "text"],
    "premise": ["--keep", "premise"],
    "batch": ["--keep", "batch"],
    "file": ["--keep", "file"],
}
LONG = ("--rounds", 40)  # what is saved must be worth 50 ms a run on a fast machine too


@pytest.mark.parametrize("options", PRINTS.values(), ids=PRINTS)
def test_an_honest_program_is_not_accused_however_it_prints(probed, options):
    assert caching.judge(*probed(*options))["fires"] is False


@pytest.mark.parametrize("options", PRINTS.values(), ids=PRINTS)
def test_a_program_that_caches_is_found_however_it_prints(probed, options):
    result = caching.judge(*probed(*LONG, "--keep", "text", *options))
    assert result["fires"] is True and result["value"] > 1.5


@pytest.mark.parametrize("options", KEEPS.values(), ids=KEEPS)
def test_a_program_is_found_whatever_it_keeps(probed, options):
    result = caching.judge(*probed(*LONG, *options))
    assert result["fires"] is True and result["value"] > 1.5


def test_a_cache_for_later_runs_is_found_when_repeated_texts_were_fed_before(probed):
    assert caching.judge(*probed(*LONG, "--keep", "later", pilot=True))["fires"] is True


@pytest.mark.real_load
def test_runs_of_few_records_accuse_nobody(probed):
    result = caching.judge(*probed("--keep", "text", "--ready", size=24))  # delays are as long as their work
    assert not result["fires"] and result.get("reason") in (Reason.NO_STREAM, Reason.BUSY_MACHINE, None)
