"""Folders in buckets on another implementation than moto's: OpenStack Swift, which checks signatures and refuses batches."""

import os
import subprocess
import sys
from unittest import mock

import pytest
import s3
import swift
from helpers import environment, wait_until
from s3 import content, fill

from morocco_lib.artifacts.bucket import MANIFEST, Remote
from morocco_lib.artifacts.storage import SCRATCH, sync
from morocco_lib.errors import EnvironmentFailure

MANY = 1010  # more than the 1,000 keys of a listing's page


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    if reason := swift.why_none():
        (pytest.fail if os.environ.get("MOROCCO_STRICT") else pytest.skip)(reason)
    with swift.running(tmp_path_factory.mktemp("swift")) as found:
        yield found


@pytest.fixture(scope="module")
def client(address):
    """A client of the server with a bucket; our environment leads there."""
    import boto3

    env = s3.environment(address) | {"AWS_ACCESS_KEY_ID": swift.KEY, "AWS_SECRET_ACCESS_KEY": swift.SECRET}
    with mock.patch.dict(os.environ, env):
        del os.environ["AWS_SESSION_TOKEN"]
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield client


def test_a_folder_of_many_files_and_a_large_one_comes_back(client, tmp_path):
    here, there = tmp_path / "here", Remote("bucket", "many/")
    small = {f"{number % 7}/файл {number}": b"%d" % number for number in range(MANY)}
    files = small | {"weights": os.urandom(20 << 20), "empty": b""}
    fill(here, files)
    assert len(sync(here, there).transferred) == len(files)
    assert sync(here, there).unchanged == len(files)
    done = sync(there, tmp_path / "back")
    assert (done.wrong, done.unverified) == ([], 0) and content(tmp_path / "back") == files
    assert sync(there, tmp_path / "back").unchanged == len(files)
    for name in list(small)[:20]:
        (here / name).unlink()
    assert len(sync(here, there, delete=True).deleted) == 20
    assert len(sync(there, tmp_path / "back", delete=True).deleted) == 20
    assert content(tmp_path / "back") == content(here)


def test_a_part_comes_with_its_digests_and_another_tool_is_noticed(client, tmp_path):
    fill(tmp_path / "here", {"a/x": b"one", "b": b"two"})
    sync(tmp_path / "here", Remote("bucket", "exps/06/"))
    assert sync(Remote("bucket", "exps/06/a/"), tmp_path / "part").unverified == 0
    assert sync(Remote("bucket", "exps/"), tmp_path / "all").unverified == 0

    def overwritten() -> bool:  # times are in seconds
        client.put_object(Bucket="bucket", Key="exps/06/b", Body=b"owt")
        return sync(tmp_path / "here", Remote("bucket", "exps/06/"), dry_run=True).transferred == ["b"]

    assert wait_until(overwritten, 5)


def test_wrong_keys_are_named(client, tmp_path, monkeypatch):
    fill(tmp_path / "here", {"a": b"a"})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-wrong")
    with pytest.raises(EnvironmentFailure, match="SignatureDoesNotMatch; see AWS_ACCESS_KEY_ID") as found:
        sync(tmp_path / "here", Remote("bucket", "x/"))
    assert "canary" not in str(found.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", swift.SECRET)
    with pytest.raises(EnvironmentFailure, match="NoSuchBucket; create the bucket"):
        sync(tmp_path / "here", Remote("missing", "x/"))


def test_killed_at_many_moments_nothing_is_half_written_and_it_goes_on(client, tmp_path):
    there = Remote("bucket", "killed/")
    files = {f"{number}": os.urandom(100_000) for number in range(100)} | {"w": os.urandom(20 << 20)}
    fill(tmp_path / "here", files)
    fill(tmp_path / "back", dict.fromkeys(files, b"old"))

    def killed(after_s: float, *words) -> None:
        argv = [sys.executable, "-m", "morocco_lib", "sync", *map(str, words)]
        process = subprocess.Popen(argv, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: process.poll() is not None, after_s)
        process.kill()
        process.wait()

    for moment in range(5):
        killed(0.8 + moment / 2, tmp_path / "here", there)
    sync(tmp_path / "here", there)
    assert not client.list_multipart_uploads(Bucket="bucket").get("Uploads")
    assert sync(tmp_path / "here", there).unchanged == len(files)
    for moment in range(5):
        killed(0.8 + moment / 3, there, tmp_path / "back")
        now = {name: raw for name, raw in content(tmp_path / "back").items() if not name.startswith(SCRATCH)}
        assert all(raw in (files[name], b"old") for name, raw in now.items()) and len(now) == len(files)
    assert sync(there, tmp_path / "back").wrong == [] and content(tmp_path / "back") == files
    listed = client.get_object(Bucket="bucket", Key=f"killed/{MANIFEST}")["Body"].read().count(b"\n")
    assert listed == len(files)
