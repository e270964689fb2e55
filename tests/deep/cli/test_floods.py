"""Lines of 2 GB, floods and programs that never end: bounded time and memory, and a message."""

import json
import shutil
import time

import faults
import pytest
from faults import assert_all_dead, assert_invalid, assert_nothing_is_done, assert_refused, one_and_a_half_gb

from morocco_lib.benchmark.run import STDERR_KEPT_BYTES

LONG_BYTES = 2 * 10**9
TOO_LONG = "line 1: a line longer than 16 MiB"


@pytest.fixture(scope="module")
def long_lines(tmp_path_factory):
    """Two files of one line of 2 GB that takes no room on the disk: zeros, and what begins and ends as a record."""
    folder = tmp_path_factory.mktemp("long")
    with (folder / "zeros").open("wb") as file:
        file.truncate(LONG_BYTES)
    with (folder / "record").open("wb") as file:
        file.write(b'{"hypothesis": "a", "idx": 0, "label": "entailment", "text": "')
        file.seek(LONG_BYTES)
        file.write(b'"}')
    yield folder
    shutil.rmtree(folder)


kinds = pytest.mark.parametrize("kind", ["zeros", "record"])


@kinds
@pytest.mark.parametrize("command", ["eval", "bench", "train"])
def test_a_line_of_2_gb_is_refused_in_bounded_time_and_memory(morocco, long_lines, tmp_path, command, kind):
    begin = time.monotonic()
    done = faults.feed(morocco, command, long_lines / kind, tmp_path / "out", preexec_fn=one_and_a_half_gb)
    assert_refused(done, 2, TOO_LONG)
    assert len(done.stderr) < 2000 and time.monotonic() - begin < 20
    assert_nothing_is_done(tmp_path / "out")


@kinds
def test_infer_refuses_a_line_of_2_gb_in_bounded_memory(morocco, fitted, long_lines, kind):
    with (long_lines / kind).open("rb") as stdin:
        done = morocco("infer", fitted, stdin=stdin, preexec_fn=one_and_a_half_gb)
    assert_refused(done, 2, f"stdin, {TOO_LONG}")
    assert len(done.stderr) < 2000


@kinds
def test_a_prediction_of_2_gb_is_an_invalid_result_in_bounded_time_and_memory(morocco, long_lines, val, kind):
    begin = time.monotonic()
    done = morocco("eval", "terra", long_lines / kind, val, preexec_fn=one_and_a_half_gb)
    assert_refused(done, 1, "1 x broken-line, 300 x missing-idx")
    assert len(done.stderr) < 5000 and time.monotonic() - begin < 20


def test_an_endless_file_is_refused_at_its_first_line(morocco, val):
    assert_refused(morocco("eval", "terra", "/dev/zero", val), 1, "1 x broken-line, 300 x missing-idx")
    assert_refused(morocco("eval", "terra", val, "/dev/zero"), 2, f"/dev/zero, {TOO_LONG}")


def test_1_gb_of_stderr_fills_neither_disk_nor_memory(morocco, val, tmp_path):
    done = faults.bench(morocco, val, tmp_path, "much stderr", preexec_fn=one_and_a_half_gb)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out/runs/01/run.json").read_text())
    assert facts["stderr_bytes"] == 10**9
    assert (tmp_path / "out/runs/01/stderr.log").stat().st_size == STDERR_KEPT_BYTES


@pytest.mark.parametrize("size", [faults.SIZE, 5000], ids=["fits-in-the-pipe", "longer-than-the-pipe"])
@pytest.mark.parametrize("mode", ["asleep", "no SIGTERM"])
def test_a_program_that_never_ends_is_ended_at_its_time_limit(main, val, tmp_path, mode, size):
    begin = time.monotonic()
    done = faults.bench(main, val, tmp_path, mode, "--timeout", 1, size=size)
    facts = assert_invalid(done, tmp_path / "out", "TIMEOUT", "MISSING_IDX")
    assert facts["exit"]["timed_out"] and time.monotonic() - begin < 10
    if mode == "no SIGTERM":
        assert_all_dead(tmp_path / "pids", 1)
