"""`morocco login`, `push` and `pull` against a real engine and a real registry."""

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
import time
from pathlib import Path

import engine
import founding
import pytest
from engine import SECRET, USER
from helpers import ROOT, environment, wait_until
from servers import server as server_program

from morocco_lib.cli import entry, images, output
from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError
from morocco_lib.images import registry

NOWHERE = "127.0.0.1:1"
DIGEST = f"sha256:{'a' * 64}"


def silent(*args):
    pass


# -- without an engine ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:5000/a/b.c:1", ("localhost:5000", "localhost:5000/a/b.c", "1", "")),
        (f"reg.example/x:1@{DIGEST}", ("reg.example", "reg.example/x", "1", DIGEST)),
        ("[::1]:5000/x", ("[::1]:5000", "[::1]:5000/x", "", "")),
        ("docker.io/ann/x:1", ("docker.io", "ann/x", "1", "")),
        ("docker.io/library/python", ("docker.io", "python", "", "")),
    ],
)
def test_a_name_tells_its_registry_as_the_engine_does(text, expected):
    assert registry.parse(text) == expected


@pytest.mark.parametrize(
    "args",
    [
        ("login", "reg.example", "-p", SECRET),
        ("login", f"https://ann:{SECRET}@reg.example"),
        ("push", "x", f"ann:{SECRET}@reg.example/x"),
    ],
)
def test_a_password_in_an_argument_is_refused_and_not_repeated(main, args):
    done = main(*args)
    assert done.returncode == 2 and done.stdout == "" and SECRET not in done.stderr


@pytest.mark.parametrize("text", ["", "ftp://x", "x:port"])
def test_what_is_no_registry_is_wrong_usage(main, text):
    assert main("login", text).returncode == 2


def test_a_password_is_stdin_without_its_newline(main, monkeypatch):
    seen = {}
    monkeypatch.setattr(registry, "login", lambda registry, credential: seen.update(credential))
    login = ("login", "reg.example", "--username", USER, "--password-stdin")
    assert main(*login, input=" a b \r\n").returncode == 0 and seen == {"username": USER, "password": " a b "}
    assert "no password for" in main(*login, input="\n").stderr
    assert "no username and no password" in main("login", "reg.example").stderr


def test_the_environment_is_for_the_registry_it_names(monkeypatch, tmp_path):
    monkeypatch.setenv("MOROCCO_REGISTRY_USERNAME", USER)
    monkeypatch.setenv("MOROCCO_REGISTRY_PASSWORD", SECRET)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("MOROCCO_REGISTRY", raising=False)
    whole = {"username": USER, "password": SECRET}
    assert images.read_credential("reg.example", "", False) == whole  # the user has just named it
    assert registry.known("reg.example") == {}  # a name of an image has, perhaps a stranger's
    monkeypatch.setenv("MOROCCO_REGISTRY", "reg.example")
    assert registry.known("reg.example") == whole and registry.known("other.example") == {}
    with pytest.raises(UsageError):
        images.read_credential("other.example", "", False)


@pytest.mark.parametrize("text", ["{", '{"auths": {"reg.example": {"auth": "!"}}}'])
def test_broken_settings_of_docker_are_wrong_usage_and_left_alone(main, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    env = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": "unix:///nowhere"}
    for args in (("pull", "reg.example/x"), ("login", "reg.example", "--username", USER, "--password-stdin")):
        done = main(*args, env=env, input=SECRET)
        assert done.returncode == 2 and str(tmp_path / "config.json") in done.stderr, done.stderr
    assert (tmp_path / "config.json").read_text() == text


def test_a_credential_helper_that_is_not_installed_is_named(main, tmp_path):
    (tmp_path / "config.json").write_text('{"credHelpers": {"reg.example": "gone"}}')
    done = main("pull", "reg.example/x", env={"DOCKER_CONFIG": str(tmp_path)})
    assert done.returncode == 3 and "docker-credential-gone" in done.stderr and "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("filesystem layer verification failed for digest sha256:401", InvalidResult),
        ("denied: requested access to the resource is denied", UsageError),
        ("manifest for reg.example/x:9 not found: manifest unknown: manifest unknown", UsageError),
        ("invalid reference format: repository name must be lowercase", UsageError),
        ('Get "https://reg.example/v2/": x509: certificate signed by unknown authority', EnvironmentFailure),
        ("open /var/lib/docker/tmp/x: permission denied", EnvironmentFailure),
    ],
)
def test_what_engines_report_is_told_apart(text, kind):
    failure = registry.judge("pull x", "reg.example/x:9", "reg.example", text)
    assert type(failure) is kind and text in str(failure)


