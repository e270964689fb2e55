"""Step folders in a bucket: a machine that is taken away takes the running step with it, and no finished one."""

import json
import shutil
import signal

import pytest
import s3
from helpers import ROOT, start_plan, wait_until, write_plan

from morocco_lib.artifacts import steps, storage
from morocco_lib.artifacts.bucket import Remote
from morocco_lib.pipeline.step_sync import StepSync
from morocco_lib.reasons import DISTURBED, EXIT_CODES


@pytest.fixture
def step(tmp_path):
    """Make a finished step folder of a plan; returns it."""

    def make(name: str, content: str, state: str = steps.DONE, code: int = 0):
        attempt = steps.Step.begin(tmp_path / "plan" / name, "train", parameters={"content": content}, inputs={})
        (attempt.folder / "result").write_text(content)
        if state != steps.RUNNING:
            attempt.finish(state, code)
        return attempt.folder

    return make


@pytest.fixture
def said():
    return []


@pytest.fixture
def copy(bucket, tmp_path, said):
    """Return a StepSync of a folder with the bucket."""
    return lambda name="plan", tasks=("terra",): StepSync(
        tmp_path / name, Remote(bucket, "plan/"), tasks, said.append, lambda: None
    )


def test_finished_steps_come_back_and_no_others(step, copy, tmp_path, said, s3_server):
    step("a/terra/train-1", "a")
    step("b/terra/train-2", "b", steps.FAILED)
    step("c/terra/train-3", "c", steps.RUNNING)
    retired = step("d/terra/train-4", "d")
    steps.retire(retired)
    copy().push()
    assert len(said) == 1 and "uploaded a/terra/train-1" in said[0]
    other = copy("other")
    other.fetch()
    assert [folder.name for folder, _ in steps.find_steps(tmp_path / "other")] == ["train-1"]
    fetched, status = tmp_path / "other/a/terra/train-1", steps.read_status(tmp_path / "plan/a/terra/train-1")
    assert steps.read_status(fetched) == status and steps.digest_outputs(fetched) == status["outputs"]
    s3_server.log()
    other.push()
    other.fetch()
    assert [method for method, _ in s3_server.log()] == ["GET"]  # one listing: it is known to be there


def test_a_part_fetches_what_is_of_its_tasks_or_of_none(step, copy, tmp_path):
    for name in ("a/terra/train-1", "a/rcb/train-1", "a/pretrain-1", "synthetic-1"):
        step(name, name)
    copy().push()
    copy("other", ("rcb",)).fetch()
    found = {folder.relative_to(tmp_path / "other").as_posix() for folder, _ in steps.find_steps(tmp_path / "other")}
    assert found == {"a/rcb/train-1", "a/pretrain-1", "synthetic-1"}


def test_what_is_here_is_not_fetched_over(step, copy):
    folder = step("a/terra/train-1", "first")
    copy().push()
    shutil.rmtree(folder)
    step("a/terra/train-1", "second")
    copy().fetch()
    assert (folder / "result").read_text() == "second"


@pytest.mark.parametrize(
    ("state", "code", "kept"), [(steps.FAILED, 1, True), (steps.DONE, EXIT_CODES[DISTURBED], False)]
)
def test_what_another_machine_did_better_is_fetched(step, copy, state, code, kept):
    folder = step("a/terra/train-1", "good")
    copy().push()
    shutil.rmtree(folder)
    step("a/terra/train-1", "bad", state, code)
    (folder / "more").touch()
    copy().fetch()
    assert (folder / "result").read_text() == "good" and not (folder / "more").exists()
    assert folder.with_name("train-1.1").exists() == kept  # what failed is set aside


def test_a_step_that_was_repeated_replaces_the_first_one_whole(step, copy, tmp_path):
    folder = step("a/terra/train-1", "first")
    (folder / "more").touch()
    steps.Step(folder, steps.read_status(folder)).finish(steps.DONE, 0)
    sync = copy()
    sync.push()
    shutil.rmtree(folder)
    step("a/terra/train-1", "second")
    sync.push()
    copy("other").fetch()
    fetched = tmp_path / "other/a/terra/train-1"
    assert steps.digest_outputs(fetched) == steps.read_status(fetched)["outputs"] and not (fetched / "more").exists()


def test_a_step_that_arrives_damaged_is_left_out(step, copy, tmp_path, said, s3_server, bucket):
    step("a/terra/train-1", "a")
    step("b/terra/train-2", "b")
    copy().push()
    key = {"Bucket": bucket, "Key": "plan/a/terra/train-1/result"}
    s3_server.client.put_object(**key, Body=b"x", Metadata=s3_server.client.head_object(**key)["Metadata"])
    copy("other").fetch()
    assert [folder.name for folder, _ in steps.find_steps(tmp_path / "other")] == ["train-2"]
    assert any("is damaged (result has the sha256" in line for line in said)


