"""Cgroups: where a process is in them, and a group of its own for one run with its memory, CPU time and processes.

Both layouts are read: v1 (one hierarchy a controller) and v2 (one tree). On a hybrid machine v1 is used where
/proc/self/cgroup names a memory hierarchy. Making a group needs the right to make a child: root, or a delegated group.
"""

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from morocco_lib.monitors.open_files import OpenFiles

ROOT, PROC = Path("/sys/fs/cgroup"), Path("/proc")
PREFIX = "morocco-"
# As memory.stat begins; one expression costs a fifth of looking for each name where the sampler has slept in between.
_MEMORY = {
    1: re.compile(
        rb"cache (?P<file>\d+)\nrss (?P<anon>\d+)\n(?:(?:\w+ \d+\n)*?shmem (?P<shmem>\d+)\n)?"
        rb"(?:mapped_file (?P<mapped>\d+)\n)?(?:dirty (?P<dirty>\d+)\n)?(?:writeback (?P<writeback>\d+)\n)?"
    ),
    2: re.compile(
        rb"anon (?P<anon>\d+)\nfile (?P<file>\d+)\n(?:kernel (?P<kernel>\d+)\n)?(?:\w+ \d+\n)*?shmem (?P<shmem>\d+)\n"
        rb"(?:(?:\w+ \d+\n)*?file_mapped (?P<mapped>\d+)\n)?"
        rb"(?:file_dirty (?P<dirty>\d+)\n)?(?:file_writeback (?P<writeback>\d+)\n)?"
    ),
}


class Memory(NamedTuple):
    """Memory of a group or process tree in bytes; None where the kernel does not report it.

    `file_bytes` is the file cache of a group, and what the processes of a tree have mapped of files. `mapped_bytes` are
    the file pages that are held: mapped by a process of the run, or not yet written to storage. Huge pages are those of
    hugetlbfs, which the kernel counts nowhere else.
    """

    anon_bytes: int
    shmem_bytes: int
    file_bytes: int
    kernel_bytes: int | None = None
    mapped_bytes: int = 0
    huge_bytes: int = 0
    swap_bytes: int = 0


