"""Commands under bad input and faults: exit code and message, and that nothing half done looks done."""

import json
import os
import resource
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from servers import PYTHON, ROOT, is_alive, server

from morocco_lib.artifacts import steps
from morocco_lib.benchmark.run import STDOUT_BYTES, STDOUT_BYTES_PER_RECORD
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


# -- bad records ---------------------------------------------------------------------------------------------------
LINES = [
    json.dumps({"premise": "Кошка спит.", "hypothesis": "Спит кошка.", "label": label, "idx": idx}, ensure_ascii=False)
    for idx, label in enumerate(("entailment", "not_entailment", "entailment"))
]
OF_ANOTHER_TASK = '{"question": "Да?", "passage": "Нет.", "label": true, "idx": 1}'
BAD = {
    "binary": (bytes(range(256)) * 20, "line 1: broken JSON"),
    "UTF-16": ("\n".join(LINES).encode("utf-16"), "line 1: not UTF-8 (byte 0xff at 0)"),
    "cut": ("\n".join([LINES[0], LINES[1][:40], LINES[2]]).encode(), "line 2: broken JSON"),
    "another task": ("\n".join([LINES[0], OF_ANOTHER_TASK]).encode(), "line 2: 'premise' is absent; a TERRa record"),
    "same idx": ("\n".join([*LINES, LINES[1]]).encode(), "line 4: idx 1 stood in line 2 already; idx is unique"),
}


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


@pytest.mark.parametrize(
    ("verb", "kind"), [("eval", "same idx"), ("bench", "another task"), ("train", "binary"), ("train", "cut")]
)
def test_bad_records_are_refused_with_their_place(fed, tmp_path, verb, kind):
    raw, message = BAD[kind]
    given = tmp_path / "given.jsonl"
    given.write_bytes(raw)
    name = "train.jsonl" if verb == "train" else "given.jsonl"
    assert_refused(fed(verb, given, tmp_path / "out"), 2, name, message)
    assert_nothing_is_done(tmp_path / "out")


@pytest.mark.parametrize("kind", ["UTF-16", "another task"])
def test_infer_ends_at_a_bad_record_and_names_its_line(main, fitted, kind):
    raw, message = BAD[kind]
    done = main("infer", fitted, input=raw)
    good = int(message.split(":")[0].removeprefix("line ")) - 1
    assert done.returncode == 2 and done.stdout.count("\n") == good
    assert_reported(done, f"stdin, {message}", "correct or remove that line")


# -- bad predictions -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"idx": 0, "label": "entailment", "score": NaN}', "line 1: broken-line: broken JSON (NaN is not"),
        (b'{"idx": 0, "label": true}', "line 1, idx 0: label: label is true (bool); a label is one of the task's"),
    ],
    ids=["NaN", "another task"],
)
def test_bad_predictions_are_an_invalid_result_with_rule_and_remedy(main, predictions, val, tmp_path, line, message):
    _, rest = predictions.read_bytes().split(b"\n", 1)
    (tmp_path / "bad.jsonl").write_bytes(line + b"\n" + rest)
    assert_refused(main("eval", "terra", tmp_path / "bad.jsonl", val), 1, "bad.jsonl", message, " for 300 records: ")


def test_an_idx_of_any_length_is_cut_in_messages(main, tmp_path):
    record = {"sentence1": "Кошка спит.", "sentence2": "Спит кошка.", "label": "entailment", "idx": "z" * 100_000}
    for name, lines in (("gold", 1), ("twice", 2)):
        (tmp_path / name).write_text(f"{json.dumps(record)}\n" * lines)
    (tmp_path / "preds").write_text(json.dumps({"idx": "y" * 100_000, "label": "entailment"}))
    for gold, code, message in (("gold", 1, "line 1, idx 'yyy"), ("twice", 2, "line 2: idx 'zzz")):
        done = main("eval", "lidirus", tmp_path / "preds", tmp_path / gold)
        assert_refused(done, code, message)
        assert len(done.stderr) < 2000


