"""`morocco data fetch` against a real HTTP server that serves well, breaks off, lies, stalls, drips and packs badly."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from helpers import ROOT

from morocco_lib.data import find_split
from morocco_lib.data.fetch import SOURCES, fetch, load_sources
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.tasks import get_task, task_names

TERRA = get_task("terra")
SPLITS = ("train", "val", "test")


def zipped(members) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as box:
        for name, content in members:
            box.writestr(name, content)
    return out.getvalue()


@pytest.fixture(scope="module")
def records(synthetic_data):
    return {f"{split}.jsonl": find_split(synthetic_data, TERRA, split).read_bytes() for split in SPLITS}


@pytest.fixture(scope="module")
def good(records) -> bytes:
    extra = [("__MACOSX/TERRa/._train.jsonl", b"\0\1"), ("TERRa/.DS_Store", b"x"), ("TERRa/", b"")]
    return zipped([*extra, *((f"TERRa/{name}", content) for name, content in records.items())])


class Server(ThreadingHTTPServer):
    """Answers the n-th request with the n-th behaviour, and the last one ever after."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours, self.asked, self.closing = [], 0, threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/TERRa"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        behaviour = server.behaviours[min(server.asked, len(server.behaviours) - 1)]
        server.asked += 1
        behaviour(self)

    def head(self, status=200, length=None, **headers):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args):
        pass


def serve(content):
    def behaviour(handler):
        handler.head(length=len(content))
        handler.wfile.write(content)

    return behaviour


def breaks_off(content):
    def behaviour(handler):
        handler.head(length=len(content))
        handler.wfile.write(content[: len(content) // 2])
        handler.close_connection = True

    return behaviour


def stalls(content):
    def behaviour(handler):
        handler.head(length=len(content))
        handler.wfile.write(content[:1000])
        handler.server.closing.wait(30)

    return behaviour


def drips(content):
    def behaviour(handler):
        handler.head(length=len(content))
        for byte in content:
            if handler.server.closing.wait(0.05):
                return
            handler.wfile.write(bytes([byte]))

    return behaviour


def never_ends(handler):
    handler.head()  # no length: until the connection closes
    try:
        while not handler.server.closing.is_set():
            handler.wfile.write(b"x" * 65536)
    except OSError:
        handler.server.closing.set()  # the client hung up


def status(code):
    return lambda handler: handler.head(code, 0)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def sources_of(url, content, **limits):
    entry = {"url": url, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return {"unpacked_bytes": 50_000_000, **limits, "archives": {"terra": entry}}


def write_sources(tmp_path, *args, **limits):
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump(sources_of(*args, **limits)))
    return path


@pytest.fixture
def attempt(server, tmp_path):
    """Fetch TERRa from the server, which behaves as told; returns the files."""

    def run(content, *behaviours, limits=None, **options):
        server.behaviours = list(behaviours) or [serve(content)]
        sources = load_sources(write_sources(tmp_path, server.url, content, **(limits or {})))
        return fetch(TERRA, tmp_path / "out", sources, pause_s=0.01, **{"silence_s": 0.5, **options})

    return run


def assert_nothing_is_left(folder):
    assert not folder.exists() or list(folder.iterdir()) == []


def test_an_honest_server_gives_the_official_layout(main, server, tmp_path, good, records):
    server.behaviours = [serve(good)]
    argv = ("data", "fetch", "terra", "--out", tmp_path / "out", "--sources", write_sources(tmp_path, server.url, good))
    done = main(*argv)
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in (tmp_path / "out/TERRa").glob("*.jsonl")} == records
    assert done.stdout.split() == [str(tmp_path / "out/TERRa" / name) for name in sorted(records)]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["TERRa"]
    assert json.loads((tmp_path / "out/TERRa/FETCHED.json").read_text())["sha256"] == hashlib.sha256(good).hexdigest()
    assert find_split(tmp_path / "out", TERRA, "val").read_bytes() == records["val.jsonl"]
    again = main(*argv)
    assert again.returncode == 0 and again.stdout == done.stdout and server.asked == 1


def test_files_changed_since_are_neither_kept_nor_overwritten(attempt, good, tmp_path):
    path = attempt(good)[0]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UsageError, match="nothing is overwritten"):
        attempt(good)
    assert path.read_bytes()


@pytest.mark.parametrize("trouble", [breaks_off, stalls, lambda content: status(503)], ids=["breaks", "stalls", "503"])
def test_trouble_that_passes_is_tried_again(attempt, good, server, trouble):
    said = []
    assert len(attempt(good, trouble(good), trouble(good), serve(good), say=said.append)) == 3
    assert server.asked == 3 and len(said) == 2


@pytest.mark.parametrize(
    ("behaviour", "seen", "requests"),
    [
        (breaks_off, "bytes", 3),
        (stalls, "no byte for 0.5 s", 3),
        (lambda content: status(503), "HTTP 503", 3),
        (lambda content: status(404), "HTTP 404", 1),
        (lambda content: serve(content + b"x"), "more than the", 1),
        (lambda content: serve(b"x" * len(content)), "sha256", 1),
        (lambda content: serve(b"<html>gone</html>"), "broke off after 17 of", 3),
        (lambda content: never_ends, "more than the", 1),
    ],
    ids=["breaks-off", "stalls", "503", "404", "longer", "other-bytes", "a-web-page", "never-ends"],
)
def test_a_server_that_does_wrong_is_named_and_nothing_is_kept(
    attempt, good, server, tmp_path, behaviour, seen, requests
):
    with pytest.raises(EnvironmentFailure, match=seen) as caught:
        attempt(good, behaviour(good))
    assert server.url in str(caught.value) and server.asked == requests
    assert_nothing_is_left(tmp_path / "out")


