"""A bare program where we are root: what it finds of right answers, of us and of others, and what it may still do."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import ROOT, write_records
from servers import PYTHON

from morocco_lib.analysis.run_files import read_run
from morocco_lib.benchmark.run import RunSeries
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.data import workload
from morocco_lib.errors import EnvironmentFailure
from morocco_lib.formatting import runner_text
from morocco_lib.runners import confined
from morocco_lib.runners.contract import Limits, converse
from morocco_lib.runners.process import ProcessRunner
from morocco_lib.tasks import get_task

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
GOLD = "only-right-answers-hold-this"
TASK = get_task("terra")
SPY = """
import ctypes, json, os, sys
us, folders, found = sys.argv[1], sys.argv[2:-2], {"uid": os.getuid()}
def tried(name, what):
    try:
        found[name] = repr(what())[:60]
    except OSError as error:
        found[name] = error.errno
def read(path):
    with open(path, "rb") as file:
        return file.read(100)
def holds_gold():
    seen = []
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for path in (os.path.join(parent, name) for name in names):
                try:
                    seen += [path] * (b"only-right-" + b"answers-hold-this" in open(path, "rb").read())
                except OSError:
                    pass
    return seen
for name in ("environ", "mem", "maps", "fd/0", "cwd/val.jsonl", "root/etc/hostname", "task/%s/environ" % us):
    tried(name, lambda: read(f"/proc/{us}/{name}"))
tried("up", lambda: read("../val.jsonl"))
tried("signal", lambda: os.kill(int(us), 0))
tried("disk", lambda: [read(f"/dev/{line.split()[3]}") for line in open("/proc/partitions").readlines()[2:]])
libc = ctypes.CDLL(None, use_errno=True)
found["handle"] = libc.open_by_handle_at(-1, None, 0) and ctypes.get_errno()
libc.unshare(0x10000000 | 0x20000)
found["uncovered"] = [path for path in folders if not libc.umount2(path.encode(), 2)]
print(json.dumps({**found, "gold": holds_gold(), "cwd": os.listdir()}), file=sys.stderr)
for line in sys.stdin:
    print(json.dumps({"idx": json.loads(line)["idx"], "label": "entailment"}))
