"""Containers at length: much data, speed beside a bare process, what a result says of escapes, engines that go away."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import engine
import pytest
from servers import ROOT

from morocco_lib.errors import EnvironmentFailure
from morocco_lib.monitors import system_load
from morocco_lib.reasons import Reason
from morocco_lib.runners import engine as engines
from morocco_lib.runners.contract import Limits, converse
from morocco_lib.runners.docker import DockerRunner

pytestmark = pytest.mark.slow

SERVERS = Path(__file__).parents[2] / "servers"
ANSWER = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"idx": json.loads(line)["idx"], "label": "entailment"}), flush=True)
"""


@pytest.fixture(scope="module")
def docker(docker_engine):
    with engine.client(docker_engine) as client:
        yield client


@pytest.fixture(scope="module")
def image_of(docker, tiny_image):
    """Build an image of one Python program and return its name."""
    made: dict[str, str] = {}

    def make(text: str, *words: str) -> str:
        key = f"{textwrap.dedent(text)}{words}"
        if key not in made:
            name = f"morocco-tests/program:{len(made)}"
            argv = ["python3", "-I", "-S", "/model/program.py", *map(str, words)]
            made[key] = engine.build(docker, name, {"program.py": textwrap.dedent(text)}, argv)
        return made[key]

    return make


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    """Leave the real load of this machine out of the verdicts."""
    monkeypatch.setattr(system_load, "others", lambda *args, **options: Reason.MACHINE_NOT_TOLD)


COPY = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer, 1 << 20); sys.stderr.write('x' * 200000)"
PUMP = """
import hashlib, os, resource, sys
from morocco_lib.runners.contract import Limits, converse
from morocco_lib.runners.docker import DockerRunner
fed, got, talk = hashlib.sha256(), hashlib.sha256(), []
def blocks():
    for number in range(1600):
        block = os.urandom(1 << 16)
        fed.update(block)
        yield block
handle = DockerRunner(sys.argv[1]).start([], Limits())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seen = converse(handle, blocks(), Limits(timeout_s=60), lambda t, part: got.update(part), lambda t, part: talk.append(len(part)))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(seen.feed.bytes_written, fed.hexdigest() == got.hexdigest(), sum(talk), seen.exit.code, grown)
"""


