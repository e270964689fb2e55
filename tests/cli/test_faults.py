"""Commands under bad input and faults: exit code and message, and that nothing half done looks done."""

import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import faults
import pytest
from faults import (
    SIZE,
    assert_all_dead,
    assert_invalid,
    assert_nothing_is_done,
    assert_refused,
    assert_reported,
    one_and_a_half_gb,
)
from helpers import ROOT, write_plan
from servers import server

from morocco_lib.artifacts import steps
from morocco_lib.benchmark.run import STDOUT_BYTES, STDOUT_BYTES_PER_RECORD
from morocco_lib.pipeline.step_kinds import verify
from morocco_lib.tasks import get_task

NO_ROOM = "No space left on device"
READ_ONLY = "Read-only file system"

# -- bad records ---------------------------------------------------------------------------------------------------
LINES = [
    json.dumps({"premise": "Кошка спит.", "hypothesis": "Спит кошка.", "label": label, "idx": idx}, ensure_ascii=False)
    for idx, label in enumerate(("entailment", "not_entailment", "entailment"))
]
OF_ANOTHER_TASK = '{"question": "Да?", "passage": "Нет.", "label": true, "idx": 1}'
BAD = {
    "binary": (bytes(range(256)) * 20, "line 1: broken JSON"),
    "UTF-16": ("\n".join(LINES).encode("utf-16"), "line 1: not UTF-8 (byte 0xff at 0)"),
    "truncated": ("\n".join([LINES[0], LINES[1][:40], LINES[2]]).encode(), "line 2: broken JSON"),
    "another task": ("\n".join([LINES[0], OF_ANOTHER_TASK]).encode(), "line 2: 'premise' is absent; a TERRa record"),
    "same idx": ("\n".join([*LINES, LINES[1]]).encode(), "line 4: idx 1 stood in line 2 already; idx is unique"),
}


@pytest.mark.parametrize(
    ("command", "kind"), [("eval", "same idx"), ("bench", "another task"), ("train", "binary"), ("train", "truncated")]
)
def test_bad_records_are_refused_with_their_place(main, tmp_path, command, kind):
    raw, message = BAD[kind]
    given = tmp_path / "given.jsonl"
    given.write_bytes(raw)
    name = "train.jsonl" if command == "train" else "given.jsonl"
    assert_refused(faults.feed(main, command, given, tmp_path / "out"), 2, name, message)
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
        ('{"idx": 0, "label": "entailment", "score": NaN}', "line 1: broken-line: broken JSON (NaN is not"),
        ('{"idx": 0, "label": true}', "line 1, idx 0: label: label is true (bool); a label is one of the task's"),
    ],
    ids=["NaN", "another task"],
)
def test_bad_predictions_are_an_invalid_result_with_rule_and_remedy(main, val, tmp_path, line, message):
    task = get_task("terra")
    _, *rest = (task.format(task.gold(record)) for record in task.read(val))
    (tmp_path / "bad.jsonl").write_text("\n".join([line, *rest]), encoding="utf-8")
    assert_refused(main("eval", "terra", tmp_path / "bad.jsonl", val), 1, "bad.jsonl", message, " for 300 records: ")


def test_an_idx_of_any_length_is_truncated_in_messages(main, tmp_path):
    record = {"sentence1": "Кошка спит.", "sentence2": "Спит кошка.", "label": "entailment", "idx": "z" * 100_000}
    for name, lines in (("gold", 1), ("twice", 2)):
        (tmp_path / name).write_text(f"{json.dumps(record)}\n" * lines)
    (tmp_path / "preds").write_text(json.dumps({"idx": "y" * 100_000, "label": "entailment"}))
    for gold, code, message in (("gold", 1, "line 1, idx 'yyy"), ("twice", 2, "line 2: idx 'zzz")):
        done = main("eval", "lidirus", tmp_path / "preds", tmp_path / gold)
        assert_refused(done, code, message)
        assert len(done.stderr) < 2000


