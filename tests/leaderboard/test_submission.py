"""Submissions: packed, signed, verified, and refused where they are not what they were."""

import json
import shutil
import subprocess
import zipfile

import pytest
import submissions

from morocco_lib.artifacts import steps
from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError
from morocco_lib.leaderboard import signature, submission
from morocco_lib.legacy import logs, stats


@pytest.fixture
def outputs(tmp_path, val):
    submissions.bench_step(tmp_path / "out/m/terra/bench-1", val)
    return tmp_path / "out"


# -- packed --------------------------------------------------------------------------------------------------------
def test_what_is_packed_can_be_read_by_sha256sum_and_holds_finished_steps_alone(main, outputs, tmp_path, val):
    retired = submissions.bench_step(outputs / "m/terra/bench-2", val)
    steps.retire(retired)
    steps.Step.begin(outputs / "m/terra/bench-3", "bench", model="m", task="terra", parameters={}, inputs={}).finish(
        steps.FAILED, 1
    )
    steps.Step.begin(outputs / "m/terra/train-1", "train", model="m", task="terra", parameters={}, inputs={}).finish(
        steps.DONE, 0
    )
    done = main("pack", outputs, "-o", tmp_path / "s.zip")
    assert (done.returncode, done.stdout) == (0, f"m on terra, batch 8: VALID\n{tmp_path / 's.zip'}\n"), done.stderr
    assert "not signed" in done.stderr
    with zipfile.ZipFile(tmp_path / "s.zip") as box:
        box.extractall(tmp_path / "open")
    assert {path.name for path in (tmp_path / "open").iterdir()} == {"SHA256SUMS", "submission.json", "steps"}
    assert [path.name for path in (tmp_path / "open/steps/m/terra").iterdir()] == ["bench-1"]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path / "open", check=True)
    (point,) = json.loads((tmp_path / "open/submission.json").read_text())["points"]
    assert (point["task"], point["batch_size"], point["bench_folder"]) == ("terra", 8, "m/terra/bench-1")
    submission.pack(outputs / "m/terra/bench-1", tmp_path / "one.zip")  # a step folder itself
    assert submission.verify_archive(tmp_path / "one.zip")[-1].ok


def test_what_cannot_be_packed_is_said(outputs, tmp_path):
    (tmp_path / "there.zip").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="never overwritten"):
        submission.pack(outputs, tmp_path / "there.zip")
    with pytest.raises(UsageError, match="no finished bench or eval"):
        submission.pack(tmp_path / "empty", tmp_path / "s.zip")
    with pytest.raises(UsageError, match="no bench has runs of one record"):
        submission.pack(outputs, tmp_path / "s.zip", original=True)
    with pytest.raises(UsageError, match="cannot sign with"):
        submission.pack(outputs, tmp_path / "s.zip", key=tmp_path / "no-key")
    with pytest.raises(EnvironmentFailure, match="cannot write"):
        submission.pack(outputs, tmp_path / "no/folder/s.zip")
    (outputs / "m/terra/bench-1/bench.json").write_text("{}")
    with pytest.raises(InvalidResult, match="only what verifies is packed"):
        submission.pack(outputs, tmp_path / "s.zip")
    assert not (tmp_path / "s.zip").exists()


def test_the_founding_layout_is_read_by_the_original_rules(main, tmp_path, val):
    submissions.bench_step(tmp_path / "out/m/terra/bench-1", val, ones=3)
    done = main("pack", tmp_path / "out", "-o", tmp_path / "s.zip", "--original", "--json")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "s.zip") as box:
        names = {f"benches/m/terra/{size}_0{k}.jsonl" for size in ("1_1", "80_8") for k in (1, 2, 3)}
        assert set(box.namelist()) == names | {"SHA256SUMS"}
        box.extractall(tmp_path / "open")
    ((_, members),) = logs.by_cell(logs.read_all([tmp_path / "open/benches"])).items()
    assert stats.original(members, "command").rps == pytest.approx(500, rel=0.1)
    assert main("verify", tmp_path / "s.zip").returncode == 0


# -- signed --------------------------------------------------------------------------------------------------------
def test_verify_says_who_signed_and_what_an_unsigned_archive_cannot_prove(main, submit, honest, keys):
    signed = submit("signed", key=keys / "alice")
    unsigned = main("verify", honest)
    assert unsigned.returncode == 0
    assert (
        "not signed: the digests show that nothing was changed since it was packed, not who packed it"
        in unsigned.stdout
    )
    assert "verified: 1 step folder" in unsigned.stdout
    done = main("verify", signed, "--signed-by", keys / "allowed")
    assert done.returncode == 0 and "signed by alice@example.org (ED25519 SHA256:" in done.stdout
    assert "signed by a key that nobody vouches for" in main("verify", signed).stdout
    for archive in (honest, submit("mallory", key=keys / "mallory")):
        done = main("verify", archive, "--signed-by", keys / "allowed")
        assert done.returncode == 1 and "FAILED  s.zip: signature:" in done.stdout
    assert main("verify", signed.parent, "--signed-by", keys / "allowed").returncode == 2
    missing = main("verify", signed, "--signed-by", keys / "none")
    assert missing.returncode == 2 and "no file" in missing.stderr
    assert [f["what"] for f in json.loads(main("verify", signed, "--json").stdout)["findings"]][:2] == [
        "archive",
        "signature",
    ]


def test_a_signature_of_other_digests_or_for_another_use_is_refused(submit, repacked, keys, tmp_path):
    signed = submit("signed", key=keys / "alice")
    (finding,) = submission.verify_archive(
        repacked(signed, lambda step: (step / "more").write_text("")), keys / "allowed"
    )
    assert not finding.ok and finding.seen.startswith("SIGNATURE: ")
    (tmp_path / "sums").write_text("x")
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", keys / "alice", "-n", "git", tmp_path / "sums"]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(InvalidResult, match="made for something else"):
        signature.signer(tmp_path / "sums", tmp_path / "sums.sig")


def test_an_allowed_key_counts_for_its_time_alone(submit, keys, tmp_path):
    signed = submit("signed", key=keys / "alice")
    public = (keys / "alice.pub").read_text()
    (tmp_path / "allowed").write_text(f'alice@example.org valid-before="20200101" {public}')
    assert not submission.verify_archive(signed, tmp_path / "allowed")[1].ok


def test_without_ssh_keygen_it_is_said(submit, keys, monkeypatch, tmp_path):
    signed = submit("signed", key=keys / "alice")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFailure, match="ssh-keygen is not installed"):
        submission.verify_archive(signed)


def test_a_disk_that_is_full_is_no_fault_of_the_archive(honest, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(EnvironmentFailure, match="No space left"):
        submission.verify_archive(honest)
