"""Step folders: what names an attempt, what is kept of it, and what happens to one that was interrupted."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import morocco_lib
from morocco_lib import fileio
from morocco_lib.artifacts import steps
from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError

DIGEST = "0" * 64
# Without what a git hook would set, or git would work on the checkout the tests run in.
ENV = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def begin(folder, inputs=None, **parameters) -> steps.Step:
    return steps.Step.begin(folder, "bench", model="tfidf", task="terra", parameters=parameters, inputs=inputs or {})


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# -- the key -------------------------------------------------------------------------------------------------------
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5), scalars, max_size=5), st.randoms(use_true_random=False))
def test_the_key_does_not_depend_on_the_order_of_parameters(parameters, rng):
    shuffled = dict(rng.sample(list(parameters.items()), len(parameters)))
    inputs = {"a": DIGEST, "b": "1" * 64}
    key = steps.make_key("bench", parameters, inputs)
    assert key == steps.make_key("bench", shuffled, dict(reversed(inputs.items())))
    assert len(key) == 8 and int(key, 16) >= 0


@pytest.mark.parametrize(
    "changed",
    [
        ("train", {"n": 1, "s": "a"}, {"data": DIGEST}),
        ("bench", {"n": 2, "s": "a"}, {"data": DIGEST}),
        ("bench", {"n": "1", "s": "a"}, {"data": DIGEST}),
        ("bench", {"n": 1, "s": "a"}, {"data": "1" + DIGEST[1:]}),
        ("bench", {"n": 1, "s": "a"}, {"gold": DIGEST}),
    ],
)
def test_the_key_depends_on_step_parameters_and_inputs(changed):
    assert steps.make_key(*changed) != steps.make_key("bench", {"n": 1, "s": "a"}, {"data": DIGEST})


def test_the_key_depends_on_the_version(monkeypatch):
    before = steps.make_key("bench", {}, {})
    monkeypatch.setattr(morocco_lib, "__version__", morocco_lib.__version__ + ".1")
    assert steps.make_key("bench", {}, {}) != before


def test_the_key_does_not_depend_on_places(tmp_path):
    keys = []
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "val.jsonl").write_bytes(content)
        step = begin(tmp_path / name / "step", {"data": tmp_path / name / "val.jsonl"}, seed=1)
        keys.append(step.status["key"])
    assert keys[0] == keys[1] != keys[2]


# -- beginning -----------------------------------------------------------------------------------------------------
def test_a_new_or_empty_folder_is_begun_with_the_status_running(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty"):
        begin(folder, seed=3)
        status = steps.read_status(folder)
        assert (status["state"], status["exit"], status["parameters"]) == (steps.RUNNING, None, {"seed": 3})
        assert status["owner"]["pid"] == os.getpid() and steps.is_alive(status)
        assert names(folder) == [steps.STATUS]


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / ".hidden").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in ("used", "file"):
        with pytest.raises(UsageError, match="is not empty; a result is never overwritten"):
            begin(tmp_path / place)
    assert names(tmp_path / "used") == [".hidden"] and (tmp_path / "file").read_text() == "mine"


def test_a_running_or_finished_step_is_not_begun_again(tmp_path):
    with begin(tmp_path / "step"), pytest.raises(UsageError, match="is not empty"):
        begin(tmp_path / "step")
    with pytest.raises(UsageError, match="is not empty"):
        begin(tmp_path / "step")
    assert steps.read_status(tmp_path / "step")["state"] == steps.DONE


def test_a_step_that_ends_before_it_began_by_the_clock_is_done(tmp_path, monkeypatch):
    dates = iter(["2030-01-01T00:00:00.000Z", "2020-01-01T00:00:00.000Z"])
    monkeypatch.setattr(steps, "now", lambda: next(dates))
    with begin(tmp_path / "step"):
        pass
    status = steps.read_status(tmp_path / "step")
    assert status["state"] == steps.DONE and status["ended"] < status["started"]


def test_an_input_that_is_missing_is_refused_before_the_folder_is_made(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*val\.jsonl"):
        begin(tmp_path / "step", {"data": tmp_path / "val.jsonl"})
    assert not (tmp_path / "step").exists()


def test_a_folder_that_cannot_be_made_is_a_failure_of_the_environment(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailure, match="cannot write"):
        begin(tmp_path / "file" / "step")


def test_inputs_are_recorded_with_their_digest_near_ones_relative(tmp_path):
    near, far = tmp_path / "plan" / "data" / "val.jsonl", tmp_path / "val.jsonl"
    near.parent.mkdir(parents=True)
    near.write_bytes(b"near")
    far.write_bytes(b"far")
    folder = tmp_path / "plan" / "tfidf" / "terra" / "bench-1"
    inputs = begin(folder, {"near": near, "far": far}).status["inputs"]
    assert inputs == {
        "../../../data/val.jsonl": hashlib.sha256(b"near").hexdigest(),
        str(far.resolve()): hashlib.sha256(b"far").hexdigest(),
    }


# -- finishing -----------------------------------------------------------------------------------------------------
def test_finish_digests_every_file_but_status_and_nested_steps(tmp_path):
    folder = tmp_path / "step"
    with begin(folder):
        (folder / "runs" / "01").mkdir(parents=True)
        (folder / "runs" / "01" / "answers.jsonl").write_bytes(b"a\n")
        (folder / "runs" / "01" / steps.STATUS[1:]).write_bytes(b"not the status")
        (folder / ".hidden").write_bytes(b"")
        (folder / "имя с пробелом").write_bytes(bytes(range(256)))
        with begin(folder / "nested"):
            (folder / "nested" / "own.txt").write_text("x")
    status = steps.read_status(folder)
    expected = {".hidden", "имя с пробелом", "runs/01/answers.jsonl", f"runs/01/{steps.STATUS[1:]}"}
    assert set(status["outputs"]) == expected
    for name, digest in status["outputs"].items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert set(steps.read_status(folder / "nested")["outputs"]) == {"own.txt"}
    assert (status["state"], status["exit"], status["error"]) == (steps.DONE, 0, None)
    assert status["started"] <= status["ended"]


@pytest.mark.parametrize(
    ("error", "state", "exit_code"),
    [
        (InvalidResult("bad"), steps.FAILED, 1),
        (UsageError("bad"), steps.FAILED, 2),
        (RuntimeError("bad"), steps.FAILED, 3),
        (KeyboardInterrupt("bad"), steps.KILLED, 3),
    ],
)
def test_an_error_in_a_step_is_recorded_and_goes_on(tmp_path, error, state, exit_code):
    with pytest.raises(type(error)), begin(tmp_path / "step") as step:
        (step.folder / "half").write_text("x")
        raise error
    status = steps.read_status(tmp_path / "step")
    assert (status["state"], status["exit"], status["error"]) == (state, exit_code, f"{type(error).__name__}: bad")
    assert set(status["outputs"]) == {"half"}


def test_a_state_set_by_hand_is_kept(tmp_path):
    with begin(tmp_path / "step") as step:
        step.finish(steps.DONE, 1)
    status = steps.read_status(tmp_path / "step")
    assert (status["state"], status["exit"]) == (steps.DONE, 1)


def test_a_changed_value_shows_even_when_the_text_is_tidy(tmp_path):
    with begin(tmp_path / "step", seed=1):
        pass
    status = steps.read_status(tmp_path / "step")
    for key in status.keys() - {"seal"}:
        assert steps.seal({**status, key: "other"})["seal"] != status["seal"]
        assert steps.seal({k: v for k, v in status.items() if k != key})["seal"] != status["seal"]


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot read"), ("{", "is broken"), ("[]", "is broken"), ('{"schema": 99}', "schema 99")],
)
def test_a_status_that_cannot_be_read_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / steps.STATUS).write_text(text)
    with pytest.raises(UsageError, match=message):
        steps.read_status(tmp_path)


def test_steps_are_found_the_oldest_first(tmp_path):
    for name in ("c", "a", "b/b"):
        with begin(tmp_path / name) as step:
            step.status["started"] = f"2024-01-01T00:00:0{'cab'.index(name[0])}Z"
    assert [folder.name for folder, _ in steps.find_steps(tmp_path)] == ["c", "a", "b"]


# -- writing -------------------------------------------------------------------------------------------------------
def fail(*args):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("where", "before"), [("replace", "old"), ("fsync", None), ("content", "old")])
def test_a_write_that_fails_leaves_no_half_file(tmp_path, monkeypatch, before, where):
    path = tmp_path / "result.json"
    if before:
        path.write_text(before)
    text = "x" * 100_000
    if where == "content":
        text += "\ud800"  # cannot be encoded, which shows after most of it was written
    else:
        monkeypatch.setattr(os, where, fail)
    with pytest.raises((OSError, ValueError)):
        fileio.write_text(path, text)
    assert names(tmp_path) == (["result.json"] if before else [])
    assert not before or path.read_text() == before


def test_a_written_file_can_be_read_by_others_and_nothing_else_is_left(tmp_path):
    fileio.write_json(tmp_path / "a.json", {"ключ": [1, None]})
    assert names(tmp_path) == ["a.json"] and (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644
    assert "ключ" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert fileio.read_json(tmp_path / "a.json") == {"ключ": [1, None]}


def test_json_that_cannot_be_read_is_refused_by_name(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for name in ("broken.json", "missing.json"):
        with pytest.raises(UsageError, match=f"cannot read .*{name}"):
            fileio.read_json(tmp_path / name)


# -- setting aside -------------------------------------------------------------------------------------------------
def test_earlier_attempts_are_renamed_and_stay(tmp_path):
    folder = tmp_path / "bench-12345678"
    assert steps.retire(folder) is None
    for number in (1, 2, 3):
        with begin(folder) as step:
            (step.folder / "which").write_text(str(number))
        target = steps.retire(folder)
        assert target == tmp_path / f"bench-12345678.{number}" and not folder.exists()
        status = steps.read_status(target)
        assert steps.is_retired(status) and status == steps.seal(dict(status))
    assert [(tmp_path / f"bench-12345678.{n}" / "which").read_text() for n in (1, 2, 3)] == ["1", "2", "3"]
    assert steps.read_status(target)["state"] == steps.DONE


BEGIN_AND_WAIT = """
import sys, time
from pathlib import Path
from morocco_lib.artifacts import steps
step = steps.Step.begin(Path(sys.argv[1]), "bench", parameters={}, inputs={})
(step.folder / "answers.jsonl").write_text("half")
print("begun", flush=True)
time.sleep(60)
"""


@pytest.fixture
def running(tmp_path):
    """A step begun by another process, and that process."""
    folder = tmp_path / "step"
    argv = [sys.executable, "-c", BEGIN_AND_WAIT, folder]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert process.stdout.readline() == "begun\n"
    yield folder, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_step_that_runs_is_not_set_aside(running):
    folder, process = running
    with pytest.raises(EnvironmentFailure, match=f"being worked on by process {process.pid}"):
        steps.retire(folder)
    assert steps.read_status(folder)["state"] == steps.RUNNING


def test_a_step_whose_process_was_killed_is_marked_so_and_set_aside(running):
    folder, process = running
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie: its parent has not waited yet
    target = steps.retire(folder)
    status = steps.read_status(target)
    assert (target.name, status["state"], status["exit"]) == ("step.1", steps.KILLED, 3)
    assert f"process {process.pid} died" in status["error"]
    assert status["outputs"] == {"answers.jsonl": hashlib.sha256(b"half").hexdigest()}
    assert steps.seal(status) == status
    with begin(folder):
        pass


@pytest.mark.parametrize("change", [{"boot_id": "another"}, {"start_ticks": 1}, {"start_ticks": None}])
def test_a_process_number_alone_does_not_make_a_step_alive(running, change):
    folder, _ = running
    status = steps.read_status(folder)
    assert steps.is_alive(status)
    assert not steps.is_alive({**status, "owner": {**status["owner"], **change}})


# -- what code made it ---------------------------------------------------------------------------------------------
def facts(code_dir: Path, **env) -> dict:
    code = "import json; from morocco_lib.artifacts import steps; print(json.dumps(steps.code_facts()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, check=True, text=True, cwd=code_dir, env={**ENV, "PYTHONPATH": str(code_dir), **env},
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.fixture
def checkout(tmp_path):
    """A copy of the package in a git checkout, everything committed."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    shutil.copytree(ROOT / "morocco_lib", tmp_path / "morocco_lib", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".gitignore").write_text("__pycache__/\n")

    def git(*args) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *args], check=True, capture_output=True, text=True, env=ENV
        ).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    return tmp_path, git


