"""The process that kernels are forked from, which has imported what notebooks import; `kernel_process` starts it."""

import ctypes
import importlib
import json
import os
import signal
import socket
import sys

os.environ["JPY_PARENT_PID"] = str(os.getpid())  # a kernel without a parent would give advice in its log

import ipykernel.kernelapp

from morocco_lib.pipeline.scheduler import VARIABLE
from morocco_lib.pipeline.signals import end_with_parent
from morocco_lib.report import figures

NAME = b"morocco-kernel"  # for ps and top; 15 letters at most
PR_SET_NAME = 15
IMPORTS = (
    "IPython.core.display", "pandas.io.formats.style", "morocco_lib.benchmark.evaluate", "morocco_lib.benchmark.protocol",
    "morocco_lib.doctor", "morocco_lib.pipeline.session", "morocco_lib.report.bounds", "morocco_lib.report.tables",
    "morocco_lib.report.training",
)  # fmt: skip


def serve(number: int) -> None:
    """Fork a kernel for each request, and answer with its pid, until the plan is gone.

    A request is of three open files: its own, a JSON list [arguments, environment, folder]; the kernel's log; its connection to
    the scheduler, if it has one.

    Args:
        number: File descriptor of the connection to the plan.
    """
    for name in IMPORTS:
        importlib.import_module(name)
    figures.style()  # of a notebook, since ipykernel is there
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # kernels that have ended are not waited for
    with socket.socket(fileno=number) as plan:
        while files := socket.recv_fds(plan, 1, 3)[1]:
            if pid := os.fork():
                for file in files:
                    os.close(file)
                plan.send(str(pid).encode())
            else:
                plan.close()
                _become_kernel(*files)
                return


def _become_kernel(request: int, log: int, connection: int | None = None) -> None:
    os.dup2(log, 1)
    os.dup2(log, 2)
    ctypes.CDLL(None).prctl(PR_SET_NAME, NAME)
    # One that outlived the plan would go on writing into a folder that the next run has set aside. We end with the plan's
    # connection, and this ends with us.
    end_with_parent(int(os.environ["JPY_PARENT_PID"]))
    os.setsid()  # out of reach of our terminal's Ctrl-C
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(request, encoding="utf-8") as file:
        sys.argv, environment, folder = json.load(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if connection is not None:
        os.environ[VARIABLE] = str(connection)
    ipykernel.kernelapp.launch_new_instance()
