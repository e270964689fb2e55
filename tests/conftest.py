"""Fixtures: official records where there are any, synthetic ones, a fitted model, the command line near and apart.

Also what holds for every test: the machine looks quiet (tests/quiet), torch has one thread, what shares an engine or a
fixture runs in one worker, and an unmarked test keeps to its budget of time.
"""

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack, chdir
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import engine
import pytest
import quiet_machine
import s3
from engine import docker, image_of  # noqa: F401 - fixtures
from helpers import QUIET, ROOT, environment, write_plan

from morocco_lib import cli, data
from morocco_lib.data import synthetic
from morocco_lib.models import model_class, weights
from morocco_lib.tasks import get_task

# For torch here, which reads it when it is imported, and for all that tests start.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

sys.modules.setdefault("rfc3987_syntax", None)  # as in pipeline/notebook_runner.py, before a test imports nbformat
sys.modules.setdefault("openvino_telemetry", None)  # as in models/transformer/openvino.py; it forks us to report

BUDGET_S = float(
    os.environ.get("MOROCCO_TEST_BUDGET_S", 8)
)  # of an unmarked test on a quiet machine, what its fixtures take excluded
UNLIMITED = ("slow", "gpu")
ENGINES = {"docker_engine", "engine"}  # fixtures; one engine a session, so those who use it run in one worker

# What a script starts in the background ignores Ctrl-C, and under nohup a closed terminal; so would programs of tests.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


# -- what holds for every test -------------------------------------------------------------------------------------
def see_load(real: bool) -> None:
    """Let this process, and what it starts, see the machine's real load or a quiet machine."""
    quiet_machine.real = real
    others = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder not in ("", str(QUIET))]
    os.environ["PYTHONPATH"] = os.pathsep.join(others if real else [str(QUIET), *others])


see_load(real=False)


@pytest.hookimpl(tryfirst=True)  # before fixtures of any scope
def pytest_runtest_setup(item):
    see_load(real=item.get_closest_marker("real_load") is not None)


def is_deep(item) -> bool:
    return item.path.is_relative_to(ROOT / "tests/deep")


def worker_group(item) -> str | None:
    """Return the name of the tests that must run in one worker with this one: they share what is made once, or time."""
    if ENGINES & set(item.fixturenames):
        return "engine"
    if "quick_plan" in item.fixturenames:
        return "quick_plan"
    if item.get_closest_marker("timed"):
        return "timed"
    file = item.nodeid.split("::")[0]
    fixtures = [found for name in item.fixturenames for found in item._fixtureinfo.name2fixturedefs.get(name, ())]
    shared = any(found.scope != "function" and found.baseid.startswith(file) for found in fixtures)
    return file if shared else None


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.get_closest_marker("long") is None)  # at the end the other worker would wait
    for item in items:
        if group := worker_group(item):
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    limited = call.when == "call" and report.passed and not is_deep(item)
    if limited and not any(item.get_closest_marker(name) for name in UNLIMITED):
        busy = max(1.0, os.getloadavg()[0] / os.cpu_count())
        beside = 2.0 if "PYTEST_XDIST_WORKER" in os.environ else 1.0  # another worker's tests
        allowed_s = (
            BUDGET_S * beside * busy**2
        )  # the load of the last minute lags behind, and programs started wait, too
        if call.duration > allowed_s:
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid} took {call.duration:.1f} s, which is over the {allowed_s:.1f} s of an unmarked test; "
                "make it quicker, or move it to tests/deep/ or mark it slow"
            )
    return report


def pytest_terminal_summary(terminalreporter):
    took_s = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                took_s[report.nodeid] += report.duration
    if not took_s:
        return
    terminalreporter.section(f"{len(took_s)} tests took {sum(took_s.values()):.0f} s together; the ten slowest")
    for nodeid in sorted(took_s, key=took_s.get, reverse=True)[:10]:
        terminalreporter.line(f"{took_s[nodeid]:8.1f} s  {nodeid}")


# -- fixtures ------------------------------------------------------------------------------------------------------


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
def val(synthetic_data) -> Path:
    """The file of TERRa's synthetic val records."""
    return synthetic_data / "TERRa" / "val.jsonl"


@pytest.fixture(scope="session")
def small(synthetic_data, tmp_path_factory) -> Path:
    """A data folder with a few records of RWSD, and no test split: what small_training.py trains on."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "RWSD").mkdir()
    for split, size in (("train", 160), ("val", 60)):
        lines = (synthetic_data / "RWSD" / f"{split}.jsonl").read_bytes().splitlines(keepends=True)
        (folder / "RWSD" / f"{split}.jsonl").write_bytes(b"".join(lines[:size]))
    return folder


@pytest.fixture(scope="session")
def fitted(synthetic_data, tmp_path_factory) -> Path:
    """The weights folder of a tfidf model of terra, fitted on synthetic records."""
    task = get_task("terra")
    _, records = data.read_split(synthetic_data, task, "train")
    folder = tmp_path_factory.mktemp("fitted") / "weights"
    weights.save(model_class("tfidf").fit(task, records, 1), task, folder, name="tfidf", trained_on={"origin": "test"})
    return folder


@pytest.fixture(scope="session")
def swarm_folder(tmp_path_factory, synthetic_data):
    """What all machines of a swarm have; see `swarm_machines`."""
    import swarm_machines

    folder = tmp_path_factory.mktemp("machines")
    swarm_machines.prepare(folder, synthetic_data)
    return folder


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
def quick_plan(main, tmp_path_factory) -> SimpleNamespace:
    """A plan of two models on TERRa, run once: `file`, `folder`, `summary` (of --json), `stderr`. Change copies only."""
    home = tmp_path_factory.mktemp("quick_plan")
    plan = write_plan(home, models=["majority", "tfidf"], input_size=12_000, repeats=2)
    done = main("run", plan, "--out", home / "small", "--json", cwd=ROOT, env={"MOROCCO_DATA": ""})
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(file=plan, folder=home / "small", summary=json.loads(done.stdout), stderr=done.stderr)


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
    with engine.client(docker_engine) as client:
        return engine.tiny_image(client)


# -- S3 ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def s3_server():
    """An S3 server in a process of its own; see `s3.running`."""
    with s3.running() as server:
        yield server


@pytest.fixture
def bucket(s3_server, monkeypatch, request):
    """The name of a new bucket on it; our environment leads there, and its faults end with the test."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    name = f"b-{abs(hash(request.node.nodeid))}"
    s3_server.client.create_bucket(Bucket=name)
    s3_server.log()
    yield name
    s3_server.tell()
