"""A cloud that answers on the loopback address."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or it writes to stderr at the end; read when it is imported
import pytest
from helpers import ROOT
from servers import sshd, yandex_cloud


@pytest.fixture(scope="session")  # gRPC reads the certificates once a process
def serving(tmp_path_factory):
    with yandex_cloud.serving(tmp_path_factory.mktemp("cloud")) as found:
        yield found


@pytest.fixture
def cloud(serving, monkeypatch):
    """An empty cloud, and in the environment an account of it."""
    empty, account = serving
    for name, value in account.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("morocco_lib.cloud.yandex.POLL_S", 0.01)
    return empty()


@pytest.fixture
def project(tmp_path):
    """A folder that is a project with the machines of this one, and with a public key."""
    root = tmp_path / "project"
    (root / "params/machines").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "pyproject.toml").touch()
    (root / "key.pub").write_text("ssh-ed25519 AAAA me@here\n")
    text = (ROOT / "params/machines/yandex-v100.yaml").read_text().replace("~/.ssh/id_rsa.pub", str(root / "key.pub"))
    (root / "params/machines/yandex-v100.yaml").write_text(text)
    return root


@pytest.fixture(scope="session")
def ssh_server():
    """An sshd with its own keys that lets this user into a home of its own: a clean one, but for a prepared environment."""
    with sshd.running() as found:
        yield found