# -- programs that do not keep the contract ------------------------------------------------------------------------
@pytest.fixture
def benched(main, val, tmp_path):
    """Bench the faulty program in one of its modes; see `faults.bench`."""
    return lambda mode, *options, morocco=main, **others: faults.bench(morocco, val, tmp_path, mode, *options, **others)


@pytest.mark.parametrize(
    ("mode", "codes", "lines"),
    [("exit 3", ["NON_ZERO_EXIT", "MISSING_IDX"], 20), ("garbage", ["BROKEN_LINE", "MISSING_IDX"], SIZE)],
)
def test_answers_that_do_not_keep_the_contract_are_invalid(benched, morocco, tmp_path, mode, codes, lines):
    done = benched(mode, morocco=morocco, preexec_fn=one_and_a_half_gb)
    facts = assert_invalid(done, tmp_path / "out", *codes)
    assert facts["lines"] == lines and facts["exit"]["code"] == (3 if mode == "exit 3" else 0)


def test_a_program_that_does_not_take_its_input_is_invalid(benched, tmp_path):
    # More records than a pipe holds, so that the feeder meets the closed end.
    facts = assert_invalid(benched("close stdin", size=5000), tmp_path / "out", "INPUT_NOT_READ", "MISSING_IDX")
    assert facts["lines"] == 4 and not facts["all_fed"]


def test_no_child_survives_a_time_limit(benched, tmp_path):
    assert_invalid(benched("children and asleep", "--timeout", 1.5), tmp_path / "out", "TIMEOUT", "MISSING_IDX")
    assert_all_dead(tmp_path / "pids", 3)


def test_no_child_survives_a_program_that_ends_well(benched, tmp_path):
    done = benched("children")
    assert done.returncode == 0 and "LEFT_PROCESSES" in json.loads(done.stdout)["reasons"], done.stderr
    assert_all_dead(tmp_path / "pids", 3)


def test_a_flood_on_stdout_is_ended_before_it_fills_the_disk(benched, tmp_path):
    done = benched("endless")
    reasons = set(json.loads(done.stdout)["reasons"])
    assert done.returncode == 1 and {"STDOUT_FLOODED", "KILLED", "DUPLICATE_IDX"} <= reasons, done.stderr
    folder, most = tmp_path / "out/runs/01", STDOUT_BYTES + SIZE * STDOUT_BYTES_PER_RECORD
    printed = json.loads((folder / "run.json").read_text())["stdout_bytes"]
    assert (folder / "answers.jsonl").stat().st_size <= most < printed


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
        small.mount("-t", "tmpfs", "-o", "size=6m", "tmpfs")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk may be mounted here: {getattr(error, 'stderr', None) or error}")
    yield small
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def writers(synthetic_data, val, point):
    """Command -> its words but for --out."""
    program = shlex.join(server("paced", "--rate", 5000))
    return {
        "train": ("train", "tfidf", "terra", "--data", synthetic_data),
        "bench": ("bench", "--command", program, "terra", "--data", val, "--repeats", 1, "--input-size", 2000),
        "report": ("report", point),
        "data": ("data", "synthetic", "terra"),
        "run": ("run", ROOT / "params/plans/demo.yaml"),
    }


@pytest.fixture(scope="module")
def point(main, val, tmp_path_factory):
    """The step folder of a valid bench."""
    out = tmp_path_factory.mktemp("point") / "bench"
    program, sizes = shlex.join(server("paced", "--init", 0.1)), ("--input-size", SIZE, "--repeats", 1)
    done = main("bench", "--command", program, "terra", "--data", val, "--out", out, *sizes)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize(("command", "free_kb"), [("train", 8), ("bench", 256), ("report", 40)])
