"""`morocco login`, `push` and `pull` against a real engine and real registries: open, guarded, lying, stopped midway."""

import base64
import contextlib
import fcntl
import io
import json
import os
import pty
import signal
import subprocess
import sys
import tarfile
import termios
import threading
from pathlib import Path
from unittest import mock

import engine as engines
import pytest
from conftest import ROOT

from morocco_lib.cli import entry as cli
from morocco_lib.cli import images
from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError
from morocco_lib.images import credentials, registry
from morocco_lib.images.credentials import Credential

USER, SECRET, ECHOED = "ann", "canary-7e1f?>%~0d", "parrot-a81c?>%~9b"
LARGE = 48 << 20
NOWHERE = "127.0.0.1:1"


# -- without an engine ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "where", "tagged", "digest"),
    [
        ("localhost/x", "localhost", "localhost/x:latest", ""),
        ("localhost:5000/a/b.c:1", "localhost:5000", "localhost:5000/a/b.c:1", ""),
        ("reg.example/x@sha256:" + "a" * 64, "reg.example", "reg.example/x:latest", "sha256:" + "a" * 64),
        ("reg.example/x:1@sha256:" + "a" * 64, "reg.example", "reg.example/x:1", "sha256:" + "a" * 64),
        ("[::1]:5000/x", "[::1]:5000", "[::1]:5000/x:latest", ""),
        ("ann/x:1", "docker.io", "ann/x:1", ""),
        ("docker.io/ann/x", "docker.io", "ann/x:latest", ""),
        ("docker.io/library/python:3.11", "docker.io", "python:3.11", ""),
    ],
)
def test_a_name_says_which_registry_is_meant(text, where, tagged, digest):
    name = registry.Name.parse(text)
    assert (name.registry, name.tagged, name.digest) == (where, tagged, digest)


@pytest.mark.parametrize(
    "text", ["", "X/y", "reg.example/X", "reg.example/x:", "a b", "-x", "r.e/x@sha256:12", "x@", "r.e//x"]
)
def test_what_is_no_name_is_wrong_usage(text):
    with pytest.raises(UsageError, match="no name of an image"):
        registry.Name.parse(text)


@pytest.mark.parametrize("text", ["reg.example/x", "", "ftp://x", "a b", "x:port"])
def test_what_is_no_registry_is_wrong_usage(text):
    with pytest.raises(UsageError, match="is no registry"):
        credentials.host(text)


def test_the_docker_hub_has_one_name():
    assert {credentials.host(text) for text in ("docker.io", "https://index.docker.io/v1/")} == {"docker.io"}


@pytest.mark.parametrize(
    "args",
    [
        ("login", "reg.example", "--password", SECRET),
        ("login", "reg.example", f"--password={SECRET}"),
        ("login", "reg.example", "-p", SECRET),
        ("login", f"https://ann:{SECRET}@reg.example"),
        ("push", "x", f"ann:{SECRET}@reg.example/x"),
        ("pull", f"ann:{SECRET}@reg.example/x"),
    ],
)
def test_a_password_given_as_an_argument_is_refused_and_not_repeated(main, args):
    done = main(*args)
    assert done.returncode == 2 and done.stdout == "" and SECRET not in done.stderr


def test_a_credential_says_nothing_of_itself_and_hides_itself_in_a_text():
    credential = Credential(username=USER, password=SECRET)
    header = base64.urlsafe_b64encode(json.dumps(credential).encode()).decode()
    said = f"{SECRET} {base64.b64encode(f'{USER}:{SECRET}'.encode()).decode()} {header} {USER}"
    assert credential.hide(said) == f"*** *** *** {USER}"
    assert SECRET not in repr(credential) + repr({"a": credential})


def test_a_password_is_read_from_stdin_without_its_newline_only(monkeypatch):
    read = credentials.given("reg.example", USER, io.BytesIO(b" a b \r\n"))
    assert read == {"username": USER, "password": " a b "}
    with pytest.raises(UsageError, match="no password for"):
        credentials.given("reg.example", USER, io.BytesIO(b"\n"))
    with pytest.raises(UsageError, match="no username and no password"):
        credentials.given("reg.example")
    with pytest.raises(UsageError, match="not UTF-8"):
        credentials.given("reg.example", USER, io.BytesIO(b"\xff"))