def test_a_server_that_drips_runs_into_the_time_limit(attempt, good, tmp_path):
    began = time.monotonic()
    with pytest.raises(EnvironmentFailure, match="not done in time"):
        attempt(good, drips(good), timeout_s=0.6)
    assert time.monotonic() - began < 5
    assert_nothing_is_left(tmp_path / "out")


def test_nobody_listens(attempt, good, server):
    server.server_close()
    with pytest.raises(EnvironmentFailure, match="refused"):
        attempt(good)


def many(records):
    return zipped([*((f"TERRa/{n}", c) for n, c in records.items()), *((f"TERRa/{k}", b"") for k in range(1000))])


def link(records):
    info = zipfile.ZipInfo("TERRa/train.jsonl")
    info.external_attr = 0o120777 << 16
    return zipped([(info, b"/etc/passwd")])


def locked(records):
    content = bytearray(zipped((f"TERRa/{n}", c) for n, c in records.items()))
    content[6] |= 1  # the flag of an encrypted member, in the file's header
    content[content.rindex(b"PK\1\2") + 8] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("pack", "seen"),
    [
        (lambda r: zipped([("../train.jsonl", b"{}")]), "outside its folder"),
        (lambda r: zipped([("/etc/train.jsonl", b"{}")]), "outside its folder"),
        (lambda r: zipped([("TERRa\\..\\..\\train.jsonl", b"{}")]), "outside its folder"),
        (lambda r: zipped([("C:/train.jsonl", b"{}")]), "outside its folder"),
        (link, "is a link"),
        (many, "1,003 files in it"),
        (lambda r: zipped([("TERRa/train.jsonl", b"\n" * 60_000_000)]), "unpacks to more than 50,000,000"),
        (lambda r: zipped([("TERRa/train.jsonl", r["train.jsonl"])]), "no test.jsonl, val.jsonl in it"),
        (lambda r: zipped([("a/val.jsonl", r["val.jsonl"]), ("b/val.jsonl", r["val.jsonl"])]), "val.jsonl twice"),
        (lambda r: b"this is not an archive", "not an archive"),
        (locked, "not an archive that can be unpacked"),
        (lambda r: (z := zipped([("TERRa/train.jsonl", r["train.jsonl"])]))[:90] + b"\0" * 20 + z[110:], "unpacked"),
    ],
    ids=[
        "dots",
        "absolute",
        "backslash",
        "drive",
        "link",
        "many",
        "bomb",
        "lacking",
        "twice",
        "text",
        "locked",
        "bits",
    ],
)
def test_a_bad_archive_with_the_right_digest_is_refused(attempt, records, tmp_path, pack, seen):
    with pytest.raises(EnvironmentFailure, match=seen):
        attempt(pack(records))
    assert_nothing_is_left(tmp_path / "out")
    assert not (tmp_path / "train.jsonl").exists()


def test_records_that_are_not_the_tasks_are_refused(attempt, records, tmp_path):
    other = dict.fromkeys(records, b'{"idx": 0, "text": "of another task"}\n')
    with pytest.raises(EnvironmentFailure, match="no records of TERRa"):
        attempt(zipped((f"TERRa/{name}", content) for name, content in other.items()))
    assert_nothing_is_left(tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_fetch_leaves_no_folder_that_looks_done(server, tmp_path, good, number):
    server.behaviours = [drips(good)]
    argv = [sys.executable, "-m", "morocco_lib", "data", "fetch", "terra", "--out", str(tmp_path / "out")]
    argv += ["--sources", str(write_sources(tmp_path, server.url, good))]
    child = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while server.asked == 0:
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)
    time.sleep(0.2)
    child.send_signal(number)
    _, said = child.communicate(timeout=20)
    assert child.returncode != 0 and b"Traceback" not in said
    assert not (tmp_path / "out/TERRa").exists()
    server.behaviours = [serve(good)]
    assert fetch(TERRA, tmp_path / "out", load_sources(tmp_path / "sources.yaml"))


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"sha256": "abc"}, "sha256"),
        ({"url": "file:///etc/passwd"}, "https://"),
        ({"bytes": 0}, "bytes"),
        ({"digest": "x"}, "digest"),
    ],
)
def test_sources_are_read_strictly(main, tmp_path, change, seen):
    value = sources_of("https://example.org/x", b"x")
    value["archives"]["terra"] |= change
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump(value))
    done = main("data", "fetch", "terra", "--out", tmp_path / "out", "--sources", path)
    assert done.returncode == 2 and seen in done.stderr and "Traceback" not in done.stderr


def test_one_task_that_fails_does_not_keep_the_others_from_coming(main, server, tmp_path, good):
    server.behaviours = [serve(good)]
    path = write_sources(tmp_path, server.url, good)
    done = main("data", "fetch", "rcb", "terra", "--out", tmp_path / "out", "--sources", path)
    assert done.returncode == 2 and "no archive of rcb" in done.stderr
    assert (tmp_path / "out/TERRa/val.jsonl").is_file()


def test_the_kit_names_the_nine_official_archives():
    sources = load_sources(SOURCES)
    assert len(sources.archives) == 9 and set(sources.archives) <= set(task_names())
    for name, archive in sources.archives.items():
        assert archive.url.endswith(f"/{get_task(name).title}")
