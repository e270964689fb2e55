"""Runs one notebook in a fresh kernel through papermill and keeps it, executed and rendered, in its step folder."""

import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from morocco_lib import errors, fileio
from morocco_lib.artifacts import steps
from morocco_lib.errors import MoroccoError
from morocco_lib.pipeline import resolve, scheduler
from morocco_lib.pipeline.session import identity
from morocco_lib.runners.process import die_with_parent

_starting, _rendering = threading.Lock(), threading.Lock()  # what several threads are not to do at once


def check_loopback() -> None:
    """Raise EnvironmentFailure where no kernel could be spoken to, which would take a minute to be noticed."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        raise errors.EnvironmentFailure(
            f"the loopback address 127.0.0.1 does not answer: {error.strerror or error}",
            rule="kernels are spoken to over it",
            remedy="`ip link set lo up`, or allow it in the sandbox",
        ) from None


def execute(
    step: str, p: Any, inputs: dict[str, Path], folder: Path, key: str, root: Path, check: Callable[[], None],
    seat: scheduler.Seat | None = None,
) -> int:  # fmt: skip
    """Run one notebook in a fresh kernel, keep it executed and rendered in its step folder, and return its exit code.

    The status is ours, not papermill's, which records a dead kernel or a timeout as completed.

    Args:
        check: Called ten times a second; what it raises ends the notebook.
        seat: The kernel's, if it takes turns with others that run at the same time.
    Raises:
        MoroccoError: the notebook failed; the folder says so too.
    """
    names = {} if step == "report" else {"model": p.model.name, "task": p.task.name}
    with _starting:  # it sets the process's umask to ask for it
        attempt = steps.Step.begin(folder, step, **names, parameters=identity(p), inputs=inputs, key=key)
    with attempt:
        notebook = folder / "notebook.ipynb"
        parameters = {
            **p.model_dump(),
            "out_dir": str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder),
        }
        try:
            _papermill(root / "notebooks" / f"{step}.ipynb", notebook, parameters, root, check, seat)
        except BaseException:
            if names:
                resolve.sweep(p.machine)
            raise
        finally:
            if notebook.exists():
                with _rendering:
                    from morocco_lib.report.render import notebook_html

                    notebook_html(notebook, folder / "notebook.html")
        code = _exit_of(step, folder)
        attempt.finish(steps.DONE, code)
        return code


def _exit_of(step: str, folder: Path) -> int:
    return 1 if step == "bench" and fileio.read_json(folder / "bench.json")["verdict"] != "VALID" else 0


def _papermill(
    source: Path, target: Path, parameters: dict[str, Any], root: Path, check: Callable[[], None],
    seat: scheduler.Seat | None = None,
) -> None:  # fmt: skip
    with _starting:
        import papermill
        from nbclient.exceptions import CellTimeoutError, DeadKernelError
        from papermill.exceptions import PapermillExecutionError

    for name in ("papermill", "asyncio"):  # what they have to say comes back as the exceptions below
        logging.getLogger(name).setLevel(logging.CRITICAL)
    failures: list[BaseException] = []
    kernels: list = []
    options = {"kernel_name": "python3", "progress_bar": False, "log_output": False}
    options["shutdown_kernel"] = "immediate"  # nothing is left to do, and a graceful end takes seconds now and then

    def run() -> None:
        try:
            manager = _kernel_class(target.with_name("kernel.log"), root, kernels, seat)
            papermill.execute_notebook(
                str(source), str(target), parameters=parameters, kernel_manager_class=manager, **options
            )
        except BaseException as error:
            failures.append(error)

    # In a thread of its own: in ours nbclient would replace our signal handlers, and not put them back.
    thread = threading.Thread(target=run, name="morocco-papermill", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            check()
        if seat:
            seat.leave()
            while not seat.over.wait(0.1):  # a page costs seconds of a CPU
                check()
    except BaseException:
        deadline = time.monotonic() + 10
        while thread.is_alive() and time.monotonic() < deadline:  # a kernel may be about to start
            for kernel in kernels:
                kernel.provisioner.process.kill()
            thread.join(0.05)
        raise
    if not failures:
        return
    error = failures[0]
    if isinstance(error, PapermillExecutionError):
        kind = getattr(errors, error.ename, None)
        if isinstance(kind, type) and issubclass(kind, MoroccoError):
            raise kind(error.evalue)
        raise errors.EnvironmentFailure(
            f"cell {error.exec_count} raised {error.ename}: {error.evalue}",
            remedy=f"read {target.with_suffix('.html')}",
        )
    if isinstance(error, DeadKernelError | CellTimeoutError):
        raise errors.EnvironmentFailure(
            f"the kernel died ({type(error).__name__})", remedy="free memory and run the plan again"
        )
    if isinstance(error, RuntimeError):  # nbclient has no class of its own for it
        raise errors.EnvironmentFailure(
            f"the kernel did not start: {error}",
            remedy=f"read {target.with_name('kernel.log')}, then run the plan again",
        )
    raise error


def _kernel_class(log: Path, folder: Path, started: list, seat: scheduler.Seat | None):
    """Return a kernel manager class whose kernels work in a folder, end with us, talk to a log, and are noted in `started`."""
    from jupyter_client import AsyncKernelManager

    class Kernel(AsyncKernelManager):
        # What a kernel says of itself, its death throes too, belongs beside its notebook and not on our terminal; one
        # that outlived us would go on writing into a folder that the next run has set aside.
        async def _async_launch_kernel(self, kernel_cmd, **options):
            options |= seat.options(options["env"]) if seat else {}
            options["cwd"] = str(folder)  # given to papermill it would be that of our whole process
            with log.open("ab") as stderr:
                await super()._async_launch_kernel([*die_with_parent(), *kernel_cmd], **options, stderr=stderr)
            started.append(self)
            if seat:
                seat.taken()

        async def _async_pre_start_kernel(self, **options):
            with _starting:  # two that look for ports at once may find the same
                return await super()._async_pre_start_kernel(**options)

        _launch_kernel, pre_start_kernel = _async_launch_kernel, _async_pre_start_kernel

    return Kernel
