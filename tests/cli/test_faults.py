"""The command line under bad input and faults: the exit code, what is said, and that nothing half-done looks done."""

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
from morocco_lib.benchmark.run import STDERR_KEPT_BYTES, STDOUT_BYTES, STDOUT_BYTES_PER_RECORD
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
    assert_said(done, *words)


def assert_said(done, *words: str) -> None:
    assert "Traceback" not in done.stderr and "this should not happen" not in done.stderr, done.stderr
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
    "empty": (b"", "holds no record; give a TERRa file"),
    "binary": (bytes(range(256)) * 20, "line 1: broken JSON"),
    "UTF-16": ("\n".join(LINES).encode("utf-16"), "line 1: not UTF-8 (byte 0xff at 0)"),
    "cut": ("\n".join([LINES[0], LINES[1][:40], LINES[2]]).encode(), "line 2: broken JSON"),
    "NaN": ("\n".join([LINES[0], LINES[1].replace("1}", "NaN}")]).encode(), "line 2: broken JSON (NaN is not JSON)"),
    "Infinity": (LINES[0].replace("0}", "-Infinity}").encode(), "line 1: broken JSON (-Infinity is not JSON)"),
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
    ("verb", "kind"),
    [
        *(("eval", kind) for kind in BAD if kind != "binary"),
        *(("bench", kind) for kind in BAD if kind not in ("empty", "cut", "same idx")),
        *(("train", kind) for kind in BAD),
    ],
)
def test_bad_records_are_refused_with_their_place(fed, tmp_path, verb, kind):
    raw, message = BAD[kind]
    given = tmp_path / "given.jsonl"
    given.write_bytes(raw)
    name = "train.jsonl" if verb == "train" else "given.jsonl"
    assert_refused(fed(verb, given, tmp_path / "out"), 2, name, message)
    assert_nothing_is_done(tmp_path / "out")


@pytest.mark.parametrize(("verb", "message"), [("bench", "Is a directory"), ("train", "no train split of TERRa")])
def test_a_folder_is_no_file_of_records(fed, tmp_path, verb, message):
    (tmp_path / "folder").mkdir()
    assert_refused(fed(verb, tmp_path / "folder", tmp_path / "out"), 2, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["binary", "UTF-16", "Infinity", "another task"])
def test_infer_ends_at_a_bad_record_and_names_its_line(main, fitted, kind):
    raw, message = BAD[kind]
    done = main("infer", fitted, input=raw)
    good = int(message.split(":")[0].removeprefix("line ")) - 1
    assert done.returncode == 2 and done.stdout.count("\n") == good
    assert_said(done, f"stdin, {message}", "mend or remove that line")


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


# -- bad predictions -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"idx": 0, "label": "entailment", "score": NaN}', "line 1: broken-line: broken JSON (NaN is not"),
        (b'{"idx": 0, "label": "entailment", "score": Infinity}', "broken JSON (Infinity is not JSON)"),
        ('{"idx": 0, "label": "entailment"}\n'.encode("utf-16"), "line 1: broken-line: not UTF-8"),
        (b'{"idx": 0, "label": true}', 'line 1, idx 0: label: label is true (bool); a label is one of the task\'s'),
        (b'{"idx": 0, "label": NaN}', "1 x broken-line, 1 x missing-idx"),
    ],
    ids=["NaN", "Infinity", "UTF-16", "another task", "NaN as label"],
)  # fmt: skip
def test_bad_predictions_are_an_invalid_result_with_rule_and_remedy(main, predictions, val, tmp_path, line, message):
    _, rest = predictions.read_bytes().split(b"\n", 1)
    (tmp_path / "bad.jsonl").write_bytes(line + b"\n" + rest)
    assert_refused(main("eval", "terra", tmp_path / "bad.jsonl", val), 1, "bad.jsonl", message, " for 300 records: ")


def test_predictions_of_another_task_are_an_invalid_result(main, predictions, tmp_path):
    gold = tmp_path / "gold.jsonl"
    gold.write_text(OF_ANOTHER_TASK)
    done = main("eval", "danetqa", predictions, gold)
    assert_refused(done, 1, "299 x unknown-idx", 'label is "not_entailment" (str)', 'use one of "false", "true"')


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
    assert_said(done)
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
    [
        ("exit 3", ["NON_ZERO_EXIT", "MISSING_IDX"], 20),
        ("too few", ["MISSING_IDX"], 20),
        ("too many", ["DUPLICATE_IDX"], 2 * SIZE),
        ("garbage", ["BROKEN_LINE", "MISSING_IDX"], SIZE),
        ("foreign idx", ["UNKNOWN_IDX", "MISSING_IDX"], SIZE),
    ],
)
def test_answers_that_do_not_keep_the_contract_are_invalid(benched, morocco, tmp_path, mode, codes, lines):
    done = benched(mode, morocco=morocco, preexec_fn=one_and_a_half_gb)
    facts = assert_invalid(done, tmp_path / "out", *codes)
    assert facts["lines"] == lines and facts["exit"]["code"] == (3 if mode == "exit 3" else 0)


