"""Kernels as forks of one process that has imported what notebooks import: a kernel starts in a tenth of a second, not in two."""

import multiprocessing
import os
import socket
import sys
from multiprocessing import forkserver
from pathlib import Path

from morocco_lib.pipeline import scheduler
from morocco_lib.pipeline.signals import end_with_parent

NAME = "morocco-kernel"  # 15 letters at most
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["morocco_lib.pipeline.kernel_imports"])


def prepare() -> None:
    """Begin to import what kernels need, in a process of its own, which ends with this one."""
    forkserver.ensure_running()


class KernelProcess:
    """A running kernel, as `jupyter_client` asks for it: what it uses of `subprocess.Popen`.

    Args:
        argv: Of the kernel's program, without Python.
        environment: All of it.
        folder: Where it runs.
        log: File that gets what it writes beside its messages.
        connection: Its socket to the scheduler, if it is measured in turn with others.
    """

    stdin = stdout = stderr = None

    def __init__(
        self, argv: list[str], environment: dict[str, str], folder: Path, log: Path, connection: socket.socket | None
    ):
        arguments = (argv, environment, str(folder), str(log), connection)
        self._process = _forks.Process(target=_run, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _run(argv: list[str], environment: dict[str, str], folder: str, log: str, connection: socket.socket | None) -> None:
    Path("/proc/self/comm").write_text(NAME)  # for ps and top
    os.setsid()  # out of reach of our terminal's Ctrl-C
    end_with_parent()  # one that outlived us would go on writing into a folder that the next run has set aside
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if connection:
        os.environ[scheduler.VARIABLE] = str(connection.detach())
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = argv
    from morocco_lib.pipeline import kernel_imports

    kernel_imports.run()
