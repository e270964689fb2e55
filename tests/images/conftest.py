"""One guarded registry a session beside the tests' engine, and what a user of it has."""

import contextlib
import os

import engine
import pytest


@pytest.fixture(scope="session")
def server(docker_engine, tmp_path_factory):
    """A registry for one user, engine.USER with engine.SECRET."""
    if reason := engine.no_registry():
        if os.environ.get("MOROCCO_STRICT"):
            pytest.fail(reason)
        pytest.skip(reason)
    users = {engine.USER: engine.SECRET}
    with engine.Registry(tmp_path_factory.mktemp("registry") / "r", docker_engine, users) as server:
        yield server


@pytest.fixture
def home(docker_engine, tmp_path, monkeypatch):
    """A home folder without credentials, and none in the environment."""
    for name in ("DOCKER_CONFIG", "MOROCCO_REGISTRY", "MOROCCO_REGISTRY_USERNAME", "MOROCCO_REGISTRY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_HOST", docker_engine)
    return tmp_path / "home"


@pytest.fixture
def logged_in(home, server, monkeypatch):
    """The registry's user and password in the environment."""
    monkeypatch.setenv("MOROCCO_REGISTRY", server.address)
    monkeypatch.setenv("MOROCCO_REGISTRY_USERNAME", engine.USER)
    monkeypatch.setenv("MOROCCO_REGISTRY_PASSWORD", engine.SECRET)


@pytest.fixture
def image(docker):
    """Make images of a few kilobytes that no registry has seen; they go afterwards, with all their names."""
    with contextlib.ExitStack() as stack:
        yield lambda size=1000: stack.enter_context(engine.noise_image(docker, size))
