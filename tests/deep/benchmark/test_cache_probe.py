"""Real programs that cache, or do not, in all the ways that they print their answers."""

from pathlib import Path

import pytest
from run_folders import TERRA
from servers import server

from morocco_lib import data
from morocco_lib.analysis import caching
from morocco_lib.benchmark import cache_probe
from morocco_lib.benchmark.run import RunSeries
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.reasons import Reason
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.process import ProcessRunner


@pytest.fixture
def probe(synthetic_data, tmp_path, monkeypatch):
    """Run a program on three pairs and return the folders of the runs on unique and on repeated texts."""
    source, records = data.read_split(synthetic_data, TERRA, "val")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def measure(program, load, folder: Path) -> Path:
        folder.mkdir()
        target = Target(program, ProcessRunner(), Limits(timeout_s=60))
        with RunSeries(target, load, source, folder, batch_size=8) as series:
            return series.run(folder, "cached")

    def run(*options, size=400, pilot=False) -> tuple[list[Path], list[Path]]:
        program, made = Program(server("cached", *options), "cached"), {"unique": [], "repeated": []}
        if pilot:
            measure(program, cache_probe.workloads(TERRA, records, 40, 7)[1], tmp_path / "pilot")
        for pair, kind in cache_probe.sequence():
            load = dict(zip(made, cache_probe.workloads(TERRA, records, size, 7, pair), strict=True))[kind]
            made[kind].append(measure(program, load, tmp_path / f"{kind}-{pair}"))
        return made["unique"], made["repeated"]

    return run


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
def test_an_honest_program_is_not_accused(probe, options, method):
    result = caching.judge(*probe(*options))
    if method == "total":
        assert result == {"value": None, "reason": Reason.NO_READINESS, "fires": None}
    else:
        assert result["fires"] is False and result["method"] == method


@pytest.mark.parametrize(("options", "method"), CACHING.values(), ids=CACHING)
def test_a_program_that_caches_is_found(probe, options, method):
    result = caching.judge(*probe(*LONG, *options))
    assert result["fires"] is True and result["value"] > 1.5 and method in (None, result["method"])


def test_a_cache_for_later_runs_is_found_when_repeated_texts_were_fed_before(probe):
    assert caching.judge(*probe(*LONG, "--keep", "later", pilot=True))["fires"] is True


def test_work_before_readiness_shows_in_whole_runs(probe):
    folders = probe(*LONG, "--keep", "text", "--late-ready")
    result = caching.judge(*folders, whole=True)
    assert result["fires"] is True and result["method"] == "total"
    assert caching.judge(*folders)["method"] != "total"


@pytest.mark.real_load
def test_runs_of_few_records_accuse_nobody(probe):
    result = caching.judge(*probe("--keep", "text", "--ready", size=24))  # delays are as long as their work
    assert not result["fires"] and result.get("reason") in (Reason.NO_STREAM, Reason.BUSY_MACHINE, None)