def test_a_report_with_an_error_or_without_a_digest_is_a_failure():
    for lines in ([{"error": ""}], [{"status": "Pushed", "id": "a"}]):
        with pytest.raises(registry.Reported):
            registry.follow(lines, silent)


def test_the_bytes_of_all_layers_are_added_up():
    parts = [("a", "Pushing", 1, 10), ("b", "Pushing", 5, 10), ("a", "Pushing", 12, 10), ("b", "Extracting", 1, 99)]
    lines = [{"id": i, "status": s, "progressDetail": {"current": c, "total": t}} for i, s, c, t in parts]
    seen = []
    lines.append({"status": f"1: digest: {DIGEST} size: 528"})
    assert registry.follow(lines, lambda *at: seen.append(at)) == DIGEST
    assert seen == [(1, 10), (6, 20), (17, 22)]


def test_progress_is_a_bar_on_a_terminal_lines_elsewhere_and_nothing_if_quiet(monkeypatch):
    monkeypatch.setattr(output, "EVERY_S", 0.0)
    monkeypatch.setattr(signal, "signal", silent)
    printed = []
    for terminal, quiet in ((True, False), (False, False), (False, True)):
        monkeypatch.setattr(sys, "stderr", err := io.StringIO())
        err.isatty = lambda terminal=terminal: terminal
        with output.transfer_progress("pushing", quiet) as (say, watch):
            say("hello")
            time.sleep(0.15)  # a bar is drawn ten times a second
            watch(25_000_000, 50_000_000)
        printed.append(err.getvalue())
    assert "50%|" in printed[0] and printed[1:] == ["hello\npushing: 25 of 50 MB\n", ""]


# -- with one ------------------------------------------------------------------------------------------------------
def tags(docker, name):
    return sorted(tag for tag in docker.images.get(name).tags)


@pytest.fixture
def target(server, request):
    return f"{server.address}/{request.node.originalname}:1"


@pytest.mark.slow
def test_what_is_pushed_is_pulled_by_its_digest(main, logged_in, docker, target, image):
    name, repository = image(), target.removesuffix(":1")
    first = docker.images.get(name).id
    done = main("push", name, target)
    assert (done.returncode, done.stderr) == (0, f"pushing {target}\n")
    where, digest = done.stdout.strip().split("@")
    assert where == repository and digest.startswith("sha256:") and tags(docker, name) == sorted([name, target])
    again = json.loads(main("push", target, "--json", "--quiet").stdout)
    assert again == {
        "image": f"{where}@{digest}", "name": target, "repository": where, "digest": digest, "id": first
    }  # fmt: skip
    docker.api.remove_image(first, force=True)
    done = main("pull", f"{where}@{digest}", "--json", "--quiet")
    assert (done.returncode, done.stderr, json.loads(done.stdout)) == (0, "", again | {"name": ""})
    assert tags(docker, f"{where}@{digest}") == []
    done = main("pull", target)
    assert (done.returncode, done.stdout) == (0, f"{where}@{digest}\n") and docker.images.get(target).id == first


@pytest.mark.slow
def test_the_commands_in_help_work(home, docker, docker_engine, image, tmp_path):
    # As they are typed: on the port they name, which is free where this engine is.
    docker.api.tag(image(), "tfidf-terra:latest")
    (tmp_path / "password.txt").write_text(f"{SECRET}\n")
    parser = next(a for a in entry.build_parser()._actions if a.dest == "subcommand").choices
    with engine.Registry(tmp_path / "r", docker_engine, {USER: SECRET}, port=5000):
        for verb in ("login", "push", "pull"):
            for line in (line.removeprefix("try:").strip() for line in parser[verb].epilog.splitlines()):
                if "docker.io" in line:
                    continue  # another's, and it asks
                line = line.replace("morocco ", f"{sys.executable} -m morocco_lib ", 1)
                done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True)
                assert done.returncode == 0, (line, done.stderr)


