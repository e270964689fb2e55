"""The processes of a run one by one: how each of them ended, and what they read from and wrote to storage."""

import fcntl
import os
import select
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from morocco_lib.monitors import procfs
from morocco_lib.monitors.cgroup import Io
from morocco_lib.monitors.open_files import OpenFiles

MOST_WATCHED = 200  # at a time: each takes a file descriptor or two, of 1024 that are usual
MOST_KEPT = 100  # of those that ended by a signal, and of the others

# linux/pidfd.h: struct pidfd_info is {u64 mask, u64 cgroupid, u32 pid, tgid, ppid, eight ids of users, s32 exit_code}
_INFO = struct.Struct("=QQ11Ii")
_PIDFD_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, struct pidfd_info)
_PIDFD_INFO_EXIT = 1 << 3


class Processes:
    """Watches the processes of a run; `look` is called by the sampler.

    Args:
        pids: Names those that run now.
        origin_ns: What times count from.
    Limits: one that lives for less than 0.1 s may be missed; beyond 200 at a time none is watched.
        How one ended is asked of the kernel (6.15 and later) or of the dead process before its parent waits for it;
        where neither tells, it is not known.
    """

    def __init__(self, pids: Callable[[], list[int]], origin_ns: int):
        self._pids, self._origin_ns = pids, origin_ns
        self._poll = select.epoll()
        self._watched: dict[int, int] = {}  # pid -> pidfd
        self._pid_of: dict[int, int] = {}  # pidfd -> pid
        self._waiting: dict[int, int] = {}  # pidfd -> when its end was seen, where the kernel has not told how it ended
        self._gone: set[int] = set()  # ended, and may be named a while longer, as the dead are
        self._killed: list[dict[str, Any]] = []
        self._others: list[dict[str, Any]] = []
        self._files = OpenFiles()
        self._io: Io | None = None
        self.seen: set[int] = set()

    def look(self, t_ns: int, find: bool = True) -> None:
        """Find processes that have ended since the last look and, if told to, those that are new."""
        if find or not self._watched:
            self._find()
        for pidfd, _ in self._poll.poll(0, MOST_WATCHED):
            self._waiting.setdefault(pidfd, t_ns)
        for pidfd in list(self._waiting):
            status = wait_status(pidfd, self._pid_of[pidfd])
            if status is not None or (procfs.stat_fields(self._pid_of[pidfd]) or "gone")[0] != "Z":
                self._end(pidfd, status)

    def _find(self) -> None:
        named = self._pids()
        self._gone.intersection_update(named)
        for pid in named:
            if pid not in self._watched and pid not in self._gone and len(self._watched) < MOST_WATCHED:
                with suppress(OSError):  # it has ended already, or is out of sight
                    self._watch(pid, os.pidfd_open(pid))

    def _watch(self, pid: int, pidfd: int) -> None:
        self._watched[pid], self._pid_of[pidfd] = pidfd, pid
        self._poll.register(pidfd, select.EPOLLIN)
        self.seen.add(pid)

    def _end(self, pidfd: int, status: int | None) -> None:
        pid, t_ns = self._pid_of.pop(pidfd), self._waiting.pop(pidfd)
        del self._watched[pid]
        self._gone.add(pid)
        self._files.forget(procfs.io_path(pid))
        os.close(pidfd)  # which ends polling it
        code = None if status is None else os.waitstatus_to_exitcode(status)
        ended = {
            "pid": pid,
            "t_ns": t_ns - self._origin_ns,
            "signal": -code if code is not None and code < 0 else None,
            "code": code if code is not None and code >= 0 else None,
        }
        kept = self._others if ended["signal"] is None else self._killed
        if len(kept) < MOST_KEPT:
            kept.append(ended)

    def io(self) -> Io | None:
        """Return what the processes read from and wrote to storage so far, None where none of it may be seen.

        Limits: what one used that ended without its parent waiting for it is lost, so it is a floor.
        """
        readings = [reading for pid in self._watched if (reading := procfs.read_io(pid, self._files))]
        if readings:
            last = self._io or Io(0, 0)
            self._io = Io(
                max(last.read_bytes, sum(reading.read_bytes for reading in readings)),
                max(last.written_bytes, sum(reading.written_bytes for reading in readings)),
            )
        return self._io

    def ended(self) -> list[dict[str, Any]]:
        """Return {pid, t_ns, signal, code} of those that ended, in their order; `code` is None too where it is not known.

        `t_ns` is when the end was seen, up to 0.05 s later than it was. Of each kind, by a signal or not, the first
        hundred are kept.
        """
        return sorted(self._killed + self._others, key=lambda ended: ended["t_ns"])

    def close(self) -> None:
        """Stop watching; one whose end was seen and not told is kept as that."""
        for pidfd in list(self._waiting):
            self._end(pidfd, None)
        for pidfd in self._pid_of:
            os.close(pidfd)
        self._watched, self._pid_of = {}, {}
        self._poll.close()
        self._files.close()


def wait_status(pidfd: int, pid: int) -> int | None:
    """Return the wait status of a process that has ended, None where the kernel does not tell, or not yet."""
    status = _told(pidfd)
    if status is None and (status := _status_of_dead(pid)) is None:
        status = _told(pidfd)  # its parent waited for it in between
    return status


def _told(pidfd: int) -> int | None:
    # The kernel tells it once the parent has waited.
    info = bytearray(_INFO.size)
    _INFO.pack_into(info, 0, _PIDFD_INFO_EXIT, *[0] * 13)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask, *_, status = _INFO.unpack(info)
    return status if mask & _PIDFD_INFO_EXIT else None


def _status_of_dead(pid: int) -> int | None:
    # To others than root and its own user the kernel shows 0, which would read as an end without a fault.
    try:
        hidden = os.geteuid() not in (0, os.stat(f"/proc/{pid}").st_uid)
    except OSError:
        return None
    fields = procfs.stat_fields(pid)
    return int(fields[49]) if fields and fields[0] == "Z" and not hidden else None
