"""What is asked: one module a benchmark task, found by its file name; a task's facts live there, once."""

import difflib
import importlib
import pkgutil

from morocco_lib.errors import UsageError
from morocco_lib.tasks.base import Task

_SHARED = {"base", "records", "spans"}


def task_names(benchmark: str | None = None) -> list[str]:
    """Return the short ids of all tasks, or of those of one benchmark, sorted."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED)
    return [name for name in names if benchmark is None or get_task(name).benchmark == benchmark]


def get_task(name: str) -> Task:
    """Return the task with this short id.

    Raises:
        UsageError: no such task; the nearest known one is named.
    """
    names = task_names()
    if name not in names:
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
        raise UsageError(
            f"no task {name!r}",
            rule=f"tasks: {', '.join(names)}",
            remedy=f"did you mean {near[0]!r}?" if near else "",
        )
    return importlib.import_module(f"{__name__}.{name}").TASK
