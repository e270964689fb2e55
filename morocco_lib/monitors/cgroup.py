"""A cgroup of its own for one run: memory, CPU time and every process of the tree, as the kernel counts them.

Both layouts are read: v1 (one hierarchy a controller) and v2 (one tree). On a hybrid machine v1 is used where
/proc/self/cgroup names a memory hierarchy. Needs the right to make a child group: root, or a delegated group.
"""

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from morocco_lib.monitors.open_files import OpenFiles

ROOT = Path("/sys/fs/cgroup")
PREFIX = "morocco-"
# As memory.stat begins; one expression costs a fifth of looking for each name where the sampler has slept in between.
_MEMORY = {
    1: re.compile(rb"cache (?P<file>\d+)\nrss (?P<anon>\d+)\n(?:(?:\w+ \d+\n)*?shmem (?P<shmem>\d+)\n)?"),
    2: re.compile(
        rb"anon (?P<anon>\d+)\nfile (?P<file>\d+)\n(?:kernel (?P<kernel>\d+)\n)?(?:\w+ \d+\n)*?shmem (?P<shmem>\d+)\n"
    ),
}


class Memory(NamedTuple):
    """Memory of a group or process tree in bytes; None where the kernel does not tell."""

    anon_bytes: int
    shmem_bytes: int
    file_bytes: int
    kernel_bytes: int | None = None


@dataclass(frozen=True)
class Faults:
    """Page faults so far: `major` had to wait for storage, `minor` had not."""

    minor: int
    major: int


@dataclass(frozen=True)
class Io:
    """Bytes read from and written to storage so far; what the file cache gave is not in it."""

    read_bytes: int
    written_bytes: int