def test_the_environment_is_for_the_registry_it_names(monkeypatch):
    monkeypatch.setenv("MOROCCO_REGISTRY_USERNAME", USER)
    monkeypatch.setenv("MOROCCO_REGISTRY_PASSWORD", SECRET)
    monkeypatch.setenv("DOCKER_CONFIG", "/nowhere")
    assert credentials.given("reg.example")["password"] == SECRET  # the user has just named it
    assert credentials.known("reg.example") == {}  # a name of an image did, perhaps a stranger's
    monkeypatch.setenv("MOROCCO_REGISTRY", "reg.example")
    assert credentials.known("reg.example") == {"username": USER, "password": SECRET}
    assert credentials.known("other.example") == {}
    with pytest.raises(UsageError):
        credentials.given("other.example")


def kept(folder, entry):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(entry))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"auths": {"reg.example": {"auth": "!"}}}', '{"auths": {"reg.example": 1}}']
)
def test_broken_settings_of_docker_are_wrong_usage_and_left_alone(main, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    env = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": "unix:///nowhere"}
    given = {"REGISTRY": "reg.example", "REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": SECRET}
    for more in ({}, {f"MOROCCO_{name}": value for name, value in given.items()}):
        for args in (("pull", "reg.example/x"), ("login", "reg.example", "--username", USER, "--password-stdin")):
            done = main(*args, env=env | more, input=SECRET)
            assert done.returncode == 2 and str(tmp_path / "config.json") in done.stderr, done.stderr
    assert (tmp_path / "config.json").read_text() == text


@pytest.mark.parametrize("settings", [{"credsStore": "gone"}, {"credHelpers": {"reg.example": "gone"}}])
def test_a_credential_helper_that_is_not_there_is_named(main, tmp_path, settings):
    kept(tmp_path, settings)
    done = main("pull", "reg.example/x", env={"DOCKER_CONFIG": str(tmp_path)})
    assert done.returncode == 3 and "docker-credential-gone" in done.stderr and "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("filesystem layer verification failed for digest sha256:401", InvalidResult),
        ("unauthorized: authentication required", UsageError),
        ("denied: requested access to the resource is denied", UsageError),
        ("manifest for reg.example/x:9 not found: manifest unknown: manifest unknown", UsageError),
        ('Get "https://reg.example/v2/": http: server gave HTTP response to HTTPS client', EnvironmentFailure),
        ('Get "https://reg.example/v2/": x509: certificate signed by unknown authority', EnvironmentFailure),
        ("login attempt to https://reg.example/v2/ failed with status: 502 Bad Gateway", "passing"),
        ("received unexpected HTTP status: 503 Service Unavailable", "passing"),
        ('Get "https://10.1.40.1:4010/v2/": dial tcp 10.1.40.1:4010: connect: connection refused', "passing"),
        ("dial tcp: lookup reg.example on 10.0.0.1:53: no such host", "passing"),
        ("unexpected EOF", "passing"),
        ("write /var/lib/docker/tmp/x: no space left on device", EnvironmentFailure),
    ],
)
def test_what_engines_say_is_understood(text, kind):
    failure = registry._judge("pull x", "reg.example/x:9", "reg.example", text, 1)
    assert getattr(failure, "passing", False) == (kind == "passing")
    assert isinstance(failure, EnvironmentFailure if kind == "passing" else kind)
    assert text in str(failure)


def test_a_report_that_says_error_or_ends_without_a_digest_is_a_failure():
    for lines in ([{"error": "no"}], [{"error": ""}], [{"status": "Pushed", "id": "a"}], []):
        with pytest.raises(registry._Trouble):
            registry._follow(lines, registry.silent, registry.unwatched)


