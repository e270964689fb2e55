"""Pushes and pulls whose registry breaks off, falls silent, or comes back."""

import signal
import threading
import time

import engine
import pytest
from helpers import wait_until

from morocco_lib.errors import EnvironmentFailure
from morocco_lib.images import registry

pytestmark = pytest.mark.slow
LARGE = 48 << 20


def silent(*args):
    pass


@pytest.fixture
def name(docker, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with engine.noise_image(docker, LARGE) as name:
        yield name


@pytest.fixture
def server(docker_engine, tmp_path):
    with engine.Registry(tmp_path / "r", docker_engine) as server:
        yield server


def in_the_middle(server, act):
    """Act as soon as a registry stores a quarter of the image; returns the thread."""

    def run():
        wait_until(lambda: server.stored_bytes() > LARGE // 4)
        act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_push_goes_on_when_the_registry_is_back(docker, server, name):
    def restart():
        server.kill()
        time.sleep(3)
        server.start()

    thread = in_the_middle(server, restart)
    facts = registry.push(name, f"{server.address}/large:1", silent, silent)
    thread.join()
    assert registry.pull(facts["image"], silent, silent)["id"] == facts["id"]


def test_a_push_whose_registry_never_comes_back_leaves_no_name(docker, server, name):
    in_the_middle(server, server.kill)
    with pytest.raises(EnvironmentFailure):
        registry.push(name, f"{server.address}/large:1", silent, silent)
    assert docker.images.get(name).tags == [name]


def test_a_push_whose_registry_falls_silent_ends(docker, server, name, monkeypatch):
    monkeypatch.setattr(registry, "SILENCE_S", 3.0)
    in_the_middle(server, lambda: server.program.send_signal(signal.SIGSTOP))
    with pytest.raises(EnvironmentFailure, match="did not answer for 3 s"):
        registry.push(name, f"{server.address}/large:1", silent, silent)
    server.program.send_signal(signal.SIGCONT)
    assert docker.images.get(name).tags == [name]


def test_a_pull_whose_registry_falls_silent_ends(docker, server, name, monkeypatch):
    target = f"{server.address}/large:1"
    facts = registry.push(name, target, silent, silent)
    docker.api.remove_image(facts["id"], force=True)
    monkeypatch.setattr(registry, "SILENCE_S", 3.0)
    with pytest.raises(EnvironmentFailure, match="did not answer for 3 s"):
        registry.pull(target, silent, lambda done, total: server.program.send_signal(signal.SIGSTOP))
    server.program.send_signal(signal.SIGCONT)
    assert not docker.images.list(target)