def test_the_commit_is_recorded_and_whether_anything_was_changed(checkout, monkeypatch):
    folder, git = checkout
    clean = {"version": morocco_lib.__version__, "commit": git("rev-parse", "HEAD"), "dirty": False, "uncommitted": []}
    (folder / "outputs").mkdir()
    (folder / "outputs" / "result").write_text("not code")
    (folder / "params").mkdir()
    (folder / "params" / "mine.yaml").write_text("my own")
    assert facts(folder) == clean
    (folder / "morocco_lib" / "errors.py").write_text("# changed\n" + (folder / "morocco_lib/errors.py").read_text())
    (folder / "morocco_lib" / "mine.py").write_text("")
    changed = {**clean, "dirty": True, "uncommitted": ["morocco_lib/errors.py", "morocco_lib/mine.py"]}
    assert facts(folder) == changed
    text = " with uncommitted changes in morocco_lib/errors.py, morocco_lib/mine.py"
    assert steps.uncommitted_text(changed) == text and steps.uncommitted_text(clean) == ""
    monkeypatch.setattr(steps, "code_facts", lambda: changed)
    assert steps.code_text() == f"morocco {clean['version']}, {clean['commit'][:10]}{text}"
    monkeypatch.setattr(steps, "code_facts", lambda: {**clean, "commit": None})
    assert steps.code_text() == f"morocco {clean['version']}, not a git checkout"