def test_a_fetch_that_was_killed_goes_on(step, copy, tmp_path, bucket):
    folder = step("a/terra/train-1", "a")
    copy().push()
    half = tmp_path / "other/a/terra/train-1"
    storage.sync(Remote(bucket, "plan/a/terra/train-1/"), half)
    (half / steps.STATUS).unlink()  # it comes last
    copy("other").fetch()
    assert steps.read_status(half) == steps.read_status(folder)


def test_an_upload_that_fails_is_said_and_made_up_for(step, copy, said, s3_server):
    step("a/terra/train-1", "a")
    sync = copy()
    s3_server.tell(deny=s3.KEY)
    sync.push()
    assert sync.error.exit_code == 3 and "SignatureDoesNotMatch" in said[0] and "canary" not in said[0]
    s3_server.tell()
    step("b/terra/train-2", "b")
    sync.push()
    assert sync.error is None and len(said) == 3


def test_a_step_that_cannot_be_uploaded_does_not_keep_back_the_others(step, copy, said):
    (step("a/terra/train-1", "a") / "back\\slash").touch()
    step("b/terra/train-2", "b")
    sync = copy()
    sync.push()
    assert sync.error.exit_code == 2 and "train-1 is not uploaded" in said[0] and "uploaded b/terra/train-2" in said[1]


def test_names_that_lead_elsewhere_are_refused(bucket, copy, tmp_path, s3_server):
    s3_server.client.put_object(Bucket=bucket, Key="plan/../../evil/status.json", Body=b"{}")
    with pytest.raises(Exception, match="is no name of a file"):
        copy().fetch()
    assert list(tmp_path.iterdir()) == []


# -- whole plans ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_plan_that_was_killed_goes_on_here_and_where_its_folder_is_not(main, tmp_path, bucket, s3_server):
    plan, out = write_plan(tmp_path, steps=["train", "bench", "report"], input_size=20_000), tmp_path / "out"
    words = ("run", plan, "--out", out, "--sync", f"s3://{bucket}/plan", "--json")
    process = start_plan(plan, out, "killed", "--sync", f"s3://{bucket}/plan")
    assert wait_until(lambda: list(out.glob("*/terra/bench-*/runs/.01.partial/chunks.jsonl")), 200)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=200)
    (trained,), (killed,) = out.glob("majority/terra/train-*"), out.glob("majority/terra/bench-*")
    status = (trained / steps.STATUS).read_text()
    assert main("verify", out).returncode == 1
    for lost, states in ((trained, ["kept", "done", "done"]), (out, ["kept"] * 3)):
        shutil.rmtree(lost)
        done = main(*words, cwd=ROOT, env={"MOROCCO_DATA": ""})
        assert done.returncode == 0, done.stderr
        assert [s["state"] for s in json.loads(done.stdout)["steps"]] == states
        assert (trained / steps.STATUS).read_text() == status and main("verify", out).returncode == 0
        if lost == trained:
            assert steps.read_status(killed.with_name(f"{killed.name}.1"))["state"] == "killed"
    assert not [path for path in out.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
    s3_server.tell(fail=10**6, status=503)
    shutil.rmtree(out)
    done = main(*words, cwd=ROOT, env={"MOROCCO_DATA": ""})
    assert done.returncode == 3 and "run the command again" in done.stderr and not list(out.rglob(steps.STATUS))


@pytest.mark.slow
def test_a_bucket_that_fails_does_not_stop_a_plan_and_is_in_its_exit_code(main, tmp_path, bucket, s3_server):
    plan, out = write_plan(tmp_path, steps=["train"]), tmp_path / "out"
    s3_server.tell(after=3, fail=10**6, status=503)  # a listing works
    words = ("run", plan, "--out", out, "--sync", f"s3://{bucket}/plan", "--json")
    done = main(*words, cwd=ROOT, env={"MOROCCO_DATA": ""})
    summary = json.loads(done.stdout)
    assert done.returncode == summary["exit"] == 3 and summary["verified"], done.stderr
    assert [s["state"] for s in summary["steps"]] == ["done"] and "not uploaded" in done.stderr


@pytest.mark.slow
def test_parts_of_a_plan_on_machines_of_their_own_make_the_whole(main, tmp_path, bucket):
    plan, out = write_plan(tmp_path, tasks=["terra", "rcb"], steps=["train", "eval"]), tmp_path / "out"

    def run(*options):
        words = ("run", plan, "--out", out, "--sync", f"s3://{bucket}/plan", "--json", *options)
        done = main(*words, cwd=ROOT, env={"MOROCCO_DATA": ""})
        assert done.returncode == 0, done.stderr
        return [(s["task"], s["step"], s["state"]) for s in json.loads(done.stdout)["steps"]]

    for part, task in (("1/2", "terra"), ("2/2", "rcb")):
        assert run("--shard", part) == [(task, "train", "done"), (task, "eval", "done")]
        shutil.rmtree(out)  # another machine
    assert [state for _, _, state in run()] == ["kept"] * 4 and main("verify", out).returncode == 0
