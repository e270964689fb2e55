"""Machines of a cluster on this one: network namespaces on a bridge, each with folders of its own at the same paths. Needs root.

Processes are seen by all of them, and so is what is not in those folders.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

BRIDGE, NET = "morocco-test", "10.213.7"
ENTER = """hostname "$0"; for pair; do shift; [ "$pair" = -- ] && break; mount --bind "${pair%%=*}" "${pair#*=}"; done; exec "$@\""""


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


class Machine:
    """A namespace with an address; `home` is where it keeps its own of the shared folders.

    Args:
        number: Of the machine, from 1.
        own: Folders that each machine has one of.
    """

    def __init__(self, number: int, home: Path, own: Sequence[Path], env: Mapping[str, str]):
        self.name, self.address, self.env = f"{BRIDGE}-{number}", f"{NET}.{number + 1}", dict(env)
        self.home, self.mounts = home / self.name, []
        for folder in own:
            mine = self.home / folder.name
            mine.mkdir(parents=True), folder.mkdir(parents=True, exist_ok=True)
            self.mounts.append(f"{mine}={folder}")
        ip("netns", "add", self.name)
        ip("link", "add", f"{BRIDGE}{number}", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", f"{BRIDGE}{number}", "master", BRIDGE, "up")
        ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.name, "link", "set", device, "up")

    def argv(self, *words: object) -> list[str]:
        inside = ("ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", ENTER, self.name)
        return [*inside, *self.mounts, "--", *map(str, words)]

    def run(self, *words: object, **options) -> subprocess.CompletedProcess:
        options = {"capture_output": True, "text": True, "timeout": 300, **options}
        return subprocess.run(self.argv(*words), env=self.env, check=False, **options)

    def start(self, *words: object, **options) -> subprocess.Popen:
        return subprocess.Popen(self.argv(*words), env=self.env, text=True, **options)

    def pids(self) -> list[int]:
        return [int(word) for word in ip("netns", "pids", self.name).split()]

    def power_off(self) -> None:
        """End all its processes at once."""
        while pids := self.pids():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


@contextmanager
def machines(count: int, home: Path, own: Sequence[Path], env: Mapping[str, str]) -> Iterator[list[Machine]]:
    """Yield machines that reach each other and, at NET.1, this one."""
    made = []
    ip("link", "add", BRIDGE, "type", "bridge")
    try:
        ip("address", "add", f"{NET}.1/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number in range(1, count + 1):
            made.append(Machine(number, home, own, env))
        yield made
    finally:
        for machine in made:
            machine.power_off()
            ip("netns", "delete", machine.name)
        ip("link", "delete", BRIDGE)
