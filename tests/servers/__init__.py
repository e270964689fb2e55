"""Small programs of known behaviour, and what tests need to run and to watch them."""

import sys
from pathlib import Path

import pytest

from morocco_lib.monitors import procfs
from morocco_lib.monitors.cgroup import PREFIX, RunCgroup, parent_groups
from morocco_lib.runners.process import ProcessRunner

ROOT = Path(__file__).parents[2]
PYTHON = [sys.executable, "-I", "-S"]  # isolated, no site-packages: up in 10 ms


def server(name: str, *options: object) -> list[str]:
    """Return the command of one of the programs here."""
    return [*PYTHON, str(Path(__file__).with_name(f"{name}.py")), *map(str, options)]


def runner(use_cgroup: bool) -> ProcessRunner:
    """Return a runner that accounts in the way asked for; skips the test where that is not possible."""
    if use_cgroup:
        group = RunCgroup.create()
        if group is None:
            pytest.skip(f"no cgroup can be made here (parent groups: {parent_groups()})")
        group.remove()
    return ProcessRunner(use_cgroup=use_cgroup)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    fields = procfs.stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def cgroups_of(pid: int) -> list[Path]:
    """Return the folders of the run cgroups that the process with this pid made and that are still there."""
    parents = parent_groups()
    return [] if parents is None else [folder for parent in parents[1:] for folder in parent.glob(f"{PREFIX}{pid}-*")]