def test_100_mb_in_and_out_come_whole_and_memory_stays_flat(image_of):
    done = subprocess.run(
        [sys.executable, "-c", PUMP, image_of(COPY)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    fed, same, talk, code, grown_kib = done.stdout.split()
    assert (fed, same, talk, code) == (str(1600 << 16), "True", "200000", "0")
    assert int(grown_kib) < 20_000


def paced(image_of, *words) -> str:
    return image_of((SERVERS / "paced.py").read_text(), *words)


def bench_words(image, data, out, *options) -> list[str]:
    return [*map(str, ["bench", "--image", image, "terra", "--data", data, "--out", out, *options]), "--json"]


def test_a_program_is_as_fast_in_a_container_as_bare(main, image_of, synthetic_data, tmp_path):
    data = synthetic_data / "TERRa" / "val.jsonl"
    speeds, words = {}, ["--rate", "400", "--init", "0.3"]
    bare = f"{sys.executable} -I -S {SERVERS / 'paced.py'} {' '.join(words)}"
    for name, what in (("image", paced(image_of, *words)), ("command", bare)):
        sizes = ("--input-size", 800, "--batch-size", 8, "--repeats", 3, "--quick")
        done = main("bench", f"--{name}", what, "terra", "--data", data, "--out", tmp_path / name, *sizes, "--json")
        speeds[name] = json.loads(done.stdout)["speed_per_s"]["value"]
    assert speeds["image"] == pytest.approx(speeds["command"], rel=0.02)
    assert speeds["image"] == pytest.approx(400, rel=0.02)


def wait_for(condition, seconds=20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_flood_on_stderr_is_cut_and_counted(main, image_of, synthetic_data, tmp_path):
    flood = f"import sys\nfor _ in range(300): sys.stderr.write('x' * 99999 + chr(10))\n{ANSWER}"
    words = bench_words(image_of(flood), synthetic_data / "TERRa" / "val.jsonl", tmp_path / "out", "--repeats", 1)
    assert json.loads(main(*words).stdout)["verdict"] == "VALID"
    facts = json.loads((tmp_path / "out/runs/01/run.json").read_text())
    assert facts["stderr_bytes"] == 300 * 100_000
    assert (tmp_path / "out/runs/01/stderr.log").stat().st_size <= 10 * 2**20


FORKS = """
import os, time
for _ in range(1000):
    try:
        if os.fork() == 0:
            time.sleep(600)
    except OSError:
        pass
"""
ESCAPES = {
    "network": ("import urllib.request\nurllib.request.urlopen('http://example.org/')", "NON_ZERO_EXIT", "URLError"),
    "root": ("open('/model/cache', 'w')", "NON_ZERO_EXIT", "Read-only file system"),
    "rights": ("import os\nos.setuid(0)\nos.chroot('/tmp')", "NON_ZERO_EXIT", "Operation not permitted"),
    "forks": (FORKS, "PIDS_REFUSED", ""),
    "memory": ("held = bytearray(10**10)\nfor i in range(0, 10**10, 4096): held[i] = 1", "OUT_OF_MEMORY", ""),
    "sleep": ("import time\ntime.sleep(600)", "TIMEOUT", ""),
}


@pytest.mark.parametrize("what", ESCAPES)
def test_the_result_names_what_a_container_tried(main, image_of, synthetic_data, tmp_path, what):
    code, reason, printed = ESCAPES[what]
    limits = ("--memory", "100M", "--pids", 64, "--timeout", 8, "--repeats", 1, "--input-size", 20)
    words = bench_words(image_of(code + ANSWER), synthetic_data / "TERRa" / "val.jsonl", tmp_path / "out", *limits)
    result = json.loads(main(*words).stdout)
    assert reason in result["reasons"], result
    assert printed in (tmp_path / "out/runs/01/stderr.log").read_text()
    assert result["verdict"] == ("VALID" if what == "forks" else "INVALID"), result["reasons"]


# -- GPUs ----------------------------------------------------------------------------------------------------------
def test_gpus_need_the_nvidia_runtime(image_of):
    with pytest.raises(EnvironmentFailure, match=r"could not select device driver.*NVIDIA container toolkit"):
        DockerRunner(image_of(ANSWER), ("GPU-1234abcd",)).start([], Limits())


@pytest.fixture
def short():
    """A folder of a short name: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mt-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_a_gpu_reaches_the_container_by_its_uuid(tmp_path, short, monkeypatch):
    hook = tmp_path / "bin" / "nvidia-container-runtime-hook"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\ncat > /dev/null\n")
    hook.chmod(0o755)
    path = f"{hook.parent}:{os.environ['PATH']}"
    with engine.running(short / "gpu", path) as address, engine.client(address) as client:
        monkeypatch.setenv("DOCKER_HOST", address)
        engine.tiny_image(client)
        program = {"program.py": "import os; print(os.environ.get('NVIDIA_VISIBLE_DEVICES'))"}
        image = engine.build(client, "sees", program, ["python3", "/model/program.py"])
        assert run_text(DockerRunner(image, ("GPU-1234abcd",))) == "GPU-1234abcd\n"
        assert run_text(DockerRunner(image)) == "None\n"


def run_text(runner: DockerRunner) -> str:
    out = bytearray()
    limits = Limits(timeout_s=30)
    converse(runner.start([], limits), [], limits, lambda t, part: out.extend(part), lambda t, part: None)
    return out.decode()


# -- an engine that goes away --------------------------------------------------------------------------------------
def test_an_engine_that_stops_in_the_middle_keeps_finished_runs_and_exits_3(
    monkeypatch, synthetic_data, short, tmp_path
):
    address, daemon = engine.start(short / "stops")
    monkeypatch.setenv("DOCKER_HOST", address)
    try:
        with engine.client(address) as client:
            engine.tiny_image(client)
            program = {"program.py": (SERVERS / "paced.py").read_text()}
            words = ["python3", "-I", "-S", "/model/program.py", "--rate", "40"]
            engine.build(client, "slow", program, words)
        out = tmp_path / "out"
        argv = bench_words(
            "slow", synthetic_data / "TERRa" / "val.jsonl", out, "--input-size", 80, "--repeats", 3, "--quick"
        )
        bench = subprocess.Popen(
            [sys.executable, "-m", "morocco_lib", *argv],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: (out / "runs/01/run.json").exists(), 60)
        time.sleep(1.0)
        engine.stop(daemon)
        _, stderr = bench.communicate(timeout=60)
        assert bench.returncode == 3 and "Traceback" not in stderr, stderr
        assert "engine" in stderr
        assert (out / "runs/01/run.json").exists() and not (out / "runs/03").exists()
        assert json.loads((out / "status.json").read_text())["state"] == "failed"
    finally:
        engine.stop(daemon)
    address, daemon = engine.start(short / "stops")  # comes up again with what it held
    try:
        assert engines.find_image(engines.connect(), "slow").name == "slow"
    finally:
        engine.stop(daemon)
