"""Kernels as forks of one process that has imported what notebooks import: one starts in a tenth of a second, not in two."""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import morocco_lib

# This morocco_lib, whichever others there are; nothing else is imported from beside it, nor from our folder (-P).
SERVE = """import sys; sys.path.insert(0, sys.argv[2]); import morocco_lib; del sys.path[0]
from morocco_lib.pipeline import kernel_server; kernel_server.serve(int(sys.argv[1]))"""


class KernelProcess:
    """A running kernel, with what `jupyter_client` uses of `subprocess.Popen`.

    Args:
        pid: Its process.
        pidfd: A file descriptor of it, which is closed with this.
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int, pidfd: int):
        self.pid, self._pidfd, self._end = pid, pidfd, select.poll()
        self._end.register(pidfd, select.POLLIN)

    def __del__(self):
        os.close(self._pidfd)

    def poll(self) -> int | None:
        return 255 if self._end.poll(0) else None  # its code is not known here

    def wait(self) -> int:
        self._end.poll()
        return 255

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    """The process that kernels are forked from. It ends with this one, and its kernels with it."""

    def __init__(self):
        self.connection, theirs = socket.socketpair()
        self.said = tempfile.TemporaryFile()  # noqa: SIM115
        place = str(Path(morocco_lib.__file__).parents[1])
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", SERVE, str(theirs.fileno()), place], pass_fds=[theirs.fileno()],
                start_new_session=True, stdin=subprocess.DEVNULL, stdout=self.said, stderr=self.said,
            )  # fmt: skip
        atexit.register(self.end)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

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
        return KernelProcess(pid, os.pidfd_open(pid))
    except ProcessLookupError:
        raise RuntimeError("it ended at once") from None