class RunCgroup:
    """The cgroup of one run.

    Args:
        version: 1 or 2.
        memory: Folder with the memory files.
        cpu: Folder with the CPU files (the same one in v2).
    """

    def __init__(self, version: int, memory: Path, cpu: Path):
        self.version, self.memory, self.cpu = version, memory, cpu
        self._files, self._kernel_bytes = OpenFiles(), None
        self._mapped_bytes = self._dirty_bytes = 0
        self._stat, self._procs = str(memory / "memory.stat"), str(memory / "cgroup.procs")
        self._usage = str(cpu / ("cpuacct.usage" if version == 1 else "cpu.stat"))

    @classmethod
    def create(cls, root: Path = ROOT, proc: Path = PROC) -> "RunCgroup | None":
        """Make a new group below our own one, or return None where that is not allowed.

        Groups that a killed morocco left are emptied and removed first.
        """
        parents = parent_groups(root, proc)
        if parents is None:
            return None
        version, memory, cpu = parents
        name = f"{PREFIX}{os.getpid()}-{time.monotonic_ns()}"
        made = []
        try:
            for parent in dict.fromkeys((memory, cpu)):
                _remove_orphans(parent, proc)
                (parent / name).mkdir()
                made.append(parent / name)
            return cls(version, memory / name, cpu / name)._checked()
        except (OSError, KeyError, ValueError):
            for folder in made:
                folder.rmdir()
            return None

    @classmethod
    def of_container(cls, pid: int, container_id: str) -> "RunCgroup | None":
        """Return the group that an engine made for a container, or None where it cannot be read from here.

        Args:
            pid: The container's first process as the engine reports it; with an engine on another machine the number
                belongs to another process here, whose group does not have the container's name.
        """
        groups = groups_of(pid)
        if not groups.accounts or container_id not in groups.folders["memory"].name:
            return None
        try:
            return cls(groups.version, groups.folders["memory"], groups.folders["cpuacct"])._checked()
        except (OSError, KeyError, ValueError):
            return None

    def _checked(self) -> "RunCgroup":
        self.read_memory(), self.cpu_s()  # a v2 group without controllers has no such files
        return self

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
        """Return the memory charged to the group now, without what only its processes tell.

        Args:
            whole: False if the kernel's own memory may be that of the last whole reading; v1 has it in another file.
        Raises:
            KeyError: the file has no memory in it.
        """
        stat = self._files.read(self._stat)
        found = _MEMORY[self.version].search(stat)
        if found is None:
            raise KeyError(f"no memory in {self._stat}")
        anon, file, shmem = int(found["anon"]), int(found["file"]), int(found["shmem"] or 0)
        self._mapped_bytes = int(found["mapped"] or 0)
        self._dirty_bytes = int(found["dirty"] or 0) + int(found["writeback"] or 0)
        if self.version == 2:
            self._kernel_bytes = int(found["kernel"]) if found["kernel"] else None
        elif whole and self._kernel:
            self._kernel_bytes = int(self._files.read(self._kernel))
        return Memory(anon, shmem, file - shmem, self._kernel_bytes)

    def held_file_bytes(self, last: Memory, mapped_bytes: int, mapped_shmem_bytes: int) -> int:
        """Return the file pages that the run holds: those its processes have mapped, and those not yet written.

        A page counts for the group that read it first, so libraries that were in the cache before, and weights read by an
        earlier run, are in no number of the group; a page may be mapped and unwritten at once.

        Args:
            last: What `read_memory` returned.
            mapped_bytes: Of files, by the run's processes, each page once.
            mapped_shmem_bytes: Shared memory that they have mapped; the group counts it as mapped, too.
        """
        here = min(mapped_bytes, max(0, self._mapped_bytes - min(last.shmem_bytes, mapped_shmem_bytes)))
        return mapped_bytes - here + min(here + self._dirty_bytes, max(here, last.file_bytes))

    @cached_property
    def _kernel(self) -> str | None:
        path = self.memory / "memory.kmem.usage_in_bytes"
        return str(path) if path.exists() else None

    def cpu_s(self) -> float:
        """Return the CPU seconds the group has used so far."""
        if self.version == 1:
            return int(self._files.read(self._usage)) / 1e9
        stat = dict(line.split() for line in self._files.read(self._usage).splitlines())
        return int(stat[b"usage_usec"]) / 1e6

    def peak_bytes(self) -> tuple[int, str] | None:
        """Return (the kernel's own peak including file cache, the file it came from), None on kernels before 5.19 with v2."""
        name = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
        try:
            return int((self.memory / name).read_text()), name
        except OSError:
            return None

    def oom_kills(self) -> int:
        """Return how many processes of the group the kernel killed because memory ran out."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        stat = dict(line.split()[:2] for line in (self.memory / name).read_text().splitlines())
        return int(stat.get("oom_kill", 0))

    def pids_refused(self) -> int:
        """Return how many new processes the limit refused so far; 0 where the kernel does not count them."""
        folder = ROOT / "pids" / self.memory.relative_to(ROOT / "memory") if self.version == 1 else self.memory
        try:
            return int((folder / "pids.events").read_text().split()[1])
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
        # Opened each time: a file of v1 that is kept open shows a list up to a second old.
        try:
            with open(self._procs, "rb", buffering=0) as file:
                return [int(pid) for pid in file.readall().split()]
        except OSError:
            return []

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


def kill_all(pids: Callable[[], list[int]]) -> list[int]:
    """Kill the processes that `pids` returns until it returns none, for half a second at most; return all it returned."""
    killed: list[int] = []
    for _ in range(100):  # a process may fork between reading and killing
        alive = pids()
        if not alive:
            break
        killed += [pid for pid in alive if pid not in killed]
        for pid in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return killed


@dataclass(frozen=True)
class Groups:
    """The cgroups of a process.

    Args:
        version: The one that accounts for memory, 1 or 2; None without cgroups.
        hybrid: Both versions are mounted.
        folders: Folder of the process's group by controller.
    """

    version: int | None = None
    hybrid: bool = False
    folders: dict[str, Path] = field(default_factory=dict)

    @property
    def accounts(self) -> bool:
        """Whether both memory and CPU time are counted."""
        return {"memory", "cpuacct"} <= self.folders.keys()


def groups_of(pid: int | str = "self", root: Path = ROOT, proc: Path = PROC) -> Groups:
    """Return the cgroups of a process.

    In a container /proc may give the path of the host's tree; where there is no such folder the mount itself is ours.
    """
    try:
        lines = [line.split(":", 2) for line in (proc / str(pid) / "cgroup").read_text().splitlines()]
    except OSError:
        return Groups()
    v1 = {name: (joined, path) for _, joined, path in lines for name in joined.split(",") if joined}
    unified = next((path for _, joined, path in lines if not joined), None)
    tree = root / "unified" if (root / "unified").is_dir() and not (root / "cgroup.controllers").exists() else root
    if "memory" in v1:
        version, mounts = 1, {name: (root / joined, path) for name, (joined, path) in v1.items()}
        mounts |= {name: (root / name, path) for name, (_, path) in v1.items() if (root / name).is_dir()}
    elif unified is not None:
        version, mounts = 2, dict.fromkeys(("memory", "cpu", "cpuacct"), (tree, unified))
    else:
        return Groups()
    folders = {}
    for name, (mount, path) in mounts.items():
        if mount.is_dir():
            own = mount / path.lstrip("/")
            folders[name] = own if ".." not in path and own.is_dir() else mount
    return Groups(version, bool(v1) and unified is not None, folders) if folders else Groups()


def parent_groups(root: Path = ROOT, proc: Path = PROC) -> tuple[int, Path, Path] | None:
    """Return (version, memory folder, cpu folder) of the group that a child group can be made in, None without one."""
    own = groups_of("self", root, proc)
    if not own.accounts:
        return None
    memory, cpu = own.folders["memory"], own.folders["cpuacct"]
    if own.version == 1:
        return 1, memory, cpu
    # In v2 a group that holds processes delegates no controller: the nearest group above that does is the parent.
    for folder in (memory, *memory.parents):
        try:
            if "memory" in (folder / "cgroup.subtree_control").read_text().split():
                return 2, folder, folder
        except OSError:
            continue
        if folder == root:
            break
    return None


def _remove_orphans(parent: Path, proc: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not (proc / owner).exists():
            orphan = RunCgroup(1, folder, folder)
            kill_all(orphan.pids)
            orphan.remove()
