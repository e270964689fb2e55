"""Mutated submissions by the thousand: MOROCCO_ARCHIVES says how many (default 1000; 10,000 for docs/evidence.md)."""

import os

import mutated_archives
import pytest
import submissions

from morocco_lib.leaderboard import checks

COUNT, PARTS = int(os.environ.get("MOROCCO_ARCHIVES", 1000)), 2


@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_archives_are_refused_by_name(part, tmp_path):
    val = submissions.write_val(tmp_path / "TERRa")
    (tmp_path / "submit").mkdir()
    files = mutated_archives.read(submissions.submit(tmp_path / "submit", val, runs=2))
    terms = checks.Terms(("terra",), {}, {"terra": val})
    mutated_archives.check_refused(range(part, COUNT, PARTS), files, tmp_path / "cases", terms)
