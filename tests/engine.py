"""A Docker Engine for the tests: the one that DOCKER_HOST names, else one of our own beside whatever runs here.

The own one has its socket, data and network namespace to itself, and no way out of the machine: any number of test
sessions may have one. Images for the tests are made of the Python that runs them: 40 MB, no hub. `docker` and `image_of`
are fixtures, which conftest.py imports.
"""

import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from helpers import ROOT, free_ports

TINY = "morocco-tests/python:tiny"
LEFT_OUT = {
    "site-packages",
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "__pycache__",
    "pydoc_data",
}
ANSWER = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"idx": json.loads(line)["idx"], "label": "entailment"}), flush=True)
"""
PACED = (ROOT / "tests/servers/paced.py").read_text()
USER, SECRET = "ann", "canary-7e1f?>%~0d"  # of a registry that is guarded


def why_none() -> str | None:
    """Return why no engine of our own can be started here."""
    if os.geteuid() != 0:
        return "a Docker Engine of our own needs root; name a running one by DOCKER_HOST"
    missing = [name for name in ("dockerd", "unshare") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (apt-get install docker.io)" if missing else None


@contextmanager
def running(folder: Path, path: str | None = None, options: tuple[str, ...] = ()) -> Iterator[str]:
    """Run an engine in a folder and yield its address.

    Args:
        path: PATH of the engine, where it looks for runtimes and hooks; None: ours.
        options: Further ones of dockerd.
    """
    address, program = start(folder, path, options)
    try:
        yield address
    finally:
        stop(program)


def start(folder: Path, path: str | None = None, options: tuple[str, ...] = ()) -> tuple[str, subprocess.Popen]:
    folder.mkdir(parents=True, exist_ok=True)
    address = f"unix://{folder}/docker.sock"
    namespace = f"morocco-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"  # the same after a restart
    argv = ["unshare", "--net", "--mount", "dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec"]
    argv += ["-H", address, "-p", folder / "pid", "--containerd-namespace", namespace]
    argv += ["--containerd-plugins-namespace", f"{namespace}-plugins", *options]
    with (folder / "log").open("ab") as log:
        env = {**os.environ, "PATH": path or os.environ["PATH"]}
        program = subprocess.Popen(
            argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env, start_new_session=True
        )
    try:
        end = time.monotonic() + 60
        while not answers(address):
            if program.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no engine came up:\n{(folder / 'log').read_text()[-3000:]}")
            time.sleep(0.1)
    except BaseException:
        stop(program)
        raise
    return address, program


def answers(address: str) -> bool:
    import docker

    try:
        client = docker.DockerClient(address, timeout=10)
        client.ping()
        client.close()
    except Exception:
        return False
    return True


@contextmanager
def client(address: str) -> Iterator:
    """Talk to an engine."""
    import docker

    talk = docker.DockerClient(address, timeout=60)
    try:
        yield talk
    finally:
        talk.close()


def stop(program: subprocess.Popen) -> None:
    program.terminate()
    try:
        program.wait(30)
    except subprocess.TimeoutExpired:
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()  # containerd
        program.kill()
        program.wait(10)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)


def left_containers(client) -> list[str]:
    """Return the containers of morocco that are left, and remove them, so that one failing test fails no other."""
    left = client.containers.list(all=True, filters={"label": "morocco.owner"}, ignore_removed=True)
    for container in left:
        with suppress(Exception):
            container.remove(force=True)
    return [container.id for container in left]


def beside(address: str) -> list[str]:
    """Return what to put before a command so that it runs where the engine's loopback is, and see that it is up."""
    pid = Path(address.removeprefix("unix://")).parent / "pid"
    if not pid.is_file():
        return []  # not one of ours: it shares the machine's
    enter = ["nsenter", f"--net=/proc/{pid.read_text().strip()}/ns/net"]
    subprocess.run([*enter, "ip", "link", "set", "lo", "up"], check=True)
    return enter