def test_the_bytes_of_all_layers_are_added_up():
    detail = [("a", "Pushing", 1, 10), ("b", "Pushing", 5, 10), ("a", "Pushing", 12, 10), ("b", "Pushed", 0, 0)]
    lines = [{"id": i, "status": s, "progressDetail": {"current": c, "total": t} if t else {}} for i, s, c, t in detail]
    seen = []
    digest = f"sha256:{'a' * 64}"
    lines.append({"status": f"1: digest: {digest} size: 528"})
    assert registry._follow(lines, registry.silent, lambda *at: seen.append(at)) == digest
    assert seen[:4] == [(1, 10), (6, 20), (17, 22), (22, 22)]


def test_a_digest_other_than_the_one_asked_for_is_invalid(monkeypatch):
    client = mock.MagicMock()
    monkeypatch.setattr(registry, "_client", lambda: contextlib.nullcontext(client))
    monkeypatch.setattr(registry, "_follow", lambda *args: f"sha256:{'b' * 64}")
    with pytest.raises(InvalidResult, match="not sha256:aaa"):
        registry.pull(f"reg.example/x:1@sha256:{'a' * 64}")
    client.api.tag.assert_not_called()


# -- with one ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Our own engine, at its most talkative."""
    why = engines.why_none() or engines.no_registry()
    if why and os.environ.get("MOROCCO_STRICT"):
        pytest.fail(why)
    if why:
        pytest.skip(why)
    with engines.running(tmp_path_factory.mktemp("engine") / "d", options=("--debug",)) as address:
        yield address


@pytest.fixture(scope="module")
def client(engine):
    import docker

    with contextlib.closing(docker.DockerClient(engine, timeout=120)) as client:
        yield client


@pytest.fixture
def open_one(engine, tmp_path):
    with engines.registry(tmp_path / "open", engine) as server:
        yield server


@pytest.fixture
def guarded(engine, tmp_path):
    with engines.registry(tmp_path / "guarded", engine, {USER: SECRET}) as server:
        yield server


