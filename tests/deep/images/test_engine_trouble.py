"""Plans in containers on engines that stop or are full."""

import os
import subprocess
import tempfile
from pathlib import Path

import engine
import pytest
from helpers import wait_until

from morocco_lib.artifacts import steps

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def project(tmp_path_factory, tiny_image):
    return engine.Project(tmp_path_factory.mktemp("trouble"))


def test_an_engine_that_stops_in_the_middle_of_a_plan_costs_one_step(project, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="mt-", ignore_cleanup_errors=True) as name:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{name}/e/docker.sock")
        cell = project.root / "outputs/stops/tfidf/terra"
        with engine.running(Path(name) / "e") as address:
            with engine.client(address) as client:
                engine.tiny_image(client)
            program = project.start("stops", input_size=20_000, quick=True)
            assert wait_until(lambda: list(cell.glob("bench-*/runs/01/run.json")), 90)
        _, talk = program.communicate(timeout=120)
        assert program.returncode == 3 and "Traceback" not in talk, talk
        (bench,) = cell.glob("bench-????????")
        assert steps.read_status(bench)["state"] == "failed" and (bench / "runs/01/run.json").exists()
        with engine.running(Path(name) / "e"):
            code, talk = project.run("stops", input_size=20_000, quick=True)
        assert code == 0 and "train tfidf terra: kept" in talk, talk
        assert (bench.with_name(f"{bench.name}.1") / "runs/01/run.json").exists()  # set aside, not lost


def test_an_engine_without_room_is_an_environment_failure(project, small_disk, monkeypatch):
    with engine.running(small_disk) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        with engine.client(address) as client:
            engine.tiny_image(client)
        (small_disk / "filler").write_bytes(b"\0" * (int(os.statvfs(small_disk).f_bavail) * 4096 - 200_000))
        code, talk = project.run("full", quick=True)
        assert code == 3 and "docker system df" in talk and "Traceback" not in talk, talk
        (small_disk / "filler").unlink()
        code, talk = project.run("full", quick=True)
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