@pytest.mark.parametrize(("mode", "lines"), [("close stdin", 4), ("deaf", 0)])
def test_a_program_that_does_not_take_its_input_is_invalid(benched, tmp_path, mode, lines):
    # More records than a pipe holds, so that the feeder meets the closed end.
    facts = assert_invalid(benched(mode, size=5000), tmp_path / "out", "INPUT_NOT_READ", "MISSING_IDX")
    assert facts["lines"] == lines and not facts["all_fed"]


@pytest.mark.parametrize("size", [SIZE, 5000], ids=["fits-in-the-pipe", "longer-than-the-pipe"])
@pytest.mark.parametrize("mode", ["asleep", "no SIGTERM"])
def test_a_program_that_never_ends_is_ended_at_its_time_limit(benched, tmp_path, mode, size):
    begin = time.monotonic()
    facts = assert_invalid(benched(mode, "--timeout", 1, size=size), tmp_path / "out", "TIMEOUT", "MISSING_IDX")
    assert facts["exit"]["timed_out"] and time.monotonic() - begin < 10
    if mode == "no SIGTERM":
        assert_all_dead(tmp_path / "pids", 1)


def test_no_child_survives_a_time_limit(benched, tmp_path):
    assert_invalid(benched("born and asleep", "--timeout", 1.5), tmp_path / "out", "TIMEOUT", "MISSING_IDX")
    assert_all_dead(tmp_path / "pids", 3)


def test_no_child_survives_a_program_that_ends_well(benched, tmp_path):
    done = benched("leave")
    assert done.returncode == 0 and "LEFT_PROCESSES" in json.loads(done.stdout)["reasons"], done.stderr
    assert_all_dead(tmp_path / "pids", 3)


@pytest.mark.parametrize(("mode", "also"), [("one line", "BROKEN_LINE"), ("endless", "DUPLICATE_IDX")])
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


def test_1_gb_of_stderr_fills_neither_disk_nor_memory(benched, morocco, tmp_path):
    done = benched("much stderr", morocco=morocco, preexec_fn=one_and_a_half_gb)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out/runs/01/run.json").read_text())
    assert facts["stderr_bytes"] == 1000 * MB
    assert (tmp_path / "out/runs/01/stderr.log").stat().st_size == STDERR_KEPT_BYTES


@pytest.mark.parametrize("name", ["x" * 300, f"./{'x' * 300}"], ids=["name", "path"])
def test_a_program_whose_name_is_too_long_is_none(main, val, tmp_path, name):
    done = main("bench", "--command", name, "terra", "--data", val, "--out", tmp_path / "out")
    assert_refused(done, 2, f"no program '{name[:50]}")
    assert not (tmp_path / "out").exists()


def test_a_word_of_a_command_may_be_longer_than_a_file_name(benched):
    assert len(PROGRAM) > 1000
    assert json.loads(benched("well").stdout)["verdict"] == "VALID"


# -- weights -------------------------------------------------------------------------------------------------------
def newer(folder: Path) -> None:
    path = folder / "model.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"schema": 1', '"schema": 2', 1), encoding="utf-8")


def halved(name: str):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


SPOILT = {
    "newer schema": (newer, "has schema 2; this version reads schema 1; train it again"),
    "half of the values": (halved("model.json"), "model.json is broken"),
    "half of the arrays": (halved("model.safetensors"), "is broken (SafetensorError"),
}


@pytest.fixture(params=SPOILT)
def spoilt(request, fitted, tmp_path):
    """(folder, message) of weights that cannot be used."""
    spoil, message = SPOILT[request.param]
    shutil.copytree(fitted, tmp_path / "weights")
    spoil(tmp_path / "weights")
    return tmp_path / "weights", message


def test_spoilt_weights_are_refused_before_readiness(main, spoilt):
    folder, message = spoilt
    done = main("infer", folder, input=LINES[0])
    assert_refused(done, 2, str(folder), message, "train it again")
    assert "ready" not in done.stderr


def bench_of_weights(morocco, weights: Path, task: str, data: Path, out: Path):
    command = shlex.join([*PYTHON[:1], "-m", "morocco_lib", "infer", str(weights)])
    sizes = ("--input-size", 10, "--repeats", 1)
    return morocco("bench", "--command", command, task, "--data", data, "--out", out, *sizes, "--json")


def test_a_bench_of_spoilt_weights_is_invalid_and_keeps_the_reason(main, spoilt, val, tmp_path):
    folder, message = spoilt
    done = bench_of_weights(main, folder, "terra", val, tmp_path / "out")
    assert_invalid(done, tmp_path / "out", "NON_ZERO_EXIT", "MISSING_IDX")
    assert message in (tmp_path / "out/runs/01/stderr.log").read_text()