@pytest.mark.slow
def test_the_founding_commands_work_as_typed(main, home, docker, server, image):
    docker.api.tag(image(), "tfidf-terra:latest")
    (home / "token.txt").write_text(SECRET)
    rows = founding.rows("registry")
    assert [row.commands[0].split()[1] for row in rows] == ["login", "push", "pull"]
    for command in (row.commands[0] for row in rows):
        command = command.replace("cr.yandex", server.address).replace("REGISTRY", "r").replace("iam", USER)
        done = founding.typed(command, main, home)
        assert done.returncode == 0, (command, done.stderr)


@pytest.mark.slow
def test_a_login_is_kept_as_docker_keeps_it_and_used(main, home, docker, server, target, image):
    name, login = image(), ("login", server.address, "--username", USER, "--password-stdin")
    done = main("push", name, target)
    assert done.returncode == 2 and f"morocco login {server.address}" in done.stderr and tags(docker, name) == [name]
    done = main(*login, input="wrong")
    assert done.returncode == 2 and "401" in done.stderr and not (home / ".docker").exists()
    # what else Docker keeps there stays, also where the file is a link
    (home / ".docker").mkdir()
    (home / "real.json").write_text('{"auths": {"x.example": {"auth": "YTpi"}}, "detachKeys": "ctrl-q"}')
    (home / "real.json").chmod(0o644)
    (home / ".docker/config.json").symlink_to(home / "real.json")
    done = main(*login, input=f"{SECRET}\n")
    assert (done.returncode, done.stdout) == (0, f"logged in to {server.address} as {USER}\n"), done.stderr
    assert str(home / ".docker/config.json") in done.stderr and "not encrypted" in done.stderr
    assert (home / ".docker/config.json").is_symlink() and (home / "real.json").stat().st_mode & 0o777 == 0o600
    config = json.loads((home / "real.json").read_text())
    assert config["detachKeys"] == "ctrl-q" and set(config["auths"]) == {"x.example", server.address}
    assert main("push", name, target).returncode == 0 and main("pull", target).returncode == 0
    done = subprocess.run(["docker", "push", target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    main(*login, input="wrong")
    assert json.loads((home / "real.json").read_text()) == config


@pytest.mark.slow
def test_a_credential_helper_keeps_the_password_if_one_is_set_up(
    main, home, server, target, image, tmp_path, monkeypatch
):
    box = tmp_path / "bin/docker-credential-box"
    box.parent.mkdir()
    box.write_text(
        f"#!/bin/sh\ncase $1 in store) cat > {tmp_path}/box;; get) cat {tmp_path}/box 2>/dev/null "
        "|| { echo credentials not found in native keychain; exit 1; };; esac\n"
    )
    box.chmod(0o755)
    monkeypatch.setenv("PATH", f"{box.parent}:{os.environ['PATH']}")
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text('{"credsStore": "box"}')
    name, login = image(), ("login", server.address, "--username", USER, "--password-stdin")
    done = main(*login, input=SECRET)
    assert (done.returncode, done.stderr) == (0, "kept in docker-credential-box\n")
    kept = {"ServerURL": server.address, "Username": USER, "Secret": SECRET}
    assert json.loads((tmp_path / "box").read_text()) == kept
    assert json.loads((home / ".docker/config.json").read_text())["auths"] == {server.address: {}}
    done = main("push", name, target)
    assert done.returncode == 0, done.stderr
    box.write_text(f"#!/bin/sh\necho '{SECRET}'\nexit 1\n")
    for args in (("push", name, target), login):
        done = main(*args, input=SECRET)
        assert done.returncode == 3 and "docker-credential-box" in done.stderr and SECRET not in done.stderr


@pytest.mark.slow
def test_a_login_asks_on_a_terminal_and_shows_no_password(home, server):
    ours, theirs = pty.openpty()

    def take():  # as the terminal of the process: passwords are asked for there
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    argv = [sys.executable, "-m", "morocco_lib", "login", server.address]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take)
    os.close(theirs)
    printed = b""
    for prompt, answer in ((b"user name", USER), (b"password of ann", SECRET), (b"logged in", "")):
        while prompt not in printed:
            printed += os.read(ours, 1000)
        if answer:
            os.write(ours, f"{answer}\n".encode())
    assert process.wait(30) == 0 and SECRET.encode() not in printed
    os.close(ours)


# -- what is not there ---------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["small:2", f"small@{DIGEST}", "Small:1"])
def test_what_a_registry_does_not_hold_is_wrong_usage(main, logged_in, server, image, wanted):
    main("push", image(), f"{server.address}/small:1")
    done = main("pull", f"{server.address}/{wanted}")
    sign = "invalid reference" if wanted == "Small:1" else f"{server.address} has no {server.address}/{wanted}"
    assert done.returncode == 2 and sign in done.stderr, done.stderr


@pytest.mark.slow
def test_an_image_that_the_engine_does_not_hold_cannot_be_pushed(main, logged_in, target):
    done = main("push", "nothing:1", target)
    assert done.returncode == 2 and "nothing:1" in done.stderr
    assert "does not say where to push to" in main("push", "nothing:1").stderr


@pytest.mark.slow
def test_an_unreachable_registry_is_an_environment_failure_that_changes_no_name(main, home, docker, image):
    first, second = image(), image()
    login = ("login", NOWHERE, "--username", USER, "--password-stdin")
    for args in (login, ("push", second, f"{NOWHERE}/x:1"), ("pull", f"{NOWHERE}/x:1")):
        done = main(*args, input=SECRET)
        assert done.returncode == 3 and "connection refused" in done.stderr and "reaches 127.0.0.1:1" in done.stderr
    assert not (home / ".docker").exists() and tags(docker, second) == [second]
    docker.api.tag(first, f"{NOWHERE}/x", "1")
    assert main("push", second, f"{NOWHERE}/x:1").returncode == 3
    assert tags(docker, first) == sorted([first, f"{NOWHERE}/x:1"])


@pytest.mark.slow
def test_a_failed_push_does_not_take_away_an_images_only_name(main, home, docker):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    only = json.loads(docker.api.import_image_from_data(out.getvalue()).splitlines()[-1])["status"]
    try:
        assert main("push", only, f"{NOWHERE}/x:1").returncode == 3
        assert tags(docker, only) == [f"{NOWHERE}/x:1"]
    finally:
        docker.api.remove_image(only, force=True)


@pytest.mark.slow
def test_a_push_that_is_ended_gives_the_name_back(logged_in, docker, server, target, image):
    name = image(48 << 20)
    before = server.stored_bytes()
    process = engine.start_morocco("push", name, target)
    assert wait_until(lambda: server.stored_bytes() > before + (1 << 20))
    process.terminate()
    assert process.wait(60) == 143 and tags(docker, name) == [name]


# -- what is another -----------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_name_that_means_another_image_now_is_invalid(main, logged_in, docker, target, image):
    first, second = image(), image()
    old = main("push", first, target).stdout.strip()
    new = main("push", second, target).stdout.strip()
    docker.api.tag(first, target)  # as if somebody else had pushed the second
    done = main("pull", target)
    assert done.returncode == 1 and done.stdout == ""
    assert old.split("@")[1] in done.stderr and f"morocco pull {target}@{new.split('@')[1]}" in done.stderr
    assert docker.images.get(target).id == docker.images.get(first).id
    assert main("pull", f"{target}@{new.split('@')[1]}").stdout.strip() == new
    assert docker.images.get(target).id == docker.images.get(second).id


@pytest.mark.slow
def test_bytes_that_were_changed_in_the_registry_are_invalid(main, logged_in, docker, server, target, image):
    name = image()
    held = json.loads(main("push", name, target, "--json").stdout)
    docker.api.remove_image(held["id"], force=True)
    blobs = server.folder / "data/docker/registry/v2/blobs/sha256"
    manifest = json.loads((blobs / held["digest"][7:9] / held["digest"][7:] / "data").read_text())
    layer = manifest["layers"][0]["digest"][7:]
    path = blobs / layer[:2] / layer / "data"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = main("pull", target)
    assert done.returncode == 1 and "verification failed" in done.stderr, done.stderr
    assert not docker.images.list(target)


# -- the canary ----------------------------------------------------------------------------------------------------
def forms(secret):
    """A secret as it is, and what is the same of its base64 wherever in it it lies."""
    found = {secret.encode()}
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            coded = encode(b"x" * shift + secret.encode())
            found.add(coded[-(-shift * 8 // 6) + (shift > 0) : (shift + len(secret)) * 8 // 6])
    return found


def holds(content, wanted):
    return any(form in content for form in wanted)


def files_with(folder, wanted):
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if holds(path.read_bytes(), wanted)]


class Arguments(threading.Thread):
    """Reads the arguments of every process, over and over."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen, self.end = set(), threading.Event()

    def run(self):
        while not self.end.wait(0.005):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.seen.add(path.read_bytes())


@contextlib.contextmanager
def echo(address):
    """Run a registry that repeats the password in its refusal, where the engine reaches it; yields its address."""
    argv = [*engine.beside(address), *server_program("echo_registry")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


@pytest.mark.slow
def test_the_password_is_nowhere_but_where_login_keeps_it(home, tmp_path, tmp_path_factory, monkeypatch):
    engine_folder = tmp_path_factory.mktemp("e")  # a short path: sockets lie in it
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(engine.running(engine_folder, options=("--debug",)))  # at its most talkative
        docker = stack.enter_context(engine.client(address))
        guarded = stack.enter_context(engine.Registry(tmp_path / "r", address, {USER: SECRET}))
        name, elsewhere = (stack.enter_context(engine.noise_image(docker, 1000)), stack.enter_context(echo(address)))
        monkeypatch.setenv("DOCKER_HOST", address)
        folder, target, echoed = tmp_path / "tmp", f"{guarded.address}/small:1", "parrot-a81c?>%~9b"
        folder.mkdir()
        printed, watcher = [], Arguments()
        watcher.start()

        def run(*args, code, input="", **given):
            env = environment({"TMPDIR": str(folder), **{f"MOROCCO_{name}": value for name, value in given.items()}})
            for debug in ((), ("--debug",)) if code else ((),):
                argv = [sys.executable, "-m", "morocco_lib", *debug, *args]
                done = subprocess.run(argv, input=input.encode(), env=env, cwd=folder, capture_output=True)
                assert done.returncode == (1 if debug else code), (args, done.stderr.decode())
                printed.append(done.stdout + done.stderr)

        login = ("login", "--username", USER, "--password-stdin")
        user = {"REGISTRY": guarded.address, "REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": SECRET}
        run("push", name, target, code=2, **user | {"REGISTRY_PASSWORD": SECRET[::-1]})
        run(*login, guarded.address, code=2, input=SECRET[::-1])
        run(*login, elsewhere, code=2, input=echoed)  # another: the engine writes into its log what a registry sends
        run("push", name, f"{elsewhere}/x:1", code=2, **user | {"REGISTRY": elsewhere, "REGISTRY_PASSWORD": echoed})
        run("push", name, target, code=0, **user)
        run("pull", f"{guarded.address}/small:2", code=2, **user)
        assert not (home / ".docker").exists()
        run(*login, guarded.address, code=0, input=SECRET)
        run("pull", target, "--json", code=0)
        watcher.end.set()
        watcher.join()

        wanted = forms(SECRET) | forms(SECRET[::-1])
        assert any(b"***" in text for text in printed)  # the echo came, and was hidden
        for text in (*printed, *watcher.seen, json.dumps(docker.api.history(name)).encode()):
            assert not holds(text, wanted | forms(echoed)), text
        assert any(b"--password-stdin" in words for words in watcher.seen)
        keep = home / ".docker/config.json"
        assert files_with(home, wanted) == [keep] and keep.stat().st_mode & 0o777 == 0o600
        assert "Calling POST" in (engine_folder / "log").read_text()  # it was talkative
        for place in (folder, engine_folder, guarded.folder):
            assert files_with(place, wanted) == [], place