class RunCgroup:
    """The cgroup of one run.

    Args:
        version: 1 or 2.
        memory: Folder with the memory files.
        cpu: Folder with the CPU files (the same one in v2).
    """

    def __init__(self, version: int, memory: Path, cpu: Path):
        self.version, self.memory, self.cpu = version, memory, cpu
        self._files, self._last_stat, self._kernel_bytes = OpenFiles(), b"", None
        self._stat, self._procs = str(memory / "memory.stat"), str(memory / "cgroup.procs")
        self._usage = str(cpu / ("cpuacct.usage" if version == 1 else "cpu.stat"))
        self._stacked: dict[bytes, bool] = {}

    @classmethod
    def create(cls, root: Path = ROOT, proc: Path = Path("/proc")) -> "RunCgroup | None":
        """Make a fresh group below our own one, or return None where that is not allowed.

        Groups left behind by a killed morocco are ended and removed on the way.
        """
        parents = own_groups(root, proc)
        if parents is None:
            return None
        version, memory, cpu = parents
        name = f"{PREFIX}{os.getpid()}-{time.monotonic_ns()}"
        made = []
        try:
            for parent in dict.fromkeys((memory, cpu)):
                _sweep(parent, proc)
                (parent / name).mkdir()
                made.append(parent / name)
            group = cls(version, memory / name, cpu / name)
            group.read_memory(), group.cpu_s()  # a v2 group without controllers has no such files
            return group
        except (OSError, KeyError, ValueError):
            for folder in made:
                folder.rmdir()
            return None

    @classmethod
    def of_container(cls, pid: int, container_id: str) -> "RunCgroup | None":
        """Return the group an engine made for a container, or None where it is not to be seen from here.

        Args:
            pid: The container's first process, as the engine says; on another machine it would be somebody else's.
        """
        found = group_of(pid)
        if found is None or container_id not in found[1].name:
            return None
        group = cls(*found)
        try:
            group.read_memory(), group.cpu_s()
        except (OSError, KeyError, ValueError):
            return None
        return group

    def reader(self) -> "RunCgroup":
        """Return a view of the same group with files of its own, for another thread."""
        return RunCgroup(self.version, self.memory, self.cpu)

    def close(self) -> None:
        """Close the files kept open for reading."""
        self._files.close()

    @property
    def procs_files(self) -> list[Path]:
        """The files a process writes its pid to in order to enter the group."""
        return [folder / "cgroup.procs" for folder in dict.fromkeys((self.memory, self.cpu))]

    def read_memory(self, whole: bool = True) -> Memory:
        """Return the memory charged to the group now.

        Args:
            whole: False if memory of the kernel may be as of the last whole reading; v1 tells it in a file of its own.
        Raises:
            KeyError: the kernel does not tell.
        """
        stat = self._files.read(self._stat)
        found = _MEMORY[self.version].search(stat)
        if found is None:
            raise KeyError(f"{self._stat} names no memory")
        self._last_stat = stat
        anon, file, shmem = int(found["anon"]), int(found["file"]), int(found["shmem"] or 0)
        if self.version == 2:
            self._kernel_bytes = int(found["kernel"]) if found["kernel"] else None
        elif whole and self._kernel:
            self._kernel_bytes = int(self._files.read(self._kernel))
        return Memory(anon, shmem, file - shmem, self._kernel_bytes)

    @property
    def faults(self) -> Faults | None:
        """Page faults as of the last `read_memory`, None where the kernel does not tell."""
        if b"\npgmajfault " not in self._last_stat:
            return None
        major = _value(self._last_stat, b"pgmajfault")
        return Faults(_value(self._last_stat, b"pgfault") - major, major)

    @cached_property
    def _kernel(self) -> str | None:
        path = self.memory / "memory.kmem.usage_in_bytes"
        return str(path) if path.exists() else None

    def cpu_s(self) -> float:
        """Return the CPU seconds the group has used so far."""
        if self.version == 1:
            return int(self._files.read(self._usage)) / 1e9
        return _value(b"\n" + self._files.read(self._usage), b"usage_usec") / 1e6

    def io(self) -> Io | None:
        """Return what the group read from and wrote to storage, None where the kernel does not tell.

        v1 does not: its blkio files stay at 0 unless a limit is set, and never held what is written back later.
        """
        try:
            lines = self._files.read(self.memory / "io.stat", 1 << 16).splitlines() if self.version == 2 else None
        except OSError:  # no io controller was handed down to the group
            return None
        if lines is None:
            return None
        read = written = 0
        for device, *words in (line.split() for line in lines if line):
            if device not in self._stacked:  # what goes to a volume is counted again at the disk below it
                self._stacked[device] = any(Path(f"/sys/dev/block/{device.decode()}/slaves").glob("*"))
            values = dict(word.split(b"=") for word in words)
            if not self._stacked[device]:
                read, written = read + int(values.get(b"rbytes", 0)), written + int(values.get(b"wbytes", 0))
        return Io(read, written)

    def peak_bytes(self) -> tuple[int, str] | None:
        """Return (the kernel's own peak including file cache, the file it came from), None on kernels before 5.19 with v2."""
        name = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
        try:
            return int((self.memory / name).read_text()), name
        except OSError:
            return None

    def oom_kills(self) -> int:
        """Return how many processes of the group were killed for want of memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        stat = dict(line.split()[:2] for line in (self.memory / name).read_text().splitlines())
        return int(stat.get("oom_kill", 0))

    def pids_refused(self) -> int:
        """Return how many new processes the limit refused so far; 0 where the kernel does not tell."""
        v1 = ROOT / "pids" / self.memory.relative_to(ROOT / "memory") if self.version == 1 else self.memory
        try:
            return int((v1 / "pids.events").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return 0

    def limit_memory(self, limit_bytes: int) -> None:
        """Set the memory limit; swap does not widen it where it can be limited too."""
        if self.version == 1:
            (self.memory / "memory.limit_in_bytes").write_text(str(limit_bytes))
            swap = self.memory / "memory.memsw.limit_in_bytes"
        else:
            (self.memory / "memory.max").write_text(str(limit_bytes))
            swap = self.memory / "memory.swap.max"
        if swap.exists():
            swap.write_text(str(limit_bytes if self.version == 1 else 0))

    def pids(self) -> list[int]:
        """Return the pids of the group, children that left their process group included."""
        # Opened each time: v1 shows a list up to a second old to who keeps the file open.
        try:
            with open(self._procs, "rb", buffering=0) as file:
                return [int(pid) for pid in file.readall().split()]
        except OSError:
            return []

    def kill(self) -> list[int]:
        """Kill every process of the group and return those that were there."""
        return end_all(self.pids)

    def remove(self) -> None:
        """Remove the group; waits up to a second for killed processes to leave it."""
        self.close()
        for folder in dict.fromkeys((self.memory, self.cpu)):
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)


def _value(stat: bytes, name: bytes) -> int:
    begin = stat.find(b"\n" + name + b" ")
    if begin < 0:
        raise KeyError(name)
    begin += len(name) + 2
    return int(stat[begin : stat.find(b"\n", begin)])


def end_all(pids: Callable[[], list[int]]) -> list[int]:
    """Kill the processes that `pids` names until it names none, for half a second at most; return all it named."""
    killed: list[int] = []
    for _ in range(100):  # a process may fork between reading and killing
        there = pids()
        if not there:
            break
        killed += [pid for pid in there if pid not in killed]
        for pid in there:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return killed


def group_of(pid: int | str, root: Path = ROOT, proc: Path = Path("/proc")) -> tuple[int, Path, Path] | None:
    """Return (version, memory folder, cpu folder) of the cgroup a process is in, None where it cannot be seen.

    A folder that is named and is not there (a container's /proc may name the host's tree) counts as the mount itself.
    """
    try:
        lines = [line.split(":", 2) for line in (proc / str(pid) / "cgroup").read_text().splitlines()]
    except OSError:
        return None
    paths = {controller: path for _, controllers, path in lines for controller in controllers.split(",")}
    if "memory" in paths and "cpuacct" in paths:
        folders = []
        for controller in ("memory", "cpuacct"):
            mount = next((root / m for m in (controller, "cpu,cpuacct", "cpuacct,cpu") if (root / m).is_dir()), None)
            if mount is None:
                return None
            own = mount / paths[controller].lstrip("/")
            folders.append(own if own.is_dir() else mount)
        return 1, folders[0], folders[1]
    if "" in paths:
        own = root / paths[""].lstrip("/")
        return 2, own, own
    return None


def own_groups(root: Path = ROOT, proc: Path = Path("/proc")) -> tuple[int, Path, Path] | None:
    """Return (version, memory folder, cpu folder) of the group a child group can be made in, None where there is none."""
    found = group_of("self", root, proc)
    if found is None or found[0] == 1:
        return found
    # In v2 a group that holds processes hands no controller down: the nearest group above that does is the parent.
    own = found[1]
    for folder in (own, *own.parents):
        try:
            if "memory" in (folder / "cgroup.subtree_control").read_text().split():
                return 2, folder, folder
        except OSError:
            continue
        if folder == root:
            break
    return None


def _sweep(parent: Path, proc: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not (proc / owner).exists():
            orphan = RunCgroup(1, folder, folder)
            orphan.kill()
            orphan.remove()
