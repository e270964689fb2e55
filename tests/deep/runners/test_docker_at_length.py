"""Containers at length: floods and limits in a result, a GPU by its UUID, engines that go away."""

import json
import os
import tempfile
import time
from pathlib import Path

import engine
import pytest
from helpers import wait_until

from morocco_lib.monitors import system_load
from morocco_lib.reasons import Reason
from morocco_lib.runners import engine as engines
from morocco_lib.runners.contract import Limits, converse
from morocco_lib.runners.docker import DockerRunner

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    """Leave the real load of this machine out of the verdicts."""
    monkeypatch.setattr(system_load, "others", lambda *args, **options: Reason.MACHINE_NOT_TOLD)


def test_a_flood_on_stderr_is_cut_and_counted(main, image_of, synthetic_data, tmp_path):
    flood = f"import sys\nfor _ in range(300): sys.stderr.write('x' * 99999 + chr(10))\n{engine.ANSWER}"
    words = engine.bench_words(
        image_of(flood), synthetic_data / "TERRa" / "val.jsonl", tmp_path / "out", "--repeats", 1
    )
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
EATS = "held = bytearray(10**10)\nfor i in range(0, 10**10, 4096): held[i] = 1"


@pytest.mark.parametrize(
    ("code", "verdict", "reason"), [(FORKS, "VALID", "PIDS_REFUSED"), (EATS, "INVALID", "OUT_OF_MEMORY")]
)
def test_the_result_names_the_limit_that_a_container_met(
    main, image_of, synthetic_data, tmp_path, code, verdict, reason
):
    limits = ("--memory", "100M", "--pids", 64, "--timeout", 8, "--repeats", 1, "--input-size", 20)
    image, data = image_of(code + engine.ANSWER), synthetic_data / "TERRa" / "val.jsonl"
    result = json.loads(main(*engine.bench_words(image, data, tmp_path / "out", *limits)).stdout)
    assert result["verdict"] == verdict and reason in result["reasons"], result["reasons"]


# -- GPUs ----------------------------------------------------------------------------------------------------------
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
            argv = ["python3", "-I", "-S", "/model/program.py", "--rate", "40"]
            engine.build(client, "slow", {"program.py": engine.PACED}, argv)
        out = tmp_path / "out"
        sizes = ("--input-size", 80, "--repeats", 3, "--quick")
        words = engine.bench_words("slow", synthetic_data / "TERRa" / "val.jsonl", out, *sizes)
        bench = engine.start_morocco(*words)
        assert wait_until((out / "runs/01/run.json").exists)
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