@pytest.fixture
def home(engine, tmp_path, monkeypatch):
    """What a user has: a home, an engine, nothing in the environment. Pauses are short."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("DOCKER_CONFIG", "MOROCCO_REGISTRY", "MOROCCO_REGISTRY_USERNAME", "MOROCCO_REGISTRY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("DOCKER_HOST", engine)
    monkeypatch.setattr(registry, "PAUSE_S", 0.1)
    return folder


@pytest.fixture
def image(client):
    """A few kilobytes that no registry has seen, under one name; gone afterwards, whatever it is called then."""
    made = []

    def make(name="small:1", size=0):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo("bytes")
            info.size = size or 1000
            tar.addfile(info, io.BytesIO(os.urandom(info.size)))
        client.api.import_image_from_data(out.getvalue(), *name.split(":"))
        made.append(client.images.get(name).id)
        return name

    yield make
    for which in made:
        forget(client, which)


def forget(client, which):
    """Take an image and all its names from the engine."""
    import docker.errors

    with contextlib.suppress(docker.errors.ImageNotFound):
        client.api.remove_image(client.images.get(which).id, force=True)


def names(client):
    return sorted(name for held in client.images.list() for name in held.tags)


class When:
    """Does something as soon as a registry stores so many bytes."""

    def __init__(self, server, size, act):
        self.server, self.size, self.act, self.done = server, size, act, threading.Event()
        self.end = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.end.wait(0.01):
            if self.server.stored_bytes() > self.size:
                self.act()
                self.done.set()
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.end.set()
        self.thread.join()


@pytest.mark.slow
def test_what_is_pushed_is_pulled_by_its_digest(main, home, client, open_one, image):
    name = image()
    first = client.images.get(name).id
    target = f"{open_one.address}/team/small:1"
    done = main("push", name, target)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"pushing {target}\n"
    where, digest = done.stdout.strip().split("@")
    assert where == f"{open_one.address}/team/small" and digest.startswith("sha256:")
    assert target in names(client)  # it stays: the engine knows the digest by it
    again = json.loads(main("push", target, "--json", "--quiet").stdout)
    assert again == {
        "image": f"{where}@{digest}", "name": target, "repository": where, "digest": digest, "id": first
    }  # fmt: skip
    forget(client, first)
    done = main("pull", f"{where}@{digest}", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == again | {"name": ""}
    assert client.images.get(f"{where}@{digest}").id == first and names(client) == []
    done = main("pull", target)
    assert (done.returncode, done.stdout) == (0, f"{where}@{digest}\n") and client.images.get(target).id == first


@pytest.mark.slow
def test_the_commands_in_help_work(home, client, engine, image, tmp_path):
    # As they are typed: on the port they name, which is free where this engine is.
    image("tfidf-terra:latest")
    (tmp_path / "password.txt").write_text(f"{SECRET}\n")
    parser = next(a for a in cli.build_parser()._actions if a.dest == "verb").choices
    with engines.registry(tmp_path / "r", engine, {USER: SECRET}, port=5000):
        for verb in ("login", "push", "pull"):
            for line in (line.removeprefix("try:").strip() for line in parser[verb].epilog.splitlines()):
                if "docker.io" in line:
                    continue  # another's, and it asks
                line = line.replace("morocco ", f"{sys.executable} -m morocco_lib ", 1)
                env = {**os.environ, "PYTHONPATH": str(ROOT)}
                done = subprocess.run(line, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True)
                assert done.returncode == 0, (line, done.stderr)


@pytest.mark.slow
def test_a_login_is_kept_as_docker_keeps_it_and_used(main, home, client, guarded, image):
    target, login = f"{guarded.address}/small:1", ("login", guarded.address, "--username", USER, "--password-stdin")
    name = image()
    done = main("push", name, target)
    assert done.returncode == 2 and f"morocco login {guarded.address}" in done.stderr and names(client) == [name]
    done = main(*login, input="wrong")
    assert done.returncode == 2 and "401" in done.stderr and not (home / ".docker").exists()
    # what else Docker keeps there stays, also where the file is a link
    (home / ".docker").mkdir()
    (home / "real.json").write_text('{"auths": {"x.example": {"auth": "YTpi"}}, "detachKeys": "ctrl-q"}')
    (home / "real.json").chmod(0o644)
    (home / ".docker/config.json").symlink_to(home / "real.json")
    done = main(*login, input=f"{SECRET}\n")
    assert (done.returncode, done.stdout) == (0, f"logged in to {guarded.address} as {USER}\n"), done.stderr
    assert str(home / ".docker/config.json") in done.stderr and "not encrypted" in done.stderr
    assert (home / ".docker/config.json").is_symlink() and (home / "real.json").stat().st_mode & 0o777 == 0o600
    config = json.loads((home / "real.json").read_text())
    assert config["detachKeys"] == "ctrl-q" and set(config["auths"]) == {"x.example", guarded.address}
    for args in (("push", name, target), ("pull", target)):
        done = main(*args)
        assert done.returncode == 0, done.stderr
    # a password that has been changed since
    guarded.kill()
    subprocess.run(["htpasswd", "-iB", guarded.folder / "users", USER], input=b"new", capture_output=True, check=True)
    guarded.start()
    done = main("pull", target)
    assert done.returncode == 2 and "morocco login" in done.stderr


@pytest.mark.slow
def test_docker_itself_uses_what_login_kept(main, home, client, guarded, image):
    main("login", guarded.address, "--username", USER, "--password-stdin", input=SECRET)
    name = image()
    client.api.tag(name, f"{guarded.address}/small", "1")
    done = subprocess.run(["docker", "push", f"{guarded.address}/small:1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_environment_logs_in_for_the_registry_it_names(main, home, client, guarded, image):
    target, name = f"{guarded.address}/small:1", image()
    env = {"MOROCCO_REGISTRY_USERNAME": USER, "MOROCCO_REGISTRY_PASSWORD": SECRET}
    done = main("push", name, target, env=env)
    assert done.returncode == 2 and f"set MOROCCO_REGISTRY={guarded.address}" in done.stderr
    done = main("push", name, target, env=env | {"MOROCCO_REGISTRY": guarded.address})
    assert done.returncode == 0, done.stderr
    assert not (home / ".docker").exists()
    assert main("login", guarded.address, env=env).returncode == 0 and (home / ".docker/config.json").exists()


@pytest.fixture
def helper(home, tmp_path, monkeypatch):
    """A credential helper that keeps what it is given in a file of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker-credential-box").write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        f"box, given = pathlib.Path({str(folder / 'box')!r}), sys.stdin.read()\n"
        "if sys.argv[1] == 'store':\n"
        "    box.write_text(given)\n"
        "elif box.exists() and json.loads(box.read_text())['ServerURL'] == given.strip():\n"
        "    print(box.read_text())\n"
        "else:\n"
        "    sys.exit('credentials not found in native keychain' if print('credentials not found in native keychain') else 1)\n"
    )
    (folder / "docker-credential-box").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "box"