"""


class Run:
    """One run of a program: what it printed."""

    def __init__(self, runner, argv):
        self.out, self.err = bytearray(), bytearray()
        handle = runner.start(argv, Limits(20))
        keep = [lambda t_ns, data, into=into: into.extend(data) for into in (self.out, self.err)]
        self.exit = converse(handle, [b""], Limits(20), *keep).exit
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("morocco-")]


def python(code: str, *words, runner=None, **options) -> Run:
    return Run(runner or ProcessRunner(**options), [*PYTHON, "-c", code, *map(str, words)])


def spied(target: Target, step: Path, source: Path) -> dict:
    """Return what the program of a run finds, as it prints it to stderr."""
    load = workload.build(TASK, TASK.read(source), 2, 1)
    with RunSeries(target, load, source, step, batch_size=1) as series:
        run = read_run(series.run(step, "bench"))
    assert run.facts["exit"]["code"] == 0 and run.facts["proven"]["gold"] is confined.possible()
    return json.loads((run.folder / "stderr.log").read_text())


@pytest.fixture
def plan(tmp_path):
    """A plan with its data: records with gold, an earlier step with its own, the folder of the next step."""
    (tmp_path / "data/code").mkdir(parents=True)
    source = write_records(tmp_path / "data/val.jsonl", 2)
    source.write_text(source.read_text().replace('"premise": "', f'"secret": "{GOLD}", "premise": "'))
    (tmp_path / "data/val.jsonl.bak").write_text(source.read_text())
    earlier, step = (tmp_path / "plan" / name for name in ("other/terra/bench-00000000", "mine/terra/bench-11111111"))
    for folder in (earlier / "runs/01", step):
        folder.mkdir(parents=True)
    (earlier / "runs/01/workload.json").write_text(GOLD)
    (step / "notes").write_text(GOLD)
    return tmp_path


@needs_root
@pytest.mark.parametrize("cwd", ["data/code", "plan/mine/terra/bench-11111111", "plan"])
def test_a_program_finds_no_right_answers_and_nothing_of_us(plan, cwd):
    folders = [plan, "/dev/shm", plan / "plan/mine"]
    argv = [*PYTHON, "-c", SPY, str(os.getpid()), *map(str, folders)]
    target = Target(Program(argv, "spy"), ProcessRunner(cwd=plan / cwd))
    found = spied(target, plan / "plan/mine/terra/bench-11111111", plan / "data/val.jsonl")
    assert found.pop("uid") in confined.USERS
    assert found.pop("gold") == found.pop("uncovered") == found.pop("cwd") == []
    assert found.pop("up") in (2, "b''") and found.pop("handle") == found.pop("signal") == 1
    assert set(found.values()) == {13} and len(found) == 8


@needs_root
def test_where_nothing_can_be_hidden_the_spy_finds_it_and_the_row_says_so(plan, monkeypatch):
    monkeypatch.setattr(confined, "possible", lambda: False)
    argv = [*PYTHON, "-c", SPY, str(os.getpid()), str(plan)]
    step = plan / "plan/mine/terra/bench-11111111"
    found = spied(Target(Program(argv, "spy"), ProcessRunner(cwd=plan / "data/code")), step, plan / "data/val.jsonl")
    assert len(found["gold"]) == 4 and found["uid"] == 0 and GOLD in found["up"]
    proven = {"memory": True, "isolation": False}
    assert (
        runner_text({"runner": "process", "proven": proven | {"gold": False}})
        == "process: no isolation, gold not hidden"
    )
    assert runner_text({"runner": "process", "proven": proven | {"gold": True}}) == "process: no isolation, gold hidden"


@needs_root
def test_results_beside_the_folder_and_those_of_the_project_are_hidden(tmp_path, monkeypatch):
    for name in ("notebooks", "params", "outputs/old", "results/a/runs", "results/b", "results/mine"):
        (tmp_path / name).mkdir(parents=True)
    for path in (
        "pyproject.toml",
        "outputs/old/x",
        "results/a/x",
        "results/b/x",
        "results/a/status.json",
        "results/b/status.json",
    ):
        (tmp_path / path).write_text(GOLD)
    monkeypatch.chdir(tmp_path)
    code = "import os, sys; print(sorted(n for _, _, names in os.walk('.') for n in names), file=sys.stderr)"
    target = Target(Program([*PYTHON, "-c", code], "m"), ProcessRunner())
    source = write_records(tmp_path / "val.jsonl", 2)
    load = workload.build(TASK, TASK.read(source), 2, 1)
    with RunSeries(target, load, source, tmp_path / "results/mine", batch_size=1) as series:
        run = series.run(tmp_path / "results/mine", "bench")
    seen = "['pyproject.toml', 'status.json', 'val.jsonl', 'x']\n"  # results/b holds no runs: it was trained there
    assert (run / "stderr.log").read_text() == seen


@needs_root
def test_a_disk_that_is_mounted_twice_is_hidden_twice(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True), (tmp_path / "two words").mkdir()
    (tmp_path / "a/b/file").write_text(GOLD)
    subprocess.run(["mount", "--bind", tmp_path / "a", tmp_path / "two words"], check=True)
    try:
        paths = tmp_path / "a/b/file", tmp_path / "two words/b/file"
        code = "import sys; print([open(path).read() for path in sys.argv[1:]])"
        assert python(code, *paths).out.decode() == f"{[GOLD, GOLD]}\n"
        assert python(code, *paths, hidden=paths[:1]).out == b"['', '']\n"
    finally:
        subprocess.run(["umount", tmp_path / "two words"], check=True)


# -- what honest programs need -------------------------------------------------------------------------------------
@needs_root
def test_a_model_in_a_closed_home_is_read_and_weights_among_outputs_too(tmp_path, monkeypatch):
    home, outputs = tmp_path / "home", tmp_path / "outputs"
    for path in (
        home / ".ssh/id",
        home / "model/weights",
        home / ".cache/huggingface/w",
        outputs / "p/train-1/weights/w",
        outputs / "p/bench-1/gold",
    ):
        path.parent.mkdir(parents=True)
        path.write_text(path.name)
        path.chmod(0o600)
    for folder in (home, home / "model"):
        folder.chmod(0o700)
    (home / "model/helper.py").write_text("import os, sys\ndef read(path): return open(path).read()\n")
    (home / "model/program.py").write_text(
        "import sys; sys.path.insert(0, sys.path[0]); from helper import *\n"
        "from pathlib import Path\n"
        "print(read(Path(__file__).with_name('weights')), read(os.environ['HF_HOME'] + '/w'), read(sys.argv[1] + '/w'))\n"
        "print(os.path.exists(sys.argv[1] + '/../../bench-1'), os.listdir(Path.home() / '.ssh'), Path.home())\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False), monkeypatch.delenv("HF_HOME", raising=False)
    argv = [sys.executable, str(home / "model/program.py"), str(outputs / "p/train-1/weights")]
    run = Run(ProcessRunner(hidden=(outputs,)), argv)
    assert run.out.decode() == f"weights w w\nFalse [] {home}\n", run.err.decode()


@needs_root
def test_it_may_write_to_tmp_alone_and_that_is_gone_afterwards(tmp_path):
    code = """
