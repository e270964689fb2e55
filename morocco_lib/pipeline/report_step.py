"""A report as a step of its own, without a notebook: `morocco report`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from morocco_lib.artifacts import steps
from morocco_lib.errors import UsageError
from morocco_lib.pipeline.job import Job
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.report import build, machines


def report_step(
    plan_dir: Path, out: Path | None = None, published: dict[str, Any] | None = None, *, also: Sequence[Path] = (),
    home: Path | None = None, say: Callable[[str], None] = lambda text: None,
) -> Path:  # fmt: skip
    """Build the page of a folder of results, or of several, and return it.

    Args:
        plan_dir: Folder of step folders.
        out: New or empty folder; None: report-<key> in `home`.
        published: Published numbers to show beside; see `legacy.published`.
        also: More such folders.
        home: None: `plan_dir`.
        say: Called with what is to be known of the machines, where there are several.
    Raises:
        UsageError: no such folder, or nothing to report in it.
    """
    plan_dirs = [Path(plan_dir), *map(Path, also)]
    for missing in (one for one in plan_dirs if not one.is_dir()):
        raise UsageError(f"no folder {missing}", remedy="give outputs/<plan>")
    plan_dir, among = plan_dirs[0], None
    if also:
        for one in plan_dirs:
            build.inputs_of(one)  # or it is named
        among = build.steps_of(plan_dirs)
        plan_dir = Path(os.path.commonpath([*among, *(one.resolve() for one in plan_dirs)]))
    every = list(steps.find_steps(plan_dir, among))
    kind = replace(KINDS["report"], inputs=lambda p, root: build.inputs_of(plan_dir, every))
    job = Job.of(kind, kind.params(plan_dir=str(plan_dir)), Path.cwd(), home or plan_dirs[0], form="page")
    folder = out or job.folder
    if out is None:
        steps.retire(folder)
    with job.begin(folder):
        made = build.build(
            plan_dir, folder, KINDS, published=published, plan_dirs=plan_dirs if also else (), every=every
        )
    for line in machines.lines(made["rows"]):
        say(line)
    return made["page"]