@pytest.mark.slow
@pytest.mark.parametrize("every", [True, False], ids=["credsStore", "credHelpers"])
def test_a_credential_helper_keeps_the_password_if_one_is_set_up(main, home, client, guarded, image, helper, every):
    kept(home / ".docker", {"credsStore": "box"} if every else {"credHelpers": {guarded.address: "box"}})
    name = image()
    login = ("login", guarded.address, "--username", USER, "--password-stdin")
    done = main(*login, input=SECRET)
    assert done.returncode == 0 and done.stderr == "kept in docker-credential-box\n"
    assert json.loads(helper.read_text()) == {"ServerURL": guarded.address, "Username": USER, "Secret": SECRET}
    assert json.loads((home / ".docker/config.json").read_text())["auths"] == {guarded.address: {}}
    done = main("push", name, f"{guarded.address}/small:1")
    assert done.returncode == 0, done.stderr
    # one that fails: said, and what it printed is not repeated
    path = helper.with_name("docker-credential-box")
    path.write_text(f"#!/bin/sh\necho '{SECRET}'\nexit 1\n")
    for args in (("push", name, f"{guarded.address}/small:1"), login):
        done = main(*args, input=SECRET)
        assert done.returncode == 3 and "docker-credential-box" in done.stderr and SECRET not in done.stderr
        with pytest.raises(EnvironmentFailure) as failure:
            main("--debug", *args, input=SECRET)
        assert failure.value.__context__ is None  # nothing that holds what it printed


@pytest.mark.slow
def test_a_login_asks_on_a_terminal_and_shows_no_password(home, guarded):
    ours, theirs = pty.openpty()

    def take():  # as the terminal of the process: passwords are asked for there
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    argv = [sys.executable, "-m", "morocco_lib", "login", guarded.address]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take)
    os.close(theirs)
    said = b""
    for asked, answer in ((b"user name", USER), (b"password of ann", SECRET), (b"logged in", "")):
        while asked not in said:
            said += os.read(ours, 1000)
        os.write(ours, f"{answer}\n".encode()) if answer else None
    assert process.wait(30) == 0 and SECRET.encode() not in said
    os.close(ours)


# -- what is not there ---------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("which", ["tag", "repository", "digest"])
def test_what_a_registry_does_not_hold_is_named(main, home, client, open_one, image, which):
    name = image()
    main("push", name, f"{open_one.address}/small:1")
    wanted = {"tag": "small:2", "repository": "nothing:1", "digest": f"small@sha256:{'0' * 64}"}[which]
    done = main("pull", f"{open_one.address}/{wanted}")
    assert done.returncode == 2 and f"{open_one.address} holds no {open_one.address}/{wanted}" in done.stderr
    assert names(client) == sorted([name, f"{open_one.address}/small:1"])


@pytest.mark.slow
def test_an_image_that_the_engine_does_not_hold_cannot_be_pushed(main, home, client, open_one):
    before = names(client)
    done = main("push", "nothing:1", f"{open_one.address}/x:1")
    assert done.returncode == 2 and "nothing:1" in done.stderr and names(client) == before


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["login", "push", "pull"])
def test_a_registry_that_does_not_answer_is_tried_three_times(main, home, client, image, verb):
    name = image()
    args = {"login": (NOWHERE, "--username", USER, "--password-stdin"), "push": (name, f"{NOWHERE}/x:1")}
    before = names(client)
    done = main(verb, *args.get(verb, (f"{NOWHERE}/x:1",)), input=SECRET)
    assert done.returncode == 3 and done.stderr.count("trying again") == 2 and "tried 3 times" in done.stderr
    assert "connection refused" in done.stderr and names(client) == before and not (home / ".docker").exists()