def test_without_git_or_inside_another_projects_checkout_the_commit_is_unknown(checkout):
    folder, git = checkout
    unknown = {"version": morocco_lib.__version__, "commit": None, "dirty": None, "uncommitted": []}
    assert facts(folder, PATH="") == unknown
    git("rm", "-q", "-r", "--cached", "morocco_lib")
    git("commit", "-q", "-m", "without the code")
    assert facts(folder) == unknown


def test_a_step_whose_end_could_not_be_written_does_not_block_the_next_attempt(tmp_path, monkeypatch):
    step = begin(tmp_path / "step")
    assert steps.is_alive(steps.read_status(step.folder))
    with monkeypatch.context() as patch:
        patch.setattr(fileio, "write_json", fail)
        with pytest.raises(EnvironmentFailure, match="No space left"):
            step.finish(steps.DONE, 0)
    assert steps.read_status(step.folder)["state"] == steps.RUNNING and not steps.is_alive(step.status)
    with begin(tmp_path / "step"):
        assert steps.read_status(tmp_path / "step.1")["state"] == steps.KILLED


def test_an_input_that_can_be_read_once_only_is_refused(tmp_path):
    os.mkfifo(tmp_path / "records")
    with pytest.raises(UsageError, match=r"records is not a regular file; .*; save it as a file"):
        begin(tmp_path / "step", inputs={"data": tmp_path / "records"})
    assert not (tmp_path / "step").exists()
