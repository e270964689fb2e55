"""Lines of 2 GB, floods and programs that never end: bounded time and memory, and a message."""

import json
import resource
import shlex
import shutil
import time
from pathlib import Path

import pytest
from servers import PYTHON, is_alive, server

from morocco_lib.artifacts import steps
from morocco_lib.benchmark.run import STDERR_KEPT_BYTES
from morocco_lib.errors import UsageError
from morocco_lib.pipeline.step_kinds import verify
from morocco_lib.tasks import get_task

MB = 10**6
LONG_MB = 2000
SIZE = 40  # records of a bench
NO_ROOM = "No space left on device"
READ_ONLY = "Read-only file system"


def assert_refused(done, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert_reported(done, *words)


def assert_reported(done, *words: str) -> None:
    assert "Traceback" not in done.stderr and "this is a bug" not in done.stderr, done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr


def assert_nothing_is_done(folder: Path) -> None:
    """A recorded failure verifies, for its bytes are those it left; what was cut off does not."""
    states = [json.loads(path.read_text())["state"] for path in folder.rglob(steps.STATUS)]
    assert set(states) <= {"failed", "running"}
    if states:
        assert all(finding.ok for finding in verify(folder)) == ("running" not in states)
    else:
        with pytest.raises(UsageError, match="no step folder"):
            verify(folder)


def one_and_a_half_gb() -> None:
    """Bound the memory of a program: more, and it fails."""
    resource.setrlimit(resource.RLIMIT_AS, (1500 * MB, 1500 * MB))


@pytest.fixture(scope="module")
def val(synthetic_data):
    return synthetic_data / "TERRa" / "val.jsonl"


@pytest.fixture(scope="module")
def predictions(val, tmp_path_factory):
    """A valid file of predictions."""
    task = get_task("terra")
    path = tmp_path_factory.mktemp("predictions") / "preds.jsonl"
    path.write_text("".join(f"{task.format(task.gold(record))}\n" for record in task.read(val)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fed(main, predictions):
    """Give a file to a verb as its records; returns what came of it. Its results would go to `out`."""

    def run(verb: str, given: Path, out: Path, *, morocco=main, **options):
        match verb:
            case "eval":
                return morocco("eval", "terra", predictions, given, **options)
            case "bench":
                command = shlex.join(server("paced"))
                return morocco("bench", "--command", command, "terra", "--data", given, "--out", out, **options)
            case "train":
                folder = out.with_name("records")
                folder.mkdir()
                (folder / "train.jsonl").symlink_to(given)
                return morocco("train", "majority", "terra", "--data", folder, "--out", out, **options)

    return run


@pytest.fixture(scope="module")
def long_lines(tmp_path_factory):
    """Two files of one line of 2 GB that takes no room on the disk: zeros, and what begins and ends as a record."""
    folder = tmp_path_factory.mktemp("long")
    with (folder / "zeros").open("wb") as file:
        file.truncate(LONG_MB * MB)
    with (folder / "record").open("wb") as file:
        file.write(b'{"hypothesis": "a", "idx": 0, "label": "entailment", "text": "')
        file.seek(LONG_MB * MB)
        file.write(b'"}')
    yield folder
    shutil.rmtree(folder)


LONG = {"zeros": "line 1: a line longer than 16 MiB", "record": "line 1: a line longer than 16 MiB"}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("verb", ["eval", "bench", "train"])
def test_a_line_of_2_gb_is_refused_in_bounded_time_and_memory(fed, morocco, long_lines, tmp_path, verb, kind):
    begin = time.monotonic()
    done = fed(verb, long_lines / kind, tmp_path / "out", morocco=morocco, preexec_fn=one_and_a_half_gb)
    assert_refused(done, 2, LONG[kind])
    assert len(done.stderr) < 2000 and time.monotonic() - begin < 20
    assert_nothing_is_done(tmp_path / "out")


@pytest.mark.parametrize("kind", LONG)
def test_infer_refuses_a_line_of_2_gb_in_bounded_memory(morocco, fitted, long_lines, kind):
    with (long_lines / kind).open("rb") as stdin:
        done = morocco("infer", fitted, stdin=stdin, preexec_fn=one_and_a_half_gb)
    assert_refused(done, 2, f"stdin, {LONG[kind]}")
    assert len(done.stderr) < 2000


@pytest.mark.parametrize(
    ("kind", "message"),
    [("zeros", "1 x broken-line, 300 x missing-idx"), ("record", "1 x broken-line, 300 x missing-idx")],
)
def test_a_prediction_of_2_gb_is_an_invalid_result_in_bounded_time_and_memory(morocco, long_lines, val, kind, message):
    begin = time.monotonic()
    done = morocco("eval", "terra", long_lines / kind, val, preexec_fn=one_and_a_half_gb)
    assert_refused(done, 1, message)
    assert len(done.stderr) < 5000 and time.monotonic() - begin < 20


def test_an_endless_file_is_refused_at_its_first_line(morocco, val):
    assert_refused(morocco("eval", "terra", "/dev/zero", val), 1, "1 x broken-line, 300 x missing-idx")
    assert_refused(morocco("eval", "terra", val, "/dev/zero"), 2, "/dev/zero, line 1: a line longer than 16 MiB")


PROGRAM = """
import json, os, signal, sys, time
mode, place = sys.argv[1:3]
def say(idx):
    print(json.dumps({"idx": idx, "label": "entailment"}), flush=True)
def born():
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with open(place, "a") as file:
                file.write(f"{os.getpid()} ")
            time.sleep(600)
    time.sleep(0.3)
if mode == "deaf":
    sys.exit(0)
if mode == "asleep":
    time.sleep(600)
if mode == "one line":
    for _ in range(100):
        os.write(1, b"x" * 10**6)
    sys.exit(0)
if mode == "no SIGTERM":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with open(place, "a") as file:
        file.write(f"{os.getpid()} ")
    while True:
        time.sleep(1)
if mode == "born and asleep":
    born()
    time.sleep(600)
if mode == "endless":
    with open(place, "a") as file:
        file.write(f"{os.getpid()} ")
    while True:
        os.write(1, b'{"idx": 0, "label": "entailment"}' + b"\\n" + b" " * 4096 + b"\\n")
for position, line in enumerate(sys.stdin):
    idx = json.loads(line)["idx"]
    if mode == "exit 3" and position == 20:
        sys.exit(3)
    if mode == "close stdin" and position == 4:
        os.close(0)
        os._exit(0)
    if mode == "too few" and position >= 20:
        continue
    if mode == "garbage":
        os.write(1, b"\\x80 loss = 0.1\\n")
        continue
    say(idx + 1000 if mode == "foreign idx" else idx)
    if mode == "too many":
        say(idx)
if mode == "leave":
    born()
if mode == "much stderr":
    for _ in range(1000):
        os.write(2, b"x" * 10**6)
os._exit(0)
"""


@pytest.fixture
def benched(main, val, tmp_path):
    """Bench the program above in one of its modes; returns what came of it."""

    def run(mode: str, *options, size=SIZE, out=tmp_path / "out", morocco=main, **others):
        command = shlex.join([*PYTHON, "-c", PROGRAM, mode, str(tmp_path / "pids")])
        sizes = ("--input-size", size, "--batch-size", 4, "--repeats", 1, "--timeout", 30)
        words = ("bench", "--command", command, "terra", "--data", val, "--out", out, *sizes, *options, "--json")
        return morocco(*words, **others)

    return run


def assert_invalid(done, out: Path, *codes: str) -> dict:
    """The verdict says what was seen, the run is kept whole, and the record says that it is invalid."""
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


def test_1_gb_of_stderr_fills_neither_disk_nor_memory(benched, morocco, tmp_path):
    done = benched("much stderr", morocco=morocco, preexec_fn=one_and_a_half_gb)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out/runs/01/run.json").read_text())
    assert facts["stderr_bytes"] == 1000 * MB
    assert (tmp_path / "out/runs/01/stderr.log").stat().st_size == STDERR_KEPT_BYTES


@pytest.mark.parametrize("size", [SIZE, 5000], ids=["fits-in-the-pipe", "longer-than-the-pipe"])
@pytest.mark.parametrize("mode", ["asleep", "no SIGTERM"])
def test_a_program_that_never_ends_is_ended_at_its_time_limit(benched, tmp_path, mode, size):
    begin = time.monotonic()
    facts = assert_invalid(benched(mode, "--timeout", 1, size=size), tmp_path / "out", "TIMEOUT", "MISSING_IDX")
    assert facts["exit"]["timed_out"] and time.monotonic() - begin < 10
    if mode == "no SIGTERM":
        assert_all_dead(tmp_path / "pids", 1)
