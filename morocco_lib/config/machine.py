"""Machine files: runner and limits, and the VM that a machine may be (params/machines)."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from morocco_lib.config.schema import Count, CountOrFound, Schema, load
from morocco_lib.errors import UsageError


class YandexParams(Schema):
    """What `morocco vm create` asks Yandex Cloud for; networks and keys as `yc` names them."""

    zone: str
    platform: str
    cores: Count
    memory_gib: Count
    gpus: CountOrFound = 0
    preemptible: bool = True  # cheaper, and stopped after 24 hours at most
    max_hours: Count = 24  # then it stops itself; counted from each start
    disk_gib: Count
    disk_type: str = "network-hdd"
    image: str  # a family of images
    image_folder: str = "standard-images"
    network: str = "default"  # as is the subnet: made if there is none
    subnet: str = "default"
    range: str = "192.168.0.0/24"
    ssh_key: str = "~/.ssh/id_rsa.pub"
    user: str = Field(default="yc-user", pattern=r"^[a-z_][a-z0-9_-]*$")


class VmParams(Schema):
    """A machine that is reached by ssh: one that is there, or one in Yandex Cloud."""

    host: str = Field(default="", pattern=r"^([^-\s]\S*)?$")  # for ssh: name, address or alias; not an option
    yandex: YandexParams | None = None
    ssh_config: str = ""  # a file for `ssh -F`
    folder: str = Field(default="morocco", pattern=r"^[^-\s~][^\s~]*$")  # of the project, from the user's home
    torch: Literal["", "default", "cpu", "cu126"] = ""  # the build that `vm setup` installs; "": none

    @model_validator(mode="after")
    def _one_place(self):
        if bool(self.host) == bool(self.yandex):
            raise ValueError("a VM has either `host` or `yandex`")
        return self


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
    vm: VmParams | None = Field(default=None, exclude=True)  # where it runs changes no step's key


def load_machine(name: str, root: Path) -> MachineParams:
    """Return params/machines/<name>.yaml."""
    folder = root / "params" / "machines"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UsageError(f"no machine {name!r} in {folder}", rule=f"machines: {', '.join(known)}")
    return load("machine", MachineParams, folder / f"{name}.yaml")
