"""What is asked: one module a task, found by its file name, here or in the package of its benchmark; its facts live there, once.

May import `errors` alone: every container holds this package.
"""

import difflib
import functools
import importlib
import pkgutil

from morocco_lib.errors import UsageError
from morocco_lib.tasks.base import Task

_SHARED = {
    "base",
    "checked",
    "checking",
    "diagnostic",
    "form",
    "jsonl",
    "metrics",
    "number",
    "recombine",
    "spans",
    "tables",
}


@functools.cache  # a report asks thousands of times
def _modules(folders: tuple[str, ...]) -> dict[str, str]:
    """Return short id -> module of every task in the folders of this package."""
    found = {}
    for module in pkgutil.iter_modules(folders):
        if module.ispkg:
            package = importlib.import_module(f"{__name__}.{module.name}")
            names = (m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
            found |= {name: f"{package.__name__}.{name}" for name in names}
        elif module.name not in _SHARED:
            found[module.name] = f"{__name__}.{module.name}"
    return found


def task_names(benchmark: str | None = None) -> list[str]:
    """Return the short ids of all tasks, or of those of one benchmark, sorted."""
    return [
        name for name in sorted(_modules((*__path__,))) if benchmark is None or get_task(name).benchmark == benchmark
    ]


def get_task(name: str) -> Task:
    """Return the task with this short id.

    Raises:
        UsageError: no such task; the nearest known one is named.
    """
    names = task_names()
    if name not in names:
        near = difflib.get_close_matches(name.lower(), names, cutoff=0.5)
        raise UsageError(
            f"no task {name!r}",
            rule=f"tasks: {', '.join(names)}",
            remedy=f"did you mean {near[0]!r}?" if near else "",
        )
    return importlib.import_module(_modules((*__path__,))[name]).TASK
