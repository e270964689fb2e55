"""Submissions, honest ones and others; a board; keys."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import complete_runs
import pytest
import submissions

from morocco_lib import fileio
from morocco_lib.analysis import summary
from morocco_lib.leaderboard import archive as archives
from morocco_lib.leaderboard import board, checks, submission
from morocco_lib.reasons import EXIT_CODES


@pytest.fixture(scope="session")
def val(tmp_path_factory):
    """The organiser's file of TERRa records."""
    return submissions.write_val(tmp_path_factory.mktemp("records") / "TERRa")


@pytest.fixture(scope="session")
def submit(val, tmp_path_factory):
    """Pack a submission of one bench of TERRa; returns the archive."""
    return lambda model="m", **options: submissions.submit(tmp_path_factory.mktemp("submit"), val, model, **options)


@pytest.fixture(scope="session")
def honest(submit):
    return submit()


@pytest.fixture
def repacked(tmp_path):
    """Change a submission as an attacker would, and return it.

    What is made anew: `seal` all: every number and digest; digests: of step and archive; sums: of the archive; False: nothing.
    """

    def make(archive: Path, edit, *, seal="all", name="changed") -> Path:
        folder = tmp_path / name
        with zipfile.ZipFile(archive) as box:
            box.extractall(folder)
        (step,) = (path.parent for path in folder.glob("steps/**/status.json"))
        edit(step)
        if seal == "all":
            result = summary.derive(step)
            fileio.write_json(step / summary.BENCH, result)
            complete_runs.reseal(step, exit=EXIT_CODES[result["verdict"]])
        if seal in ("all", "digests"):
            complete_runs.reseal(step)
            points = {"schema": 1, "points": submission.points_of(folder / "steps")}
            fileio.write_json(folder / submission.POINTS, points)
        if seal:
            digests = submission.digests_of(folder).items()
            (folder / submission.SUMS).write_text("".join(f"{digest}  {path}\n" for path, digest in digests))
        archives.pack(folder, tmp_path / f"{name}.zip")
        shutil.rmtree(folder)
        return tmp_path / f"{name}.zip"

    return make


@pytest.fixture
def terms(val):
    """The terms of a board of TERRa alone, whose organiser has the records."""
    return checks.Terms(("terra",), {}, {"terra": val})


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """Two keys of ssh, and a file that allows the first for alice@example.org."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("alice", "mallory"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name], check=True)
    (folder / "allowed").write_text(f"alice@example.org {(folder / 'alice.pub').read_text()}")
    return folder


@pytest.fixture
def ranked(tmp_path, val):
    """Rank submissions on a board of TERRa; returns (entries by model, the ranking)."""

    def make(*archives, data_dir=val.parents[1], signers=None, out="board"):
        folder = tmp_path / out
        judged = board.add(archives, folder, board.terms(folder, ["terra"], data_dir, "val", signers))
        return {entry.model: entry for entry in judged}, board.write(folder)

    return make
