"""A report as a step of its own, without a notebook: `morocco report`."""

from pathlib import Path
from typing import Any

from morocco_lib.artifacts import steps
from morocco_lib.errors import UsageError
from morocco_lib.pipeline.job import Job
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.report import build


def report_step(plan_dir: Path, out: Path | None = None, published: dict[str, Any] | None = None) -> Path:
    """Build the page of a folder of results and return it.

    Args:
        plan_dir: Folder of step folders.
        out: New or empty folder; None: report-<key> in `plan_dir`.
        published: Published numbers to show beside; see `legacy.published`.
    Raises:
        UsageError: no such folder, or nothing to report in it.
    """
    plan_dir = Path(plan_dir)
    if not plan_dir.is_dir():
        raise UsageError(f"no folder {plan_dir}", remedy="give outputs/<plan>")
    kind = KINDS["report"]
    job = Job.of(kind, kind.params(plan_dir=str(plan_dir)), Path.cwd(), plan_dir, form="page")
    folder = out or job.folder
    if out is None:
        steps.retire(folder)
    with job.begin(folder):
        return build.build(plan_dir, folder, KINDS, published=published)["page"]