import os, sys, tempfile
def tried(path):
    try:
        open(path, "x").close()
    except OSError as error:
        return error.strerror
os.makedirs(os.environ["XDG_CACHE_HOME"] + "/x")
print(tempfile.gettempdir(), [tried(path) for path in ("/tmp/file", "/dev/shm/file", sys.argv[1] + "/x", os.path.expanduser("~/x"))], flush=True)
open("/dev/stdout", "w").write("and by its name")
"""
    for _ in range(2):
        run = python(code, tmp_path)
        assert run.out.decode() == "/tmp [None, None, 'Permission denied', 'Permission denied']\nand by its name", (
            run.err
        )
    assert not Path("/tmp/file").exists()


@needs_root
def test_two_programs_are_two_users():
    assert len({bytes(python("import os; print(os.getuid())").out) for _ in range(3)}) == 3


@needs_root
def test_a_gpu_is_made_usable_before_as_another_user_cannot_do_that(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-modprobe"
    tool.write_text(f"#!/bin/sh\necho $* > {tmp_path}/words\n"), tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (
        monkeypatch.setattr(confined, "NVIDIA", str(tmp_path)),
        monkeypatch.setattr(confined, "NVIDIA_MEMORY", f"{tmp_path}/x"),
    )
    assert confined.possible.__wrapped__() and (tmp_path / "words").read_text() == "-u -c=0\n"


@needs_root
def test_what_cannot_be_hidden_is_told_and_nothing_starts(tmp_path, monkeypatch):
    assert confined.possible()

    def refuse(*words, **options):
        raise OSError(1, "Operation not permitted", "/tmp")

    monkeypatch.setattr(confined, "_mount", refuse)
    with pytest.raises(EnvironmentFailure, match="cannot hide /tmp from the program: Operation not permitted"):
        python("print(1)")


@needs_root
def test_where_we_are_not_root_a_program_is_us_and_the_run_says_so(plan):
    # Readable to everybody, as a folder of this user's would be.
    subprocess.run(["chmod", "-R", "a+rwX", plan], check=True)
    for folder in plan.parents[:3]:
        folder.chmod(0o755)
    code = (
        "import json, sys; from contextlib import suppress; from pathlib import Path\n"
        "from morocco_lib import InvalidResult, benchmark, get_task; from morocco_lib.benchmark.evaluate import evaluate\n"
        "source, out = map(Path, sys.argv[1:])\n"
        "with suppress(InvalidResult): evaluate(benchmark.Target.of_command('cat'), get_task('terra'), source, out)\n"
        "print(json.loads((out / 'runs/01/run.json').read_text())['proven']['gold'])\n"
    )
    words = [plan / "data/val.jsonl", plan / "plan/mine/terra/bench-11111111"]
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}
    done = subprocess.run([*user, sys.executable, "-c", code, *words], capture_output=True, text=True, env=env)
    assert done.stdout == "False\n", done.stderr
