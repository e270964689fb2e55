"""Where a training keeps what it needs to go on, and a file there whose time says that it does: a plan ends one that stalls."""

from pathlib import Path

FILE = "heartbeat"


def work_folder(folder: Path) -> Path:
    """Return where a step of training keeps what it needs to go on after an interruption."""
    return folder.with_name(f"{folder.name}.checkpoints")


def of_step(folder: Path) -> Path:
    """Return the file of a step: it is there, and its time changes, while updates follow each other."""
    return work_folder(folder) / FILE


def beat(work: Path) -> None:
    (work / FILE).touch()


def pause(work: Path) -> None:
    """Say that what follows may take any time: an evaluation, the end."""
    (work / FILE).unlink(missing_ok=True)