# -- programs that do not keep the contract ------------------------------------------------------------------------
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


@pytest.mark.parametrize(
    ("mode", "codes", "lines"),
    [("exit 3", ["NON_ZERO_EXIT", "MISSING_IDX"], 20), ("garbage", ["BROKEN_LINE", "MISSING_IDX"], SIZE)],
)
def test_answers_that_do_not_keep_the_contract_are_invalid(benched, morocco, tmp_path, mode, codes, lines):
    done = benched(mode, morocco=morocco, preexec_fn=one_and_a_half_gb)
    facts = assert_invalid(done, tmp_path / "out", *codes)
    assert facts["lines"] == lines and facts["exit"]["code"] == (3 if mode == "exit 3" else 0)


@pytest.mark.parametrize(("mode", "lines"), [("close stdin", 4)])
def test_a_program_that_does_not_take_its_input_is_invalid(benched, tmp_path, mode, lines):
    # More records than a pipe holds, so that the feeder meets the closed end.
    facts = assert_invalid(benched(mode, size=5000), tmp_path / "out", "INPUT_NOT_READ", "MISSING_IDX")
    assert facts["lines"] == lines and not facts["all_fed"]


def test_no_child_survives_a_time_limit(benched, tmp_path):
    assert_invalid(benched("born and asleep", "--timeout", 1.5), tmp_path / "out", "TIMEOUT", "MISSING_IDX")
    assert_all_dead(tmp_path / "pids", 3)


def test_no_child_survives_a_program_that_ends_well(benched, tmp_path):
    done = benched("leave")
    assert done.returncode == 0 and "LEFT_PROCESSES" in json.loads(done.stdout)["reasons"], done.stderr
    assert_all_dead(tmp_path / "pids", 3)


@pytest.mark.parametrize(("mode", "also"), [("endless", "DUPLICATE_IDX")])
def test_a_flood_on_stdout_is_ended_before_it_fills_the_disk(benched, tmp_path, mode, also):
    done = benched(mode)
    result = json.loads(done.stdout)
    assert done.returncode == 1 and {"STDOUT_FLOODED", "KILLED", also} <= set(result["reasons"]), done.stderr
    folder, most = tmp_path / "out/runs/01", STDOUT_BYTES + SIZE * STDOUT_BYTES_PER_RECORD
    assert (
        (folder / "answers.jsonl").stat().st_size
        <= most
        < json.loads((folder / "run.json").read_text())["stdout_bytes"]
    )


# -- plans ---------------------------------------------------------------------------------------------------------


def run_plan(morocco, plan: Path, out: Path, *options):
    return morocco("run", plan, "--out", out, *options, cwd=ROOT, env={"MOROCCO_DATA": ""})


# -- disks ---------------------------------------------------------------------------------------------------------
class Disk:
    """A disk of 2 MiB that can be filled, freed and locked."""

    def __init__(self, place: Path):
        self.place, self.filling = place, place / "filling"

    def mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, str(self.place)], check=True, capture_output=True, text=True)

    def fill(self, free_kb: int) -> None:
        room = os.statvfs(self.place)
        self.filling.write_bytes(bytes(room.f_bavail * room.f_frsize - free_kb * 1024))

    def free(self) -> None:
        self.filling.unlink()

    def lock(self) -> None:
        self.mount("-o", "remount,ro")


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own; skipped where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    small = Disk(place)
    try:
        small.mount("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk may be mounted here: {getattr(error, 'stderr', None) or error}")
    yield small
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def writers(synthetic_data, val, point, tmp_path):
    """Verb -> its words but for --out."""
    bench = (
        "bench",
        "--command",
        shlex.join(server("paced", "--rate", 5000)),
        "terra",
        "--data",
        val,
        "--repeats",
        1,
        "--input-size",
        2000,
    )
    return {
        "train": ("train", "tfidf", "terra", "--data", synthetic_data),
        "bench": bench,
        "bench of two sizes": (*bench, "--batch-size", "1,8"),
        "report": ("report", point),
        "data": ("data", "synthetic", "terra"),
        "run": ("run", ROOT / "params/plans/demo.yaml"),
    }