# -- registries ----------------------------------------------------------------------------------------------------
class Registry:
    """A registry server on an engine's loopback that can be killed and started again; `program` is its process.

    Args:
        users: Name -> password of those who may use it; None: everybody.
        port: Where it listens; 0: where nobody does.
    """

    def __init__(self, folder: Path, engine: str, users: dict[str, str] | None = None, port: int = 0):
        folder.mkdir(parents=True)
        self.folder, self.engine = folder, engine
        self.address = f"127.0.0.1:{port or free_ports(1)[0]}"
        config = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": self.address},
        }
        if users is not None:
            for name, password in users.items():
                create = "" if (folder / "users").exists() else "c"
                add = ["htpasswd", f"-{create}iB", folder / "users", name]
                subprocess.run(add, input=password.encode(), capture_output=True, check=True)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "users")}}
        (folder / "config.yml").write_text(json.dumps(config))
        self.start()

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        log = self.folder / "log"
        log.write_bytes(b"")
        with log.open("ab") as out:
            argv = [*beside(self.engine), "docker-registry", "serve", self.folder / "config.yml"]
            self.program = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while "listening on" not in log.read_text():
            if self.program.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no registry came up:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        self.program.kill()
        self.program.wait()

    def stored_bytes(self) -> int:
        """Return how much it stores, uploads that are not finished included."""
        sizes = 0
        for path in (self.folder / "data").rglob("data"):
            try:
                sizes += path.stat().st_size
            except FileNotFoundError:  # moved from the uploads to the blobs
                continue
        return sizes


def no_registry() -> str | None:
    """Return why no registry can be started here."""
    missing = [name for name in ("docker-registry", "htpasswd", "nsenter", "ip") if shutil.which(name) is None]
    names = "docker-registry apache2-utils util-linux iproute2"
    return f"not installed: {', '.join(missing)} (apt-get install {names})" if missing else None


# -- images --------------------------------------------------------------------------------------------------------
def tiny_image(client) -> str:
    """Make the tiny image if the engine does not hold it, and return its name."""
    if not client.images.list(TINY):
        client.api.import_image_from_data(
            _tiny_tar(), *TINY.split(":"), changes=["ENV PATH=/usr/local/bin:/usr/bin:/bin"]
        )
    return TINY


