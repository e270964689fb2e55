"""What strangers pack is refused by name, soon, and nothing of it lands outside the folder it is unpacked into."""

import mutated_archives
import pytest

from morocco_lib.leaderboard import checks

COUNT, PARTS = 160, 4


@pytest.fixture(scope="session")
def small(submit):
    """The files of a small honest submission: of a quick bench. tests/deep takes a whole one."""
    return mutated_archives.read(submit(runs=1))


def test_the_archive_that_they_are_made_of_is_taken(small, terms, tmp_path):
    archive = tmp_path / "good.zip"
    archive.write_bytes(mutated_archives.packed(mutated_archives.resealed(small)))
    (entry,) = checks.judge(archive, terms, [])
    assert entry.verdict == "marked"


@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_archives_are_refused_by_name(part, small, terms, tmp_path):
    mutated_archives.check_refused(range(part, COUNT, PARTS), small, tmp_path, terms)
