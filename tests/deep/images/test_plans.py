"""Plans in containers: on real records, interrupted, and on engines that stop or are full."""

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import engine
import pytest
from helpers import wait_until

from morocco_lib.artifacts import steps
from morocco_lib.pipeline.step_kinds import verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def project(tmp_path_factory, tiny_image):
    return engine.Project(tmp_path_factory.mktemp("contained"))


def test_a_plan_on_real_records(project, real_data, docker):
    code, talk = project.run("real", tasks=["terra", "rcb", "muserc"], data_dir=str(real_data / "rsg"))
    assert code == 0, talk
    outputs = project.root / "outputs/real"
    benches = sorted(outputs.glob("tfidf/*/bench-????????/bench.json"))
    assert [path.parts[-3] for path in benches] == ["muserc", "rcb", "terra"]
    assert all(json.loads(path.read_text())["verdict"] == "VALID" for path in benches)
    assert all(finding.ok for finding in verify(outputs)) and engine.left_containers(docker) == []


def test_a_plan_that_is_interrupted_leaves_no_container_and_goes_on(project, docker):
    cell = project.root / "outputs/ended/tfidf/terra"

    def measuring():
        return list(cell.glob("bench-*")) and docker.api.containers(filters={"label": "morocco.owner"})

    for number in (signal.SIGINT, signal.SIGKILL):
        program = project.start("ended", input_size=20_000)
        assert wait_until(measuring, 90)
        program.send_signal(number)
        program.communicate(timeout=60)
        assert program.returncode in (130, -signal.SIGKILL)
        if number == signal.SIGINT:
            assert engine.left_containers(docker) == []
    code, talk = project.run("ended", input_size=20_000)
    assert code == 0, talk
    assert engine.left_containers(docker) == [] and "kept" in talk  # what had been trained


def test_an_engine_that_stops_in_the_middle_of_a_plan_costs_one_step(project, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="mt-", ignore_cleanup_errors=True) as name:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{name}/e/docker.sock")
        cell = project.root / "outputs/stops/tfidf/terra"
        with engine.running(Path(name) / "e") as address:
            with engine.client(address) as client:
                engine.tiny_image(client)
            program = project.start("stops", input_size=50_000)
            assert wait_until(lambda: list(cell.glob("bench-*/runs/01/run.json")), 90)
        _, talk = program.communicate(timeout=120)
        assert program.returncode == 3 and "Traceback" not in talk, talk
        (bench,) = cell.glob("bench-????????")
        assert steps.read_status(bench)["state"] == "failed" and (bench / "runs/01/run.json").exists()
        with engine.running(Path(name) / "e"):
            code, talk = project.run("stops", input_size=50_000)
        assert code == 0 and "train tfidf terra: kept" in talk, talk
        assert (bench.with_name(f"{bench.name}.1") / "runs/01/run.json").exists()  # set aside, not lost


def test_an_engine_without_room_is_an_environment_failure(project, small_disk, monkeypatch):
    with engine.running(small_disk) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        with engine.client(address) as client:
            engine.tiny_image(client)
        (small_disk / "filler").write_bytes(b"\0" * (int(os.statvfs(small_disk).f_bavail) * 4096 - 200_000))
        code, talk = project.run("full")
        assert code == 3 and "docker system df" in talk and "Traceback" not in talk, talk
        (small_disk / "filler").unlink()
        code, talk = project.run("full")
        assert code == 0, talk


@pytest.fixture
def small_disk(tmp_path_factory, docker_engine):
    """A disk of 300 MB for an engine."""
    place = tmp_path_factory.mktemp("e")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "none", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=False)