def test_a_full_disk_ends_it_with_a_message_and_with_room_it_works(main, writers, disk, command, free_kb):
    out = disk.place / "out"
    disk.fill(free_kb)
    assert_refused(main(*writers[command], "--out", out), 3, NO_ROOM, str(out))
    assert_nothing_is_done(out)
    disk.free()
    shutil.rmtree(out, ignore_errors=True)  # what an attempt left is never overwritten
    done = main(*writers[command], "--out", out)
    assert done.returncode == 0, done.stderr
    assert steps.read_status(out)["state"] == "done" and all(finding.ok for finding in verify(out))


@pytest.mark.slow
def test_a_plan_on_a_full_disk_is_resumed_when_there_is_room(morocco, disk, tmp_path):
    out = disk.place / "out"
    words = ("run", write_plan(tmp_path, quick=False), "--out", out)
    disk.fill(free_kb=1100)
    done = morocco(*words, cwd=ROOT, env={"MOROCCO_DATA": ""})
    assert done.returncode == 3, done.stdout
    assert_reported(done, NO_ROOM, str(out))
    found = morocco("verify", out)
    assert found.returncode == 1 or ": failed, exit 3" in found.stdout
    disk.free()
    done = morocco(*words, cwd=ROOT, env={"MOROCCO_DATA": ""})
    assert done.returncode == 0, done.stderr
    assert all(finding.ok for finding in verify(out))


def test_a_full_disk_leaves_no_synthetic_records_that_look_whole(main, writers, disk):
    out = disk.place / "out"
    disk.fill(free_kb=256)
    assert_refused(main(*writers["data"], "--out", out), 3, NO_ROOM, str(out))
    assert not out.exists()


def test_a_disk_that_answers_fill_ends_the_bench_and_its_program(benched, disk, tmp_path):
    out = disk.place / "out"
    begin = time.monotonic()
    assert_refused(benched("endless", out=out), 3, NO_ROOM, str(out))
    assert time.monotonic() - begin < 15
    assert_all_dead(tmp_path / "pids", 1)
    assert_nothing_is_done(out)
    assert list((out / "runs").glob("[0-9]*")) == []


def test_a_disk_that_fills_while_files_are_downloaded_loses_none(main, disk, bucket, tmp_path, monkeypatch):
    here, back, where = tmp_path / "here", disk.place / "back", f"s3://{bucket}/x"
    here.mkdir()
    for name, size in (("small", 1000), ("large", 1_000_000)):
        (here / name).write_bytes(os.urandom(size))
    assert main("sync", here, where).returncode == 0
    back.mkdir()
    (back / "large").write_bytes(b"good")
    disk.fill(free_kb=256)
    assert_refused(main("sync", where, back), 3, "bytes are needed", str(back))
    usage = shutil.disk_usage(back)._replace(free=10**9)  # as it was before something else took the room
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert_refused(main("sync", where, back), 3, NO_ROOM, str(back))
    assert (back / "large").read_bytes() == b"good" and {path.name for path in back.iterdir()} <= {"small", "large"}
    disk.free()
    assert main("sync", where, back).returncode == 0
    assert all((back / name).read_bytes() == (here / name).read_bytes() for name in ("small", "large"))


@pytest.mark.parametrize("command", ["train", "bench", "report", "data", "run"])
def test_a_read_only_folder_is_a_failure_of_the_environment(main, writers, disk, command):
    out = disk.place / "out"
    disk.lock()
    done = main(*writers[command], "--out", out, cwd=ROOT, env={"MOROCCO_DATA": ""})
    assert_refused(done, 3, READ_ONLY, str(out))
    assert_nothing_is_done(out)


def test_results_on_a_read_only_disk_can_be_verified_and_reported_elsewhere(main, point, disk, tmp_path):
    shutil.copytree(point, disk.place / "bench")
    disk.lock()
    done = main("verify", disk.place / "bench")
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("verified: 1 step folder"), done.stdout
    assert_refused(main("report", disk.place / "bench"), 3, READ_ONLY, str(disk.place / "bench"))
    assert main("report", disk.place / "bench", "--out", tmp_path / "page").returncode == 0
