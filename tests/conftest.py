"""Fixtures: official records where there are any, synthetic ones, a fitted model, the command line near and apart."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, chdir
from pathlib import Path
from unittest import mock

import engine
import pytest

from morocco_lib import cli, data
from morocco_lib.data import synthetic
from morocco_lib.models import model_class, weights
from morocco_lib.tasks import get_task

ROOT = Path(__file__).resolve().parents[1]

# What a script starts in the background ignores Ctrl-C, and so would the programs that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of official files; tests that need it are skipped without, and fail in strict runs."""
    named = os.environ.get("MOROCCO_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if (folder / "rsg").is_dir():
        return folder
    reason = f"no official files in {folder}; set MOROCCO_TEST_DATA to a folder that holds rsg/TERRa"
    if os.environ.get("MOROCCO_STRICT"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def archive(real_data) -> Path:
    """The original's published logs."""
    path = real_data / "morocco" / "morocco-bench-logs.tar.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    return path


@pytest.fixture(scope="session")
def synthetic_data(tmp_path_factory) -> Path:
    """A folder of synthetic records in the official layout."""
    folder = tmp_path_factory.mktemp("synthetic")
    data.make_synthetic(folder, synthetic.generator_names(), seed=1)
    return folder


@pytest.fixture(scope="session")
def fitted(synthetic_data, tmp_path_factory) -> Path:
    """The weights folder of a tfidf model of terra, fitted on synthetic records."""
    task = get_task("terra")
    _, records = data.read_split(synthetic_data, task, "train")
    folder = tmp_path_factory.mktemp("fitted") / "weights"
    weights.save(model_class("tfidf").fit(task, records, 1), task, folder, name="tfidf", trained_on={"origin": "test"})
    return folder


def environment(changes: dict[str, str] | None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **(changes or {})}


@pytest.fixture(scope="session")
def morocco():
    """Run `morocco ARGS...` as a program of its own; returns exit code, stdout and stderr as text.

    For what only a process has: limits, a closed stream, what it costs to start, a clock that nothing slows. Where a
    test needs none of it, `main` is sooner.
    """

    def run(*args, input: str | bytes | None = None, env=None, **options) -> subprocess.CompletedProcess:
        given = input.encode() if isinstance(input, str) else input
        argv = [sys.executable, "-m", "morocco_lib", *map(str, args)]
        if given is None:
            options.setdefault("stdin", subprocess.DEVNULL)
        options |= {"env": environment(env), "capture_output": True, "timeout": 120, "check": False}
        done = subprocess.run(argv, input=given, **options)
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done

    return run


@pytest.fixture(scope="session")
def main(tmp_path_factory):
    """Run `morocco ARGS...` in this process; takes `input`, `cwd` and `env`, and returns what `morocco` returns.

    The streams are files, as in `morocco ARGS... < in > out 2> err`, and signal handlers are put back.
    """
    folder = tmp_path_factory.mktemp("streams")

    def run(*args, input: str | bytes = b"", cwd=None, env=None) -> subprocess.CompletedProcess:
        argv = [str(arg) for arg in args]
        (folder / "stdin").write_bytes(input.encode() if isinstance(input, str) else input)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with ExitStack() as stack:
            modes = {"stdin": "r", "stdout": "w", "stderr": "w"}
            streams = {n: stack.enter_context(open(folder / n, mode, encoding="utf-8")) for n, mode in modes.items()}
            stack.enter_context(mock.patch.multiple(sys, **streams))
            stack.enter_context(mock.patch.dict(os.environ, environment(env)))
            stack.enter_context(chdir(cwd or "."))
            try:
                code = cli.main(argv)
            except SystemExit as end:
                code = end.code
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        out, err = ((folder / name).read_bytes().decode() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(argv, code, out, err)

    return run


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory):
    """The address of a Docker Engine: the one that DOCKER_HOST names, else one of our own, stopped afterwards."""
    named = os.environ.get("DOCKER_HOST")
    if named and engine.answers(named):
        yield named
        return
    if reason := engine.why_none():
        if os.environ.get("MOROCCO_STRICT"):
            pytest.fail(reason)
        pytest.skip(reason)
    with engine.running(tmp_path_factory.mktemp("engine")) as address, mock.patch.dict(os.environ, DOCKER_HOST=address):
        yield address


@pytest.fixture(scope="session")
def tiny_image(docker_engine):
    """The name of an image with Python and nothing else, on that engine."""
    with engine.client(docker_engine) as docker:
        return engine.tiny_image(docker)