@pytest.mark.slow
def test_a_failed_push_gives_back_the_name_it_took(main, home, client, image):
    first, second, target = image("first:1"), image("second:1"), f"{NOWHERE}/x:1"
    client.api.tag(first, f"{NOWHERE}/x", "1")
    assert main("push", second, target).returncode == 3
    assert client.images.get(target).id == client.images.get(first).id


@pytest.mark.slow
def test_the_only_name_of_an_image_stays(main, home, client):
    # Taking it back would take the image too.
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    only = json.loads(client.api.import_image_from_data(out.getvalue()).splitlines()[-1])["status"]
    done = main("push", only, f"{NOWHERE}/x:1")
    assert done.returncode == 3 and f"{NOWHERE}/x:1 stays" in done.stderr
    assert client.images.get(only).tags == [f"{NOWHERE}/x:1"]
    forget(client, only)


# -- what breaks off -----------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_push_goes_on_when_the_registry_is_back(main, home, client, open_one, image):
    name = image("large:1", LARGE)

    def restart():
        open_one.kill()
        threading.Timer(3, open_one.start).start()

    with When(open_one, LARGE // 4, restart) as broken:
        done = main("push", name, f"{open_one.address}/large:1")
    assert broken.done.is_set() and done.returncode == 0, done.stderr
    assert "again" in done.stderr
    assert main("pull", done.stdout.strip()).returncode == 0


@pytest.mark.slow
def test_a_push_whose_registry_never_comes_back_leaves_nothing(main, home, client, open_one, image):
    name = image("large:1", LARGE)
    with When(open_one, LARGE // 4, open_one.kill) as broken:  # the engine itself tries for 50 s
        done = main("push", name, f"{open_one.address}/large:1")
    assert broken.done.is_set() and done.returncode == 3, done.stderr
    assert "tried 3 times" in done.stderr and names(client) == [name]


@pytest.mark.slow
@pytest.mark.parametrize("back", [True, False])
def test_a_registry_that_falls_silent_is_not_waited_for_for_ever(
    main, home, client, open_one, image, monkeypatch, back
):
    monkeypatch.setattr(registry, "SILENCE_S", 3.0)
    name, target = image("large:1", LARGE), f"{open_one.address}/large:1"
    judge = registry._judge

    def judged(*args):
        if back:
            open_one.let_go()
        return judge(*args)

    monkeypatch.setattr(registry, "_judge", judged)
    with When(open_one, LARGE // 4, open_one.hold) as held:
        done = main("push", name, target)
    open_one.let_go()
    assert held.done.is_set() and f"{open_one.address} did not answer in time" in done.stderr
    assert done.returncode == (0 if back else 3), done.stderr
    assert names(client) == (sorted([name, target]) if back else [name])


@pytest.mark.slow
@pytest.mark.parametrize("back", [True, False])
def test_a_pull_that_falls_silent_is_tried_again_or_leaves_nothing(home, client, open_one, image, monkeypatch, back):
    target = f"{open_one.address}/large:1"
    held = registry.push(image("large:1", LARGE), target)
    forget(client, held.id)
    monkeypatch.setattr(registry, "SILENCE_S", 3.0)
    said, stopped = [], []

    def watch(done, total):
        if total and not stopped:
            open_one.hold()
            stopped.append(done)

    def say(text):
        said.append(text)
        if back and "trying again" in text:
            open_one.let_go()

    if back:
        assert registry.pull(target, say=say, watch=watch) == held
    else:
        with pytest.raises(EnvironmentFailure, match="tried 3 times"):
            registry.pull(target, say=say, watch=watch)
    open_one.let_go()
    assert stopped and sum("trying again" in text for text in said) == (1 if back else 2)
    assert names(client) == ([target] if back else [])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_push_that_is_ended_gives_the_name_back(home, client, open_one, image, number, code):
    name = image("large:1", LARGE)
    argv = [sys.executable, "-m", "morocco_lib", "push", name, f"{open_one.address}/large:1"]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with When(open_one, LARGE // 8, lambda: process.send_signal(number)) as ended:
        assert process.wait(60) == code and ended.done.is_set()
    assert names(client) == [name]


# -- what is another -----------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_name_that_means_another_image_now_is_invalid(main, home, client, open_one, image):
    first, second, target = image("first:1"), image("second:1"), f"{open_one.address}/x:1"
    old = main("push", first, target).stdout.strip()
    new = main("push", second, target).stdout.strip()
    client.api.tag(first, f"{open_one.address}/x", "1")  # as if somebody else had pushed the second
    done = main("pull", target)
    assert done.returncode == 1 and done.stdout == ""
    assert old.split("@")[1] in done.stderr and f"morocco pull {target}@{new.split('@')[1]}" in done.stderr
    assert client.images.get(target).id == client.images.get(first).id
    assert main("pull", f"{target}@{new.split('@')[1]}").stdout.strip() == new
    assert client.images.get(target).id == client.images.get(second).id
    assert main("pull", target).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("which", ["layer", "manifest"])
def test_bytes_that_were_changed_in_the_registry_are_invalid(main, home, client, open_one, image, which):
    held = registry.push(image(), f"{open_one.address}/x:1")
    forget(client, held.id)
    (manifest,) = (path for path in open_one.blobs() if b"schemaVersion" in path.read_bytes()[:100])
    layer = json.loads(manifest.read_bytes())["layers"][0]["digest"].removeprefix("sha256:")
    (layer,) = (path for path in open_one.blobs() if path.parent.name == layer)
    if which == "layer":
        content = layer.read_bytes()
        layer.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        manifest.write_bytes(manifest.read_bytes() + b" ")  # as good a manifest, and another
    done = main("pull", f"{open_one.address}/x:1")
    assert done.returncode == 1 and "verification failed" in done.stderr, done.stderr
    assert names(client) == []


# -- progress ------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_progress_is_a_bar_on_a_terminal_lines_elsewhere_and_nothing_if_quiet(
    main, home, client, open_one, image, monkeypatch
):
    name = image("large:1", LARGE)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    argv = [sys.executable, "-m", "morocco_lib", "push", name, f"{open_one.address}/a:1"]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):
        while block := os.read(ours, 65536):
            said += block
    os.close(ours)
    assert process.wait() == 0 and b"%|" in said and b"/50.3M" in said, said
    assert process.stdout.read().startswith(f"{open_one.address}/a@sha256:".encode())
    process.stdout.close()
    monkeypatch.setattr(images, "EVERY_S", 0.5)
    with engines.registry(open_one.folder.with_name("b"), open_one.engine) as other:
        lines = main("push", name, f"{other.address}/b:1").stderr.splitlines()
    assert lines[0].startswith("pushing ") and 2 <= len(lines) < 40 and all(" MB" in line for line in lines[1:])
    with engines.registry(open_one.folder.with_name("c"), open_one.engine) as other:
        assert main("push", name, f"{other.address}/c:1", "--quiet").stderr == ""


# -- the canary ----------------------------------------------------------------------------------------------------
def forms(secret, *around):
    """A secret as it is, and as it looks inside base64, wherever in it it lies."""
    found = {secret.encode()}
    for text in (secret, *around):
        for shift in range(3):
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                place = text.encode().find(secret.encode())
                lead = b"x" * shift + text.encode()[:place]
                coded = encode(lead + secret.encode())
                found.add(coded[-(-len(lead) * 8 // 6) + 1 : len(lead + secret.encode()) * 8 // 6])
    return {form for form in found if len(form) > 12}


def test_the_canary_is_found_in_base64_wherever_it_lies():
    for before in ("", "a", "ab", "abc", f"{USER}:", '{"username": "ann", "password": "'):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            coded = encode(f"{before}{SECRET} after".encode())
            assert any(form in coded for form in forms(SECRET)), before


def files_with(folder, wanted, skip=()):
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path not in skip:
            content = path.read_bytes()
            if any(form in content for form in wanted):
                yield path


class Arguments(threading.Thread):
    """Reads the arguments of every process, over and over."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen, self.rounds, self.end = set(), 0, threading.Event()

    def run(self):
        while not self.end.wait(0.005):
            self.rounds += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.seen.add(path.read_bytes())


ECHO = """
import base64, http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        shown = self.headers.get("Authorization", "")
        pair = base64.b64decode(shown.partition(" ")[2]).decode()
        told = f"denied: {shown} {pair}".encode()
        body = b'{"errors": [{"code": "DENIED", "message": "%s"}]}' % told
        self.send_response(403 if shown else 401)
        if not shown:
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_HEAD = do_POST = do_PUT = do_GET
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.fixture
def echo(engine):
    """A registry that says the password back in what it refuses with."""
    argv = [*engines.beside(engine), sys.executable, "-c", ECHO]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    yield f"127.0.0.1:{process.stdout.readline().strip()}"
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_the_password_is_nowhere_but_where_login_keeps_it(home, client, engine, guarded, image, echo, tmp_path):
    folder = tmp_path / "tmp"
    folder.mkdir()
    name, target = image(), f"{guarded.address}/small:1"
    given = {"MOROCCO_REGISTRY_USERNAME": USER, "MOROCCO_REGISTRY_PASSWORD": SECRET}
    wrong = {**given, "MOROCCO_REGISTRY_PASSWORD": SECRET[::-1]}
    login = ("login", "--username", USER, "--password-stdin")
    echoed = {**given, "MOROCCO_REGISTRY_PASSWORD": ECHOED, "MOROCCO_REGISTRY": echo}
    told, watcher = [], Arguments()
    watcher.start()

    def run(*args, code, input=None, env=None):
        for debug in ((), ("--debug",)):
            argv = [sys.executable, "-m", "morocco_lib", *debug, *args]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), **(env or {})}
            options = {"env": environment, "cwd": folder, "capture_output": True, "timeout": 120}
            done = subprocess.run(argv, input=(input or "").encode(), **options)
            assert done.returncode == (1 if debug and code else code), (args, done.stderr.decode())
            told.append(done.stdout + done.stderr)

    registry_of = {"MOROCCO_REGISTRY": guarded.address}
    run("push", name, target, code=2, env=given)
    run("push", name, target, code=2, env=wrong | registry_of)
    run(*login, guarded.address, code=2, input=SECRET[::-1])
    run(*login, echo, code=2, input=ECHOED)  # another: the engine writes into its log what a registry says
    run("push", name, f"{echo}/x:1", code=2, env=echoed)
    run("pull", f"{echo}/x:1", code=2, env=echoed)
    run("push", name, target, code=0, env=given | registry_of)
    run("pull", f"{guarded.address}/small:2", code=2, env=given | registry_of)
    assert not (home / ".docker").exists()
    run(*login, guarded.address, code=0, input=SECRET)
    run("push", name, target, code=0)
    run("pull", target, "--json", code=0)
    watcher.end.set()
    watcher.join()

    wanted = forms(SECRET) | forms(SECRET[::-1])
    assert any(b"***" in text for text in told)  # the echo came, and was hidden
    for text in (*told, *watcher.seen, json.dumps(client.api.history(name)).encode()):
        assert not any(form in text for form in wanted | forms(ECHOED)), text
    assert watcher.rounds > 50 and any(b"--password-stdin" in words for words in watcher.seen)
    keep = home / ".docker/config.json"
    assert list(files_with(home, wanted)) == [keep] and keep.stat().st_mode & 0o777 == 0o600
    assert list(files_with(folder, wanted)) == []
    place = Path(engine.removeprefix("unix://")).parent
    assert "Calling POST" in (place / "log").read_text()  # it was talkative
    assert list(files_with(place, wanted)) == []
    assert list(files_with(guarded.folder, wanted)) == []
