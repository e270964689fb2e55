"""Runs one notebook in a fresh kernel through papermill and keeps it, executed and rendered, in its step folder."""

import logging
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from morocco_lib import config, errors
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.step_kind import CELL
from morocco_lib.errors import MoroccoError
from morocco_lib.pipeline import kernel_process, scheduler, targets
from morocco_lib.pipeline.job import Job
from morocco_lib.report import render

IPYTHON = ".ipython"  # in the step folder while its kernel runs: nothing of the user's own configuration
_starting, _rendering = threading.Lock(), threading.Lock()  # one thread at a time


class Stalled(errors.EnvironmentFailure):
    """A training made no update for too long."""


class Watch:
    """Raises `Stalled` where a file's time has not changed for `limit_s`, as long as the file is there."""

    def __init__(self, file: Path, limit_s: int):
        file.unlink(missing_ok=True)  # of an attempt before
        self.file, self.limit_s = file, limit_s
        self.seen, self.since = None, 0.0

    def __call__(self) -> None:
        try:
            now = self.file.stat().st_mtime_ns
        except OSError:
            now = None
        if now is None or now != self.seen:
            self.seen, self.since = now, time.monotonic()
        elif time.monotonic() - self.since > self.limit_s:
            raise Stalled(
                f"no update for {self.limit_s} s", rule="a training that stalls is ended (stall_s of the plan)",
                remedy="run the plan again: it goes on from its last checkpoint",
            )  # fmt: skip


def run_notebook(
    job: Job, root: Path, check: Callable[[], None], slot: scheduler.WorkerSlot | None = None, stall_s: int = 0
) -> int:
    """Run a step's notebook in a fresh kernel, keep it executed and rendered in its folder, and return its exit code.

    The status is written here: papermill records a dead kernel or a timeout as completed.

    Args:
        check: Called ten times a second; what it raises ends the notebook.
        slot: The kernel's, if it is measured in turn with others that run at the same time.
        stall_s: So long may a training take for an update; 0: any time.
    Raises:
        Stalled: it made no update for `stall_s`.
        MoroccoError: the notebook failed; its status says so too.
    """
    kind, folder = job.kind, job.folder
    with job.begin() as attempt:
        notebook = folder / "notebook.ipynb"
        watch = Watch(kind.heartbeat(folder), stall_s) if kind.heartbeat and stall_s else lambda: None
        parameters = {**job.p.model_dump(mode="json"), "out_dir": config.from_root(folder, root)}
        try:
            _papermill(
                root / "notebooks" / f"{kind.name}.ipynb", notebook, parameters, root, lambda: (check(), watch()), slot
            )
        except BaseException:
            if kind.scope == CELL:
                targets.remove_orphans(job.p.machine)
            raise
        finally:
            shutil.rmtree(folder / IPYTHON, ignore_errors=True)
            if notebook.exists():
                with _rendering:
                    render.notebook_html(notebook, folder / "notebook.html")
        code = kind.exit_code(folder)
        attempt.finish(steps.DONE, code)
        return code


def _papermill(
    source: Path, target: Path, parameters: dict[str, Any], root: Path, check: Callable[[], None],
    slot: scheduler.WorkerSlot | None = None,
) -> None:  # fmt: skip
    with _starting:
        kernel_process.prepare()
        # jsonschema would read a grammar of addresses for two seconds; the schema of notebooks has none.
        sys.modules.setdefault("rfc3987_syntax", None)
        render.exporter()  # what it imports takes as long as what kernels need
        import papermill
        from nbclient.exceptions import CellTimeoutError, DeadKernelError
        from papermill.exceptions import PapermillExecutionError

    for name in ("papermill", "asyncio"):  # their errors come back as the exceptions below
        logging.getLogger(name).setLevel(logging.CRITICAL)
    failures: list[BaseException] = []
    kernels: list = []
    options = {"kernel_name": "python3", "progress_bar": False, "log_output": False}
    options["shutdown_kernel"] = "immediate"  # a graceful end takes seconds now and then

    def run() -> None:
        try:
            manager = _kernel_class(target.with_name("kernel.log"), root, kernels, slot)
            papermill.execute_notebook(
                str(source), str(target), parameters=parameters, kernel_manager_class=manager, **options
            )
        except BaseException as error:
            failures.append(error)

    # In a thread: in the main one nbclient would replace our signal handlers and not restore them.
    thread = threading.Thread(target=run, name="morocco-papermill", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            check()
        if slot:
            slot.leave()
            while not slot.over.wait(0.1):  # rendering takes seconds of a CPU
                check()
    except BaseException:
        deadline = time.monotonic() + 10
        while thread.is_alive() and time.monotonic() < deadline:  # a kernel may be about to start
            for kernel in kernels:
                kernel.kill()
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


def _kernel_class(log: Path, folder: Path, started: list, slot: scheduler.WorkerSlot | None):
    """Return a kernel manager class: kernels run in `folder`, write to `log` and are listed in `started`."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    def clean(env: dict[str, str]) -> dict[str, str]:
        """Return the environment without what a user's own configuration would do to a kernel and its figures."""
        own = {"IPYTHONDIR": str(log.with_name(IPYTHON)), "MATPLOTLIBRC": os.devnull}
        return {name: value for name, value in env.items() if name != "PYTHONSTARTUP"} | own

    class Kernel(AsyncKernelManager):
        transport, ip = "ipc", f"@morocco-{uuid.uuid4().hex}"  # abstract: no file, no port, no loopback address
        kernel_spec = KernelSpec(**get_kernel_dict())  # of this Python, whatever JUPYTER_PATH has under the same name

        async def _async_launch_kernel(self, kernel_cmd, **options):
            argv = kernel_cmd[kernel_cmd.index("ipykernel_launcher") :]  # Python runs already
            connection = slot.theirs if slot else None
            with _starting:
                process = kernel_process.start(argv, clean(options["env"]), folder, log, connection)
            self.provisioner.process, self.provisioner.pid, self.provisioner.pgid = process, process.pid, process.pid
            self._reconcile_connection_info(self.provisioner.connection_info)
            started.append(process)
            if slot:
                slot.started()

        _launch_kernel = _async_launch_kernel

    return Kernel
