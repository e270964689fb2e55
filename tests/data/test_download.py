"""`morocco data fetch` against a real HTTP server that serves well, breaks off, lies, stalls, drips and packs badly."""

import hashlib
import io
import json
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from morocco_lib.data import synthetic
from morocco_lib.data.download import SOURCES, fetch, load_sources
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.tasks import get_task, task_names

TERRA = get_task("terra")


def zipped(members) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as box:
        for name, content in members:
            box.writestr(name, content)
    return out.getvalue()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    paths = synthetic.write(tmp_path_factory.mktemp("records"), ["terra"], 1, train_records=30)
    return {path.name: path.read_bytes() for path in paths if path.suffix == ".jsonl"}


@pytest.fixture(scope="module")
def good(records) -> bytes:
    extra = [("__MACOSX/TERRa/train.jsonl", b"\0\1"), ("TERRa/.DS_Store", b"x"), ("TERRa/", b"")]
    return zipped([*extra, *((f"TERRa/{name}", content) for name, content in records.items())])


class Server(ThreadingHTTPServer):
    """Answers the n-th request with the n-th behaviour, and the last one ever after."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours, self.requests, self.closing = [], 0, threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/TERRa"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *args):
        pass  # a client that hung up


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        behaviour = server.behaviours[min(server.requests, len(server.behaviours) - 1)]
        server.requests += 1
        behaviour(self)

    def head(self, status=200, length=None):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *args):
        pass


def serve(content, length=None):
    def behaviour(handler):
        handler.head(length=length or len(content))
        handler.wfile.write(content)

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
        for byte in content[:60]:
            if handler.server.closing.wait(0.05):
                return
            handler.wfile.write(bytes([byte]))

    return behaviour


def never_ends(handler):
    handler.head()  # no length: until the connection closes
    while not handler.server.closing.is_set():
        handler.wfile.write(b"x" * 65536)


def breaks_off(content):
    return serve(content[: len(content) // 2], len(content))


def status(code):
    return lambda handler: handler.head(code, 0)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def sources_of(tmp_path):
    """Write a file for --sources that names TERRa's archive, with changes to its entry."""

    def write(url, content, /, **changes):
        entry = {"url": url, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), **changes}
        path = tmp_path / "sources.yaml"
        path.write_text(yaml.safe_dump({"unpacked_bytes": 1_000_000, "archives": {"terra": entry}}))
        return path

    return write


@pytest.fixture
def attempt(server, sources_of, tmp_path):
    """Fetch TERRa from the server, which behaves as told; returns the files."""

    def run(content, *behaviours, **options):
        server.behaviours = list(behaviours) or [serve(content)]
        options = {"pause_s": 0.01, "silence_s": 5, **options}
        return fetch(TERRA, tmp_path / "out", load_sources(sources_of(server.url, content)), **options)

    return run


def assert_nothing_is_left(folder):
    assert list(folder.iterdir()) == []


def test_the_verb_gives_the_official_layout_once_and_other_tasks_may_fail(
    main, server, sources_of, tmp_path, good, records
):
    server.behaviours = [serve(good)]
    argv = ("data", "fetch", "--out", tmp_path / "out", "--sources", sources_of(server.url, good))
    done = main(*argv, "rcb", "terra")
    assert done.returncode == 2 and "no archive of rcb" in done.stderr and done.stderr.count("\n") == 1
    assert {p.name: p.read_bytes() for p in (tmp_path / "out/TERRa").glob("*.jsonl")} == records
    assert done.stdout.split() == [str(tmp_path / "out/TERRa" / name) for name in sorted(records)]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["TERRa"]
    assert json.loads((tmp_path / "out/TERRa/FETCHED.json").read_text())["sha256"] == hashlib.sha256(good).hexdigest()
    again = main(*argv, "terra")
    assert (again.returncode, again.stdout, again.stderr) == (0, done.stdout, "") and server.requests == 1


def test_what_this_archive_does_not_hold_is_neither_kept_nor_overwritten(attempt, good, records):
    path = attempt(good)[0]
    with pytest.raises(UsageError, match="not what this archive holds"):
        attempt(packed(records))
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        attempt(good)
    assert path.read_bytes() == b"mine"


def test_a_fault_that_passes_is_retried(attempt, good, server):
    messages = []
    assert len(attempt(good, breaks_off(good), status(503), serve(good), say=messages.append)) == 3
    assert server.requests == 3 and len(messages) == 2 and "HTTP 503" in messages[1]


