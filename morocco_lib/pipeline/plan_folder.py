"""The folder of a plan's steps: where it is, and that one run at a time works in it."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from morocco_lib import config
from morocco_lib.artifacts import steps
from morocco_lib.errors import EnvironmentFailure

LOCK = ".lock"


def place(plan: config.PlanParams, root: Path, out: Path | None, fresh: bool) -> Path:
    """Return where a plan's step folders go."""
    if out:
        return out.resolve()
    return root / "outputs" / (f"{plan.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}" if fresh else plan.name)


@contextmanager
def lock(plan_dir: Path) -> Iterator[None]:
    """Lock a plan folder for this process; the system releases it however the process ends.

    Raises:
        EnvironmentFailure: another process works on it, which is named; or the folder cannot be written.
    """
    try:
        plan_dir.mkdir(parents=True, exist_ok=True)
        file = (plan_dir / LOCK).open("a+")
    except OSError as error:
        raise EnvironmentFailure(
            f"cannot write {plan_dir}: {error.strerror}", remedy="choose another folder with --out"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise EnvironmentFailure(
                f"{plan_dir} is being worked on by {file.read().strip() or 'another run'}",
                rule="one run at a time in a plan folder",
                remedy="wait for it, end it, or give --out another folder",
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} since {steps.now()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
