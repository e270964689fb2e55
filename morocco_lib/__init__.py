"""morocco: how good, how fast and how big a text model is, with evidence you can check.

`__all__` is the public API, imported when it is first used: `from morocco_lib import Target, bench, get_task`.
"""

import importlib

__version__ = "0.4.1"

_API = {  # public name -> module that defines it
    "DockerRunner": "runners.docker",
    "EnvironmentFailure": "errors",
    "Hooks": "benchmark.target",
    "InvalidResult": "errors",
    "Limits": "runners.contract",
    "MoroccoError": "errors",
    "ProcessRunner": "runners.process",
    "Program": "benchmark.target",
    "Reason": "reasons",
    "Target": "benchmark.target",
    "UsageError": "errors",
    "bench": "benchmark.protocol",
    "check": "benchmark.conformance",
    "evaluate": "benchmark.evaluate",
    "fit": "training.fit",
    "get_task": "tasks",
    "start_session": "pipeline.session",
    "task_names": "tasks",
    "verify": "pipeline.step_kinds",
}
__all__ = ["__version__", *_API]


def __getattr__(name: str):
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no public name {name!r}; it has {', '.join(_API)}")
    return getattr(importlib.import_module(f"{__name__}.{_API[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