@pytest.mark.parametrize(
    ("behaviour", "message", "requests"),
    [
        (breaks_off, "bytes read", 3),
        (stalls, "no byte for 0.2 s, 1,000 of", 3),
        (lambda content: status(503), "HTTP 503", 3),
        (lambda content: status(404), "HTTP 404", 1),
        (lambda content: serve(b"x" * len(content)), "hash of downloaded file", 1),
        (lambda content: serve(b"<html>gone</html>"), "broke off after 17 of", 3),
        (lambda content: never_ends, "more than the", 1),
    ],
    ids=["breaks-off", "stalls", "503", "404", "other-bytes", "a-web-page", "never-ends"],
)
def test_a_fault_that_stays_is_named_and_nothing_is_kept(attempt, good, server, tmp_path, behaviour, message, requests):
    with pytest.raises(EnvironmentFailure, match=message) as caught:
        attempt(good, behaviour(good), silence_s=0.2 if behaviour is stalls else 5)
    assert server.url in str(caught.value) and server.requests == requests
    assert_nothing_is_left(tmp_path / "out")


def test_a_server_that_drips_meets_the_time_limit(attempt, good, server, tmp_path):
    began = time.monotonic()
    with pytest.raises(EnvironmentFailure, match="not finished within the time limit"):
        attempt(good, drips(good), timeout_s=0.4)
    assert time.monotonic() - began < 5 and server.requests == 1
    assert_nothing_is_left(tmp_path / "out")


def test_a_server_that_is_not_there(attempt, good, server):
    server.server_close()
    with pytest.raises(EnvironmentFailure, match=r"TERRa: \[Errno \d+\] Connection refused, 0 of"):
        attempt(good)


def packed(records):
    return zipped((f"TERRa/{name}", content) for name, content in records.items())


def encrypted(records):
    content = bytearray(packed(records))
    content[6] |= 1  # the flag of an encrypted member, in the file's header
    content[content.index(b"PK\1\2") + 8] |= 1
    return bytes(content)


def understated(records):
    content = bytearray(packed({**records, "train.jsonl": b"\n" * 5_000_000}))
    at = content.index(b"PK\1\2") + 24  # the size of the first member, as the directory gives it
    content[at : at + 4] = (1000).to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("pack", "message"),
    [
        (lambda r: packed({**r, "train.jsonl": b"\n" * 1_000_000}), "unpacks to more than 1,000,000"),
        (understated, "can be unpacked .Bad CRC"),
        (lambda r: packed({"train.jsonl": b""}), "no test.jsonl, val.jsonl in it"),
        (lambda r: zipped([("a/val.jsonl", b""), ("b/val.jsonl", b"")]), "val.jsonl twice"),
        (lambda r: b"this is not an archive", "not an archive"),
        (encrypted, "can be unpacked .*encrypted"),
        (lambda r: (z := packed(r))[:90] + b"\0" * 20 + z[110:], "can be unpacked"),
        (lambda r: packed(dict.fromkeys(r, b'{"idx": 0, "text": "of another task"}\n')), "no records of TERRa"),
    ],
    ids=["bomb", "understated", "missing", "twice", "text", "encrypted", "damaged", "other-task"],
)
def test_a_bad_archive_with_the_right_digest_is_refused(attempt, records, tmp_path, pack, message):
    with pytest.raises(EnvironmentFailure, match=message):
        attempt(pack(records))
    assert_nothing_is_left(tmp_path / "out")


def test_paths_in_an_archive_lead_nowhere_else(attempt, records, tmp_path):
    odd = ("../", "/etc/", "C:/")
    paths = attempt(zipped((prefix + name, records[name]) for prefix, name in zip(odd, sorted(records), strict=True)))
    assert {path: path.read_bytes() for path in paths} == {tmp_path / "out/TERRa" / n: c for n, c in records.items()}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "sources.yaml"}


@pytest.mark.parametrize("change", [{"sha256": "abc"}, {"url": "file:///etc/passwd"}, {"bytes": 0}])
def test_sources_without_a_digest_an_address_or_a_size_are_refused(sources_of, change):
    with pytest.raises(UsageError, match=next(iter(change))):
        load_sources(sources_of("https://example.org/x", b"x", **change))


def test_each_official_archive_is_that_of_its_task():
    archives = load_sources(SOURCES).archives
    assert len(archives) == 9 and set(archives) <= set(task_names())
    assert all(archive.url.endswith(f"/{get_task(name).title}") for name, archive in archives.items())