@pytest.fixture(scope="module")
def point(main, val, tmp_path_factory):
    """The step folder of a valid bench."""
    out = tmp_path_factory.mktemp("point") / "bench"
    sizes = ("--input-size", SIZE, "--repeats", 1)
    done = main(
        "bench", "--command", shlex.join(server("paced", "--init", 0.1)), "terra", "--data", val, "--out", out, *sizes
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize(
    ("verb", "free_kb"),
    [
        ("train", 8),
        ("bench", 256),
        ("report", 40),
    ],
)
def test_a_full_disk_ends_it_with_a_message_and_with_room_it_works(main, writers, disk, verb, free_kb):
    out = disk.place / "out"
    disk.fill(free_kb)
    assert_refused(main(*writers[verb], "--out", out), 3, NO_ROOM, str(out))
    assert_nothing_is_done(out)
    disk.free()
    shutil.rmtree(out, ignore_errors=True)  # what an attempt left is never overwritten
    done = main(*writers[verb], "--out", out)
    assert done.returncode == 0, done.stderr
    assert steps.read_status(out)["state"] == "done" and all(finding.ok for finding in verify(out))


@pytest.mark.slow
@pytest.mark.parametrize("free_kb", [1100])
def test_a_plan_on_a_full_disk_is_resumed_when_there_is_room(morocco, disk, tmp_path, free_kb):
    plan, out = tmp_path / "plan.yaml", disk.place / "out"
    plan.write_text("name: small\nmodels: [majority]\ntasks: [terra]\ninput_size: 200\nrepeats: 1\n")
    disk.fill(free_kb)
    done = run_plan(morocco, plan, out)
    assert done.returncode == 3, done.stdout
    assert_reported(done, NO_ROOM, str(out))
    found = morocco("verify", out)
    assert found.returncode == 1 or ": failed, exit 3" in found.stdout
    disk.free()
    done = run_plan(morocco, plan, out)
    assert done.returncode == 0, done.stderr
    assert all(finding.ok for finding in verify(out))


@pytest.mark.parametrize("free_kb", [256])
def test_a_full_disk_leaves_no_synthetic_records_that_look_whole(main, writers, disk, free_kb):
    out = disk.place / "out"
    disk.fill(free_kb)
    assert_refused(main(*writers["data"], "--out", out), 3, NO_ROOM, str(out))
    assert not out.exists()
    disk.free()
    assert main(*writers["data"], "--out", out).returncode == 0


def test_a_disk_that_answers_fill_ends_the_bench_and_its_program(benched, disk, tmp_path):
    out = disk.place / "out"
    begin = time.monotonic()
    assert_refused(benched("endless", out=out), 3, NO_ROOM, str(out))
    assert time.monotonic() - begin < 15
    assert_all_dead(tmp_path / "pids", 1)
    assert_nothing_is_done(out)
    assert list((out / "runs").glob("[0-9]*")) == []


@pytest.mark.parametrize("verb", ["train", "bench", "report", "data", "run"])
def test_a_read_only_folder_is_a_failure_of_the_environment(main, writers, disk, verb):
    out = disk.place / "out"
    disk.lock()
    done = main(*writers[verb], "--out", out, cwd=ROOT, env={"MOROCCO_DATA": ""})
    assert_refused(done, 3, READ_ONLY, str(out))
    assert_nothing_is_done(out)


def test_results_on_a_read_only_disk_can_be_verified_and_reported_elsewhere(main, point, disk, tmp_path):
    shutil.copytree(point, disk.place / "bench")
    disk.lock()
    done = main("verify", disk.place / "bench")
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("verified: 1 step folder"), done.stdout
    assert_refused(main("report", disk.place / "bench"), 3, READ_ONLY, str(disk.place / "bench"))
    assert main("report", disk.place / "bench", "--out", tmp_path / "page").returncode == 0
