"""Machine files: runner and limits (params/machines)."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from morocco_lib.config.schema import Count, Schema, load
from morocco_lib.errors import UsageError


class MachineParams(Schema):
    """Which runner, and what a run may use: a params/machines file."""

    name: str = "local"
    runner: Literal["process", "docker", "auto"] = "process"
    base: str = "python:3.11-slim-bookworm"  # of images built for `docker`; "debian" is made here from packages
    gpus: list[str] = Field(default_factory=list)  # UUIDs; for containers
    timeout_s: float = Field(default=3600.0, gt=0)
    memory_bytes: Count | None = None
    pids: Count | None = None  # for containers, as is cpus
    cpus: float | None = Field(default=None, gt=0)
    chosen: str = ""  # how `auto` was resolved


def load_machine(name: str, root: Path) -> MachineParams:
    """Return params/machines/<name>.yaml."""
    folder = root / "params" / "machines"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UsageError(f"no machine {name!r} in {folder}", rule=f"machines: {', '.join(known)}")
    return load("machine", MachineParams, folder / f"{name}.yaml")