def test_a_bench_of_weights_of_another_task_is_invalid_and_keeps_the_reason(main, fitted, synthetic_data, tmp_path):
    data = synthetic_data / "DaNetQA" / "val.jsonl"
    done = bench_of_weights(main, fitted, "danetqa", data, tmp_path / "out")
    assert_invalid(done, tmp_path / "out", "NON_ZERO_EXIT", "MISSING_IDX")
    assert "stdin, line 1: 'premise' is absent" in (tmp_path / "out/runs/01/stderr.log").read_text()


# -- plans ---------------------------------------------------------------------------------------------------------
PLAN = "name: demo\nmodels: [majority, tfidf]\ntasks: [terra]\n"


def run_plan(morocco, plan: Path, out: Path, *options):
    return morocco("run", plan, "--out", out, *options, cwd=ROOT, env={"MOROCCO_DATA": ""})


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["", "dry-run"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAN + "repeat: 3\n", "unknown parameter 'repeat'; did you mean 'repeats'?"),
        (PLAN.replace("majority", "tfidf"), "named twice: tfidf"),
        (PLAN.replace("[terra]", "[terra, terra]"), "named twice: terra"),
        (PLAN + "overrides: [{model: bert}]\n", "overrides.0 is for model 'bert'; the plan has majority, tfidf"),
        ("name: [demo\n", "is not YAML"),
        ("\x00\x01", "is not YAML"),
        ("", "holds no mapping"),
    ],
    ids=["unknown key", "model twice", "task twice", "override", "not YAML", "binary", "empty"],
)
def test_a_plan_that_cannot_be_meant_starts_nothing(main, tmp_path, text, message, options):
    plan = tmp_path / "plan.yaml"
    plan.write_text(text)
    assert_refused(run_plan(main, plan, tmp_path / "out", *options), 2, str(plan), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "message"), [(".", "Is a directory"), ("missing.yaml", "No such file")])
def test_what_is_no_file_is_no_plan(main, tmp_path, name, message):
    done = run_plan(main, tmp_path / name, tmp_path / "out")
    assert_refused(done, 2, f"cannot read {tmp_path / name}", message, "give the path of a YAML file")
    assert not (tmp_path / "out").exists()


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
        *(("train", free) for free in (0, 8, 32)),
        *(("bench", free) for free in (0, 8, 256)),
        *(("report", free) for free in (0, 40)),
    ],
)
def test_a_full_disk_ends_it_in_words_and_with_room_it_works(main, writers, disk, verb, free_kb):
    out = disk.place / "out"
    disk.fill(free_kb)
    assert_refused(main(*writers[verb], "--out", out), 3, NO_ROOM, str(out))
    assert_nothing_is_done(out)
    disk.free()
    shutil.rmtree(out, ignore_errors=True)  # what an attempt left is never overwritten
    done = main(*writers[verb], "--out", out)
    assert done.returncode == 0, done.stderr
    assert steps.read_status(out)["state"] == "done" and all(finding.ok for finding in verify(out))


@pytest.mark.parametrize("free_kb", [8, 40])
def test_a_report_in_its_place_is_repeated_when_there_is_room(morocco, point, disk, free_kb):
    plan = disk.place / "plan"
    shutil.copytree(point, plan / "bench")
    disk.fill(free_kb)
    assert_refused(morocco("report", plan), 3, NO_ROOM, str(plan))
    states = [steps.read_status(path.parent)["state"] for path in plan.glob("report-*/status.json")]
    assert "done" not in states
    disk.free()
    done = morocco("report", plan)
    assert done.returncode == 0 and Path(done.stdout.strip()).is_file(), done.stderr
    assert all(finding.ok for finding in verify(plan))


@pytest.mark.slow
@pytest.mark.parametrize("free_kb", [300, 1100], ids=["at-the-records", "at-a-later-step"])
def test_a_plan_on_a_full_disk_is_resumed_when_there_is_room(morocco, disk, tmp_path, free_kb):
    plan, out = tmp_path / "plan.yaml", disk.place / "out"
    plan.write_text("name: small\nmodels: [majority]\ntasks: [terra]\ninput_size: 200\nrepeats: 1\n")
    disk.fill(free_kb)
    done = run_plan(morocco, plan, out)
    assert done.returncode == 3, done.stdout
    assert_said(done, NO_ROOM, str(out))
    found = morocco("verify", out)
    assert found.returncode == 1 or ": failed, exit 3" in found.stdout
    disk.free()
    done = run_plan(morocco, plan, out)
    assert done.returncode == 0, done.stderr
    assert all(finding.ok for finding in verify(out))


@pytest.mark.parametrize("free_kb", [0, 256])
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


@pytest.mark.parametrize("verb", ["train", "bench", "bench of two sizes", "report", "data", "run"])
@pytest.mark.parametrize("exists", [True, False], ids=["empty", "new"])
def test_a_read_only_folder_is_a_failure_of_the_environment(main, writers, disk, verb, exists):
    out = disk.place / "out"
    if exists:
        out.mkdir()
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