def _tiny_tar() -> bytes:
    """Return a root file system with this Python and the libraries it and its extension modules need."""
    binary, library = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    needed = {binary, *library.glob("lib-dynload/*.so")}
    arrays = Path(importlib.util.find_spec("numpy").origin).parents[1]  # what models compute with is to run on it
    others = [*arrays.glob("numpy/**/*.so"), *arrays.glob("numpy.libs/*.so*"), *arrays.glob("safetensors/*.so")]
    linked = subprocess.run(["ldd", *map(str, [*needed, *others])], capture_output=True, text=True, check=False).stdout
    shared = {Path(word) for word in re.findall(r"(/\S+\.so\S*)", linked.replace(":", " "))}
    shared = {path for path in shared if not path.is_relative_to(arrays)}
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w") as tar:

        def keep(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
            parts = set(Path(info.name).parts)
            return None if parts & LEFT_OUT or any(p.startswith("config-") for p in parts) else info

        tar.add(library, str(library), filter=keep)
        tar.add(os.path.realpath("/bin/sh"), "bin/sh")
        for path in sorted({binary, *shared} - set(library.glob("lib-dynload/*.so"))):
            tar.add(os.path.realpath(path), str(path))
        for name in ("python3", "python"):
            link = tarfile.TarInfo(f"usr/local/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, str(binary)
            tar.addfile(link)
        for name, mode in (("tmp", 0o1777), ("proc", 0o755), ("sys", 0o755), ("dev", 0o755), ("etc", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)
    return tar_bytes.getvalue()


@contextmanager
def noise_image(client, size: int) -> Iterator[str]:
    """Make an image of random bytes, which nothing else holds, and yield its name; it goes with all its names."""
    import docker.errors

    tar_bytes, name = io.BytesIO(), f"noise-{uuid.uuid4().hex[:12]}"
    with tarfile.open(fileobj=tar_bytes, mode="w") as tar:
        add(tar, "bytes", os.urandom(size))
    client.api.import_image_from_data(tar_bytes.getvalue(), name, "1")
    made = client.images.get(f"{name}:1").id
    try:
        yield f"{name}:1"
    finally:
        with suppress(docker.errors.ImageNotFound):
            client.api.remove_image(made, force=True)


def build(client, name: str, files: dict[str, str], entrypoint: list[str], base: str = TINY, extra: str = "") -> str:
    """Build an image of a few text files in /model on a base, without running anything, and return its name."""
    dockerfile = f"FROM {base}\nCOPY model /model\n{extra}\nENTRYPOINT {json.dumps(entrypoint)}\n"
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        add(tar, "Dockerfile", dockerfile.encode())
        for path, text in files.items():
            add(tar, f"model/{path}", text.encode())
    context.seek(0)
    client.images.build(fileobj=context, custom_context=True, tag=name, rm=True, forcerm=True)
    return name


def add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    """Add a file to an archive."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="session")
def docker(docker_engine):
    """A client of the engine."""
    with client(docker_engine) as talk:
        yield talk


@pytest.fixture(scope="session")
def image_of(docker, tiny_image):
    """Build an image of one Python program and the words it is started with, and return its name."""
    made: dict[tuple[str, ...], str] = {}

    def make(text: str, *words: object) -> str:
        key = (text, *map(str, words))
        if key not in made:
            argv = ["python3", "-I", "-S", "/model/program.py", *key[1:]]
            made[key] = build(docker, f"morocco-tests/program:{len(made)}", {"program.py": textwrap.dedent(text)}, argv)
        return made[key]

    return make


# -- commands ------------------------------------------------------------------------------------------------------
def bench_words(image: str, data: Path, out: Path, *options: object) -> list[str]:
    """Return the arguments of a bench of an image on TERRa."""
    return [*map(str, ["bench", "--image", image, "terra", "--data", data, "--out", out, *options]), "--json"]


def start_morocco(*words: str) -> subprocess.Popen:
    """Start `morocco WORDS...` in the background; its messages can be read from stderr."""
    argv = [sys.executable, "-m", "morocco_lib", *words]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


# -- plans ---------------------------------------------------------------------------------------------------------
class Project:
    """The project's parameters and notebooks in a folder of their own, with machines that start from the tiny image."""

    def __init__(self, root: Path):
        self.root = root
        for name in ("params", "notebooks"):
            shutil.copytree(ROOT / name, root / name)
        shutil.copy(ROOT / "pyproject.toml", root)
        for runner in ("docker", "auto"):
            text = f"machine:\n  name: {runner}\n  runner: {runner}\n  base: {TINY}\n  timeout_s: 120\n"
            (root / f"params/machines/{runner}.yaml").write_text(text)

    def start(self, name: str, **values) -> subprocess.Popen:
        """Start a plan of this name: tfidf on TERRa in containers, unless values say otherwise."""
        plan = {"name": name, "models": ["tfidf"], "tasks": ["terra"], "machine": "docker", "input_size": 400}
        plan |= {"repeats": 2, **values}
        path = self.root / f"params/plans/{name}.yaml"
        path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in plan.items()))
        argv = [sys.executable, "-m", "morocco_lib", "run", path]
        return subprocess.Popen(argv, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, name: str, **values) -> tuple[int, str]:
        """Run a plan and return its exit code and what it printed to stderr."""
        with self.start(name, **values) as program:
            try:
                _, talk = program.communicate(timeout=500)
                return program.returncode, talk
            finally:
                program.kill()
