"""Folders in buckets: only what differs is transferred, and nothing that is not whole replaces anything, whatever happens."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import founding
import pytest
import s3
from faults import assert_refused
from helpers import ROOT, console_blocks, copy_project, environment, run_as_shown, wait_until
from s3 import content, fill

from morocco_lib.artifacts import storage
from morocco_lib.artifacts.bucket import MANIFEST, Remote
from morocco_lib.artifacts.storage import sync
from morocco_lib.errors import EnvironmentFailure, UsageError

FILES = {"a.txt": b"one", "empty": b"", "deep/er/b.bin": bytes(range(256)) * 40, "deep/кот и пёс.txt": "мяу".encode()}
MULTIPART = 9 << 20  # bytes; boto3 sends 8 MiB at once


@pytest.fixture
def here(tmp_path) -> Path:
    return fill(tmp_path / "here", FILES)


@pytest.fixture
def there(bucket) -> Remote:
    return Remote(bucket, "exps/06/")


@pytest.fixture
def keys(s3_server, bucket):
    """Return the keys in the bucket."""
    pages = s3_server.client.get_paginator("list_objects_v2")
    return lambda: {item["Key"] for page in pages.paginate(Bucket=bucket) for item in page.get("Contents", ())}


@pytest.fixture
def requests(s3_server):
    """Return how many requests of a method there were since it was last asked; None: of all."""
    return lambda method: sum(method in (None, one) for one, _ in s3_server.log())


@pytest.fixture
def put(s3_server, bucket):
    """Put an object as another tool does."""
    return lambda key, body: s3_server.client.put_object(Bucket=bucket, Key=key, Body=body)


# -- what is transferred -------------------------------------------------------------------------------------------
def test_a_folder_comes_back_byte_for_byte(here, there, tmp_path):
    done = sync(here, there)
    assert set(done.transferred) == set(FILES) and done.bytes == sum(map(len, FILES.values()))
    assert set(sync(there, tmp_path / "back").transferred) == set(FILES)
    assert content(tmp_path / "back") == FILES and os.listdir(tmp_path / "back") == os.listdir(here)


def test_sha256sum_reads_the_manifest(here, there, s3_server):
    sync(here, there)
    text = s3_server.client.get_object(Bucket=there.bucket, Key=f"exps/06/{MANIFEST}")["Body"].read()
    done = subprocess.run(["sha256sum", "--check", "--strict"], input=text, cwd=here, capture_output=True, check=False)
    assert done.returncode == 0 and done.stdout.decode().count(": OK") == len(FILES), done.stderr


def test_what_is_the_same_is_not_transferred_again(here, there, tmp_path, requests):
    sync(here, there)
    requests(None)
    assert sync(here, there).unchanged == len(FILES) and requests("PUT") == 0
    sync(there, tmp_path / "back")
    requests(None)
    assert (
        sync(there, tmp_path / "back").transferred == [] and requests(None) == 4
    )  # a listing, SHA256SUMS here and above
    (here / "a.txt").write_bytes(b"two")  # of the same size
    (tmp_path / "back/empty").write_bytes(b"x")
    assert sync(here, there).transferred == ["a.txt"] and requests("PUT") == 2
    assert sorted(sync(there, tmp_path / "back").transferred) == ["a.txt", "empty"]
    assert content(tmp_path / "back") == FILES | {"a.txt": b"two"}


def test_more_files_than_a_page_of_a_listing_holds(there, tmp_path, requests):
    files = {f"{number:03}": b"%d" % number for number in range(70)}
    fill(tmp_path / "many", files)
    sync(tmp_path / "many", there)
    requests(None)
    assert sync(tmp_path / "many", there).unchanged == 70 and requests("GET") == 4 + 3 + 1  # pages, SHA256SUMS, parts
    sync(there, tmp_path / "back")
    assert content(tmp_path / "back") == files


def test_a_part_of_what_was_uploaded_can_be_fetched_and_parts_together(here, there, tmp_path, bucket, requests):
    sync(here, there)
    sync(fill(tmp_path / "seven", {"c": b"seven"}), Remote(bucket, "exps/07/"))
    requests(None)
    sync(Remote(bucket, "exps/06/deep/"), tmp_path / "deep")
    sync(Remote(bucket, "exps/"), tmp_path / "all")
    assert requests("HEAD") == 0  # the digests of SHA256SUMS were known, above and below
    assert content(tmp_path / "deep") == {"er/b.bin": FILES["deep/er/b.bin"], "кот и пёс.txt": "мяу".encode()}
    assert content(tmp_path / "all") == {f"06/{name}": raw for name, raw in FILES.items()} | {"07/c": b"seven"}


def test_what_stays_in_the_bucket_keeps_its_digest(here, there, tmp_path, requests):
    sync(here, there)
    (here / "a.txt").unlink()
    (here / "new").write_bytes(b"n")
    sync(here, there)
    requests(None)
    assert sync(there, tmp_path / "back").unverified == 0 and requests("HEAD") == 0
    assert content(tmp_path / "back") == FILES | {"new": b"n"}


def test_the_newest_of_several_manifests_holds(here, there, tmp_path, bucket, keys, s3_server):
    sync(here, there)
    at = s3_server.client.head_object(Bucket=bucket, Key=f"exps/06/{MANIFEST}")["LastModified"]
    head = s3_server.client.head_object
    probe = {"Bucket": bucket, "Key": "probe"}
    assert wait_until(lambda: s3_server.client.put_object(**probe) and head(**probe)["LastModified"] > at)  # seconds
    sync(fill(tmp_path / "deep", {"er/b.bin": b"new", "more": b"m"}), Remote(bucket, "exps/06/deep/"), delete=True)
    done = sync(there, tmp_path / "back")
    assert done.wrong == [] and done.unverified == 0
    deep = {"deep/er/b.bin": b"new", "deep/more": b"m"}
    assert content(tmp_path / "back") == {"a.txt": b"one", "empty": b"", **deep}


def test_what_other_tools_wrote_is_fetched_and_said_to_be_unchecked(put, there, tmp_path):
    put("exps/06/x", b"x")
    put("exps/06/folder/", b"")  # how some mark a folder
    put("exps/061/y", b"no neighbour")
    done = sync(there, tmp_path / "back")
    assert done.unverified == 1 and "1 of them without a sha256" in done.text()
    assert content(tmp_path / "back") == {"x": b"x"}


def test_a_dry_run_changes_nothing(here, there, tmp_path, keys, requests):
    sync(here, there, dry_run=True, delete=True)
    assert keys() == set()
    sync(here, there)
    before = keys()
    (here / "a.txt").unlink()
    (here / "new").write_bytes(b"n")
    requests(None)
    done = sync(here, there, dry_run=True, delete=True)
    assert (done.transferred, done.deleted) == (["new"], ["a.txt"]) and keys() == before and requests("PUT") == 0
    sync(there, tmp_path / "back", dry_run=True)
    assert not (tmp_path / "back").exists()


def test_only_delete_deletes_and_only_below_the_folder(put, here, there, keys, tmp_path):
    put("exps/061/neighbour", b"")
    put("exps/06/old", b"")
    sync(here, there)
    assert {"exps/06/old", "exps/061/neighbour"} < keys()
    assert sync(here, there, delete=True).deleted == ["old"]
    assert keys() == {f"exps/06/{name}" for name in (*FILES, MANIFEST)} | {"exps/061/neighbour"}
    back = fill(tmp_path / "around/back", {"old": b"", "deep/old": b""})
    (tmp_path / "around/neighbour").touch()
    sync(there, back)
    assert (back / "old").exists()
    assert sync(there, back, delete=True).deleted == ["deep/old", "old"]
    assert content(back) == FILES and (tmp_path / "around/neighbour").exists()


def test_nothing_is_never_synced_onto_something(there, here, tmp_path, keys):
    sync(here, there)
    before = keys()
    (tmp_path / "nothing").mkdir()
    for source, target in ((tmp_path / "nothing", there), (tmp_path / "missing", there), (there / "missing", here)):
        with pytest.raises(UsageError, match="holds no files"):
            sync(source, target, delete=True)
    assert keys() == before and content(here) == FILES


# -- names ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["../out", "/morocco-out/file", "a/../../out", "a//b", "./a", "back\\slash", "bell\x07", "ы" * 128]
)
def test_an_odd_name_is_refused_and_nothing_is_downloaded(put, there, tmp_path, name):
    put("exps/06/good", b"")
    put(f"exps/06/{name}", b"evil")
    with pytest.raises(UsageError, match="is no name of a file"):
        sync(there, tmp_path / "in/back")
    with pytest.raises(UsageError, match="is no name of a file"):
        storage.names(there)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_a_folder_too_is_refused(put, there, tmp_path):
    put("exps/06/a", b"file")
    put("exps/06/a/b", b"in it")
    with pytest.raises(UsageError, match="a is a file and a folder"):
        sync(there, tmp_path / "back")


def test_links_are_not_followed_in_either_direction(here, there, tmp_path, keys):
    sync(here, there)
    back, outside = tmp_path / "back", fill(tmp_path / "outside", {"er/b.bin": b"mine"})
    back.mkdir()
    (back / "deep").symlink_to(outside)
    with pytest.raises(UsageError, match=r"back/deep is not a regular file"):
        sync(there, back)
    assert content(outside) == {"er/b.bin": b"mine"}
    (here / "link").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match=r"here/link is not a regular file"):
        sync(here, there)


@pytest.mark.parametrize("name", ["back\\slash", "new\nline", f"deep/{MANIFEST}"])
def test_a_name_that_could_not_come_back_is_not_uploaded(here, there, keys, name):
    (here / name).write_bytes(b"x")
    with pytest.raises(UsageError, match="rename it"):
        sync(here, there)
    assert keys() == set()


def test_places_as_they_are_written(monkeypatch):
    monkeypatch.setenv("MOROCCO_S3_BUCKET", "ours")
    assert Remote.parse("//exps/06") == Remote("ours", "exps/06/")
    assert Remote.parse("s3://b/x/y/") == Remote("b", "x/y/") and str(Remote("b", "x/y/")) == "s3://b/x/y"
    assert Remote.parse("s3://b") == Remote.parse("s3://b/") == Remote("b") and Remote.parse("/exps") is None
    monkeypatch.delenv("MOROCCO_S3_BUCKET")
    for wrong in ("//exps/06", "s3:///exps", "s3://b/../x", "s3://b/a//b", "s3://a b/x"):
        with pytest.raises(UsageError):
            Remote.parse(wrong)


def test_one_of_the_two_is_in_a_bucket(main, tmp_path):
    assert_refused(main("sync", tmp_path, tmp_path / "b"), 2, "one of the two is in a bucket")
    assert_refused(main("sync", "s3://abc/x", "s3://abc/y"), 2, "one of the two is in a bucket")
    assert_refused(main("sync", "//exps/06", tmp_path, env={"MOROCCO_S3_BUCKET": ""}), 2, "MOROCCO_S3_BUCKET")
    assert_refused(main("run", ROOT / "params/plans/demo.yaml", "--sync", "outputs"), 2, "outputs is in no bucket")


# -- what is damaged -----------------------------------------------------------------------------------------------
def damaged(s3_server, bucket, key: str, body: bytes) -> None:
    """Replace an object but not what says its sha256."""
    old = s3_server.client.head_object(Bucket=bucket, Key=key)["Metadata"]
    s3_server.client.put_object(Bucket=bucket, Key=key, Body=body, Metadata=old)


def test_a_file_with_other_bytes_replaces_nothing(main, here, there, tmp_path, s3_server, bucket):
    sync(here, there)
    damaged(s3_server, bucket, "exps/06/a.txt", b"eno")
    back = fill(tmp_path / "back", {"a.txt": b"good"})
    done = main("sync", there, back, "--delete", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 1 and "a.txt has the sha256" in done.stderr
    assert set(result["transferred"]) == FILES.keys() - {"a.txt"} and len(result["wrong"]) == 1
    assert content(back) == FILES | {"a.txt": b"good"}


def test_a_file_that_is_lost_is_named(main, here, there, tmp_path, s3_server, bucket):
    sync(here, there)
    s3_server.client.delete_object(Bucket=bucket, Key="exps/06/a.txt")
    back = fill(tmp_path / "back", {"a.txt": b"good"})
    done = main("sync", there, back, "--delete")
    assert done.returncode == 1 and "a.txt is in SHA256SUMS and not there" in done.stderr
    assert content(back) == FILES | {"a.txt": b"good"}  # nothing is deleted either
    assert sync(here, there).transferred == ["a.txt"] and sync(there, back).wrong == []


def test_an_upload_of_another_tool_is_noticed(put, here, there, tmp_path, s3_server, bucket, requests):
    sync(here, there)
    at = s3_server.client.head_object(Bucket=bucket, Key=f"exps/06/{MANIFEST}")["LastModified"]
    head = s3_server.client.head_object

    def written() -> bool:  # times are in seconds
        put("exps/06/a.txt", b"eno")
        return head(Bucket=bucket, Key="exps/06/a.txt")["LastModified"] > at

    assert wait_until(written)
    assert sync(here, there, dry_run=True).transferred == ["a.txt"]
    assert sync(there, tmp_path / "back").unverified == 1 and (tmp_path / "back/a.txt").read_bytes() == b"eno"
    sync(here, there)
    requests(None)
    assert sync(here, there).unchanged == len(FILES) and requests("HEAD") == 0  # SHA256SUMS holds for it again


def test_a_file_that_is_written_while_it_is_uploaded_is_noticed(here, there, keys):
    with pytest.raises(EnvironmentFailure, match=r"a\.txt was changed while it was uploaded"):
        sync(here, there, watch=lambda done, total: os.utime(here / "a.txt", (1, 1)))
    assert f"exps/06/{MANIFEST}" not in keys()


# -- what is killed ------------------------------------------------------------------------------------------------
def start(*words) -> subprocess.Popen:
    argv = [sys.executable, "-m", "morocco_lib", "sync", *map(str, words)]
    return subprocess.Popen(argv, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_upload_goes_on_file_by_file(there, tmp_path, keys, s3_server, requests):
    many = fill(tmp_path / "many", {f"{number:03}": b"%d" % number for number in range(100)})
    s3_server.tell(delay_s=0.1)
    process = start(many, there)
    assert wait_until(lambda: len(keys()) > 20)
    kill(process)
    s3_server.tell()
    up = keys()
    assert 20 < len(up) < 100 and f"exps/06/{MANIFEST}" not in up
    requests(None)
    done = sync(many, there)
    assert done.unchanged >= len(up) and requests("PUT") == len(done.transferred) + 1 <= 100 - len(up) + 1
    assert sync(many, there).unchanged == 100


def test_parts_that_a_killed_upload_left_are_removed_and_others_not(there, bucket, tmp_path, s3_server):
    large = fill(tmp_path / "large", {"weights": bytes(MULTIPART)})
    other = s3_server.client.create_multipart_upload(Bucket=bucket, Key="exps/06/other")["UploadId"]

    def left() -> set[str]:
        return {item["Key"] for item in s3_server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())}

    s3_server.tell(large_s=2)
    process = start(large, there)
    assert wait_until(lambda: "exps/06/weights" in left())
    kill(process)
    s3_server.tell()
    assert "exps/06/weights" in left()
    sync(large, there)
    assert left() == {"exps/06/other"} and other
    assert sync(there, tmp_path / "back").wrong == [] and content(tmp_path / "back") == content(large)


def test_a_killed_download_replaces_nothing_and_goes_on(here, there, tmp_path, s3_server):
    (here / "weights").write_bytes(bytes(MULTIPART))
    sync(here, there)
    back = fill(tmp_path / "back", {"weights": b"good"})
    s3_server.tell(large_s=2)
    process = start(there, back)
    assert wait_until(lambda: any((back / storage.SCRATCH).glob("*")) and (back / "a.txt").exists())
    kill(process)
    s3_server.tell()
    assert (back / "weights").read_bytes() == b"good" and (back / storage.SCRATCH).exists()
    assert not [name for name in sync(back, there, dry_run=True).transferred if storage.SCRATCH in name]
    assert "a.txt" not in sync(there, back, delete=True).transferred
    assert content(back) == content(here) and not (back / storage.SCRATCH).exists()


def test_the_status_of_a_step_goes_last(tmp_path, there, s3_server):
    names = ("a", "z", "status.json")
    step = fill(tmp_path / "step", {"a": b"a", "status.json": b"", "z": bytes(999)})
    sync(step, there)
    puts = [path.rpartition("/")[2] for method, path in s3_server.log() if method == "PUT"]
    assert puts[-2:] == ["status.json", MANIFEST] and set(puts) == {*names, MANIFEST}
    fill(step, {"a": b"b", "status.json": b"{}"})
    sync(step, there)
    changes = [(method, path.rpartition("/")[2]) for method, path in s3_server.log() if method in ("PUT", "DELETE")]
    assert changes == [("DELETE", "status.json"), ("PUT", "a"), ("PUT", "status.json"), ("PUT", MANIFEST)]


# -- what fails ----------------------------------------------------------------------------------------------------
def test_a_burst_of_server_errors_is_waited_out(here, there, tmp_path, s3_server, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    s3_server.tell(fail=2, status=503)
    sync(here, there)
    s3_server.tell(fail=1, status=500)
    sync(there, tmp_path / "back")
    assert content(tmp_path / "back") == FILES


def test_a_download_that_breaks_off_is_repeated(here, there, tmp_path, s3_server):
    (here / "weights").write_bytes(os.urandom(MULTIPART))
    sync(here, there)
    s3_server.tell(cut=2)
    assert sync(there, tmp_path / "back").wrong == []
    assert content(tmp_path / "back") == content(here)


@pytest.fixture
def failing(bucket, s3_server, here, tmp_path):
    """Way to fail -> (variables, what the server is told, the bucket, words of the message)."""
    gone = "http://user:canary-password@127.0.0.1:1"
    return {
        "errors without end": ({}, {"fail": 10**6, "status": 503}, bucket, ("SlowDown", "run the command again")),
        "wrong keys": ({}, {"deny": s3.KEY}, bucket, ("SignatureDoesNotMatch", "AWS_ACCESS_KEY_ID")),
        "no keys": (dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ""), {}, bucket, ("AWS_PROFILE",)),
        "no such profile": ({"AWS_PROFILE": "nobody"}, {}, bucket, ("nobody", "AWS_PROFILE")),
        "no bucket": ({}, {}, "no-such-bucket", ("NoSuchBucket", "create the bucket")),
        "no server": ({"AWS_ENDPOINT_URL_S3": gone}, {}, bucket, ("no answer from 127.0.0.1:1 ", "the network")),
    }


WAYS = ["errors without end", "wrong keys", "no keys", "no such profile", "no bucket", "no server"]


@pytest.mark.parametrize("way", WAYS)
def test_a_failure_is_named_with_its_remedy_and_shows_no_secret(main, failing, s3_server, here, tmp_path, way):
    env, told, name, words = failing[way]
    s3_server.tell(**told)
    for pair in ((here, f"s3://{name}/x"), (f"s3://{name}/x", tmp_path / "back")):
        done = main("sync", *pair, env=env)
        assert_refused(done, 3, f"cannot sync with s3://{name}/x", *words)
        assert not re.search("canary|password", done.stderr)
    assert not (tmp_path / "back").exists()


def test_no_secret_is_in_a_traceback(morocco, here, s3_server, bucket):
    s3_server.tell(deny=s3.KEY)
    done = morocco("--debug", "sync", here, f"s3://{bucket}/x")
    assert done.returncode == 1 and "Traceback" in done.stderr and "canary" not in done.stderr


def test_a_server_that_stops_in_the_middle_leaves_nothing_half_written(main, here, tmp_path, monkeypatch):
    with s3.running() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        server.client.create_bucket(Bucket="stopped")
        (here / "weights").write_bytes(bytes(MULTIPART))
        sync(here, Remote("stopped", "x/"))
        server.tell(stop=5)  # a listing, two SHA256SUMS, two files
        back = fill(tmp_path / "back", dict.fromkeys(content(here), b"old"))
        assert_refused(main("sync", "s3://stopped/x", back), 3, "no answer from ", "run the command again")
        assert server.process.wait() == 0
    now = content(back)
    assert all(raw in (b"old", content(here)[name]) for name, raw in now.items()) and now["weights"] == b"old"
    assert not (back / storage.SCRATCH).exists()


def test_a_wrong_address_is_wrong_usage(main, here, bucket):
    assert_refused(
        main("sync", here, f"s3://{bucket}/x", env={"AWS_ENDPOINT_URL_S3": "nonsense"}), 2, "AWS_ENDPOINT_URL_S3"
    )


def test_a_disk_that_is_too_small_is_noticed_before(main, here, there, tmp_path, monkeypatch):
    sync(here, there)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert_refused(main("sync", there, tmp_path / "back"), 3, "bytes are needed, 1,000 are free", "choose another disk")
    assert content(tmp_path / "back") == {}


# -- how it is said ------------------------------------------------------------------------------------------------
def test_what_is_printed(main, here, there):
    done = main("sync", here, there, "--dry-run")
    assert done.stdout.splitlines()[-2:] == ["transfer  empty", "4 files to transfer (0.0 MB), 0 the same"]
    assert main("sync", here, there).stdout == "4 files transferred (0.0 MB), 0 the same\n"
    (here / "a.txt").unlink()
    done = main("sync", here, there, "--delete", "--json")
    assert json.loads(done.stdout) == {
        "schema": 1, "source": str(here), "target": str(there), "dry_run": False, "transferred": [], "bytes": 0,
        "deleted": ["a.txt"], "unchanged": 3, "unverified": 0, "wrong": [],
    }  # fmt: skip


def test_the_commands_in_help_work(main, s3_server, bucket, tmp_path):
    lines = [line.split() for line in main("sync", "--help").stdout.splitlines() if "morocco sync " in line][-2:]
    fill(tmp_path / "outputs/demo", FILES)
    s3_server.client.create_bucket(Bucket="bucket")
    main("sync", "outputs/demo", "s3://bucket/demo", cwd=tmp_path)
    for words in lines:
        assert main(*words[words.index("sync") :], cwd=tmp_path).returncode == 0, words


def test_the_founding_commands_work_as_typed(main, bucket, tmp_path):
    for name in ("exps/06/tfidf/terra/weights", "preds/terra", "benches/tfidf/terra"):
        fill(tmp_path / name, FILES)
    rows = founding.rows("S3 server")
    assert len(rows) == 4
    for command in (c for row in rows for c in row.commands if c.startswith("morocco sync")):
        done = founding.typed(command, main, tmp_path, MOROCCO_S3_BUCKET=bucket)
        assert done.returncode == 0 and " 0 the same" in done.stdout, (command, done.stderr)
    assert content(tmp_path / "exps/tfidf/terra") == content(tmp_path / "exps/06/tfidf/terra")


@pytest.mark.slow
def test_the_commands_of_its_page_run_and_print_what_is_shown(bucket, s3_server, tmp_path):
    s3_server.client.create_bucket(Bucket="my-bucket")
    commands = list(console_blocks((ROOT / "docs/s3.md").read_text(encoding="utf-8")))
    assert len(commands) > 5
    run_as_shown(commands, copy_project(tmp_path / "morocco"))


def test_progress_counts_bytes(there, tmp_path):
    large, seen = fill(tmp_path / "large", {"weights": bytes(MULTIPART), "a": b"a"}), []
    sync(large, there, watch=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (MULTIPART + 1, MULTIPART + 1) and seen == sorted(seen)


def test_boto3_is_loaded_by_those_who_need_it():
    code = "import sys, morocco_lib.cli.entry as e; e.build_parser(); print({'boto3', 'botocore'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
