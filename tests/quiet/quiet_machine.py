"""A quiet machine for tests: what other processes compute while a test runs is not counted against its runs.

The reader of the system's load does its work as ever; only the load that it reports is taken away, here and, by
`sitecustomize` on PYTHONPATH, in every Python that a test starts (the command line, kernels). Tests of the reader itself
are marked `real_load`.
"""

import functools
import importlib.machinery
import sys

OBSERVER, REPORT = "morocco_lib.monitors.system_load", "others"
IDLE = {"cpu_s": 0.0, "cores": 0.0, "idle_share": 0.5, "steal_share": 0.0, "top": []}

real = False  # while a test marked `real_load` runs


def quieten(module) -> None:
    """Let the observer report an idle machine unless `real` is set."""
    report = getattr(module, REPORT)

    @functools.wraps(report)
    def quiet(*args, **kwargs):
        found = report(*args, **kwargs)
        return {**found, **IDLE} if isinstance(found, dict) and not real else found

    setattr(module, REPORT, quiet)


class _OnImport:
    """Finds the observer's module as the other finders do, and quietens it once it is loaded."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != OBSERVER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            quieten(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _OnImport)
