"""What the tests of faults share: commands on bad records and on a faulty program, and what must come of them."""

import json
import resource
import shlex
from pathlib import Path

import pytest
from servers import is_alive, server

from morocco_lib.artifacts import steps
from morocco_lib.errors import UsageError
from morocco_lib.pipeline.step_kinds import verify

SIZE = 40  # records of a bench


def one_and_a_half_gb() -> None:
    """Bound the memory of a program: more, and it fails."""
    resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))


def feed(morocco, command: str, given: Path, out: Path, **options):
    """Give a file to a command as its records; returns what came of it."""
    if command == "eval":
        return morocco("eval", "terra", given, given, **options)
    if command == "bench":
        program = shlex.join(server("paced"))
        return morocco("bench", "--command", program, "terra", "--data", given, "--out", out, **options)
    folder = out.with_name("records")
    folder.mkdir()
    (folder / "train.jsonl").symlink_to(given)
    return morocco("train", "majority", "terra", "--data", folder, "--out", out, **options)


def bench(morocco, val: Path, folder: Path, mode: str, *options, size=SIZE, out=None, **others):
    """Bench the faulty program in one of its modes; its pids go to `pids` in the folder, the results to `out`."""
    (folder / "pids").touch(), (folder / "pids").chmod(0o666)  # the program is another user
    command = shlex.join(server("faulty", mode, folder / "pids"))
    sizes = ("--input-size", size, "--batch-size", 4, "--repeats", 1, "--timeout", 30)
    words = ("bench", "--command", command, "terra", "--data", val, "--out", out or folder / "out", *sizes, *options)
    return morocco(*words, "--json", **others)


def assert_refused(done, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert_reported(done, *words)


def assert_reported(done, *words: str) -> None:
    assert "Traceback" not in done.stderr and "this is a bug" not in done.stderr, done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr


def assert_nothing_is_done(folder: Path) -> None:
    """A recorded failure verifies, for its bytes are those it left; what was truncated does not."""
    states = [json.loads(path.read_text())["state"] for path in folder.rglob(steps.STATUS)]
    assert set(states) <= {"failed", "running"}
    if states:
        assert all(finding.ok for finding in verify(folder)) == ("running" not in states)
    else:
        with pytest.raises(UsageError, match="no step folder"):
            verify(folder)


def assert_invalid(done, out: Path, *codes: str) -> dict:
    """The verdict names the codes, the run is kept whole, and the status says that it is invalid; returns run.json."""
    assert done.returncode == 1, done.stderr
    assert_reported(done)
    result = json.loads(done.stdout)
    assert result["verdict"] == "INVALID" and set(result["reasons"]) == {*codes, "SINGLE_RUN"}
    assert result["score"] == result["speed_per_s"] == {"value": None, "reason": "NO_VALID_RUN"}
    assert steps.read_status(out)["exit"] == 1
    return json.loads((out / "runs/01/run.json").read_text())


def assert_all_dead(path: Path, count: int) -> None:
    pids = [int(word) for word in path.read_text().split()]
    assert len(pids) == count and not [pid for pid in pids if is_alive(pid)]
