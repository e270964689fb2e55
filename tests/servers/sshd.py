"""The system's sshd on the loopback address, with keys and settings of its own; who logs in finds a home of its own."""

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import free_ports, wait_until

SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
SetEnv HOME={home}
ForceCommand cd "$HOME" && exec bash -c "${{SSH_ORIGINAL_COMMAND:-exec bash}}"
"""
CLIENT = """\
Host *
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking accept-new
"""


def answers(port):
    with closing(socket.socket()) as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running():
    """Yield `home`, `config` for `ssh -F`, `key` and `start`, `stop` of the server."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        (pytest.fail if os.environ.get("MOROCCO_STRICT") else pytest.skip)("no sshd on this machine")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # it insists
    with tempfile.TemporaryDirectory(prefix="vm-", dir="/tmp") as name:  # names of sockets are short
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        for key in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        (port,) = free_ports(1)
        for file, text in (("server", SERVER), ("client", CLIENT)):
            (folder / file).write_text(text.format(port=port, folder=folder, home=home))
        servers = []

        def start():
            log = (folder / "log").open("a")
            servers.append(subprocess.Popen([program, "-D", "-e", "-f", folder / "server"], stderr=log))
            assert wait_until(lambda: answers(port), 10), (folder / "log").read_text()

        def stop():
            while servers:
                servers[-1].terminate()
                servers.pop().wait(10)

        start()
        try:
            yield SimpleNamespace(home=home, config=folder / "client", key=folder / "key", start=start, stop=stop)
        finally:
            stop()
