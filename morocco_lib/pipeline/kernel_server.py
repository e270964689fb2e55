"""The process that kernels are forked from, which has imported what notebooks import; `kernel_process` starts it."""

import ctypes
import gc
import importlib
import json
import os
import select
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
LATER = (  # while nothing else is asked for: what some notebooks import
    "ipykernel.debugger", "docker", "scipy.special", "sklearn.feature_extraction.text", "sklearn.linear_model", "seaborn",
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
    later = list(LATER)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # kernels that have ended are not waited for
    with socket.socket(fileno=number) as plan:
        while True:
            while later and not select.select([plan], [], [], 0)[0]:
                importlib.import_module(later.pop(0))
            gc.freeze()  # a kernel need not look for garbage in what is imported
            if not (files := socket.recv_fds(plan, 1, 3)[1]):
                return
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
    kernel = ipykernel.kernelapp.IPKernelApp.instance()
    kernel.initialize()
    _draw_once()
    kernel.start()


def _draw_once() -> None:
    """Figures are drawn where they are shown; pyplot would draw each before that, for nothing."""
    from matplotlib import pyplot

    pyplot.switch_backend(figures.INLINE)
    pyplot.uninstall_repl_displayhook()
