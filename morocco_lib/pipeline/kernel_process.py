"""Kernels as forks of one process that has imported what notebooks import: one starts in a tenth of a second, not in two."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

import morocco_lib

SERVE = "import sys; from morocco_lib.pipeline import kernel_server; kernel_server.serve(int(sys.argv[1]))"


class KernelProcess(psutil.Process):
    """A running kernel, with what `jupyter_client` uses of `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return None if self.is_running() else 255  # its code is not known here

    def send_signal(self, sig: int) -> None:
        with suppress(psutil.NoSuchProcess):
            super().send_signal(sig)

    def kill(self) -> None:
        with suppress(psutil.NoSuchProcess):
            super().kill()


class _Server:
    """The process that kernels are forked from. It ends with this one, and its kernels with it."""

    def __init__(self):
        self.connection, theirs = socket.socketpair()
        self.said = tempfile.TemporaryFile()  # noqa: SIM115
        place = os.pathsep.join(
            [str(Path(morocco_lib.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", SERVE, str(theirs.fileno())],  # -P: nothing is imported from our folder
                env=os.environ | {"PYTHONPATH": place}, pass_fds=[theirs.fileno()], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=self.said, stderr=self.said,
            )  # fmt: skip

    def fork(self, *files: int) -> int:
        """Return the pid of a kernel; see `kernel_server.serve`."""
        with suppress(ConnectionError):
            socket.send_fds(self.connection, [b"k"], files)
            if reply := self.connection.recv(32):
                return int(reply)
        code = self.process.wait()
        self.said.seek(0)
        last = self.said.read().decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"the process that kernels are forked from has ended ({code}): {last:.200}")


_servers: list[_Server] = []  # one, or none


def prepare() -> None:
    """Begin to import what kernels need, in a process of its own; not from two threads at once."""
    if _servers and _servers[0].process.poll() is not None:
        _servers.clear()
    if not _servers:
        _servers.append(_Server())


def start(
    argv: list[str], environment: dict[str, str], folder: Path, log: Path, connection: socket.socket | None
) -> KernelProcess:
    """Start a kernel; not from two threads at once.

    Args:
        argv: Of the kernel's program, without Python.
        environment: All of it.
        folder: Where it runs.
        log: File that gets what it writes beside its messages.
        connection: Its socket to the scheduler, if it is measured in turn with others.
    Raises:
        RuntimeError: it did not start.
    """
    prepare()
    with tempfile.TemporaryFile() as request, log.open("ab") as out:
        request.write(json.dumps([argv, environment, str(folder)]).encode())
        request.seek(0)
        files = [request, out, *filter(None, [connection])]
        pid = _servers[0].fork(*(file.fileno() for file in files))
    try:
        return KernelProcess(pid)
    except psutil.NoSuchProcess:
        raise RuntimeError("it ended at once") from None
