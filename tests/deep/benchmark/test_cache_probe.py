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


HONEST = {
    "plain": ([], "stream"),
    "ready": (["--ready"], "stream"),
    "one-by-one": (["--one-by-one"], "stream"),
    "unflushed": (["--unflushed"], "total"),
    "unflushed-ready": (["--unflushed", "--ready"], "ready"),
    "held-back": (["--held-back"], "total"),
    "held-back-ready": (["--held-back", "--ready"], "ready"),
}
CACHING = {
    "own-work": (["--keep", "text", "--own-rounds", 200], "stream"),
    "ready": (["--keep", "text", "--ready"], None),
    "premise": (["--keep", "premise"], "stream"),
    "batch": (["--keep", "batch"], "stream"),
    "file": (["--keep", "file"], "stream"),
    "unflushed": (["--keep", "text", "--unflushed"], "total"),
    "held-back": (["--keep", "text", "--held-back"], "total"),
    "held-back-ready": (["--keep", "text", "--held-back", "--ready"], "ready"),
}
LONG = ("--rounds", 40)  # what is saved must be worth 50 ms a run on a fast machine too


@pytest.mark.parametrize(("options", "method"), HONEST.values(), ids=HONEST)
def test_an_honest_program_is_not_accused(probed, options, method):
    result = caching.judge(*probed(*options))
    if method == "total":
        assert result == {"value": None, "reason": Reason.NO_READINESS, "fires": None}
    else:
        assert result["fires"] is False and result["method"] == method


@pytest.mark.parametrize(("options", "method"), CACHING.values(), ids=CACHING)
def test_a_program_that_caches_is_found(probed, options, method):
    result = caching.judge(*probed(*LONG, *options))
    assert result["fires"] is True and result["value"] > 1.5 and method in (None, result["method"])


def test_a_cache_for_later_runs_is_found_when_repeated_texts_were_fed_before(probed):
    assert caching.judge(*probed(*LONG, "--keep", "later", pilot=True))["fires"] is True


def test_work_before_readiness_shows_in_whole_runs(probed):
    folders = probed(*LONG, "--keep", "text", "--late-ready")
    result = caching.judge(*folders, whole=True)
    assert result["fires"] is True and result["method"] == "total"
    assert caching.judge(*folders)["method"] != "total"


@pytest.mark.real_load
def test_runs_of_few_records_accuse_nobody(probed):
    result = caching.judge(*probed("--keep", "text", "--ready", size=24))  # delays are as long as their work
    assert not result["fires"] and result.get("reason") in (Reason.NO_STREAM, Reason.BUSY_MACHINE, None)
