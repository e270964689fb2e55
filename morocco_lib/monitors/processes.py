"""The processes of a run one by one: how each of them ended."""

import os
import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from morocco_lib.monitors import procfs

MAX_WATCHED = 200  # at a time: each takes a file descriptor, of 1024 that are usual
MAX_KEPT = 100  # of those that ended by a signal, and of the others


class Processes:
    """Watches the processes of a run; `update` is called by the sampler.

    Args:
        pids: Returns those that run now.
        origin_ns: What times count from.
    Limits: a process that lives for less than 0.1 s may be missed, and of 200 at a time no more are watched.
        How one ended is read from /proc while its parent has not waited for it; where the parent was quicker, signal
        and code are None.
    """

    def __init__(self, pids: Callable[[], list[int]], origin_ns: int):
        self._pids, self._origin_ns = pids, origin_ns
        self._poll = select.poll()
        self._watched: dict[int, int] = {}  # pid -> pidfd
        self._ended: set[int] = set()  # pids that may be listed a while longer, as zombies are
        self._by_signal: list[dict[str, Any]] = []
        self._others: list[dict[str, Any]] = []
        self.pids: set[int] = set()  # all that were found

    def update(self, t_ns: int, find: bool = True) -> None:
        """Record the processes that have ended since the last call and, with `find`, watch those that are new."""
        if find or not self._watched:
            self._find()
        for pidfd, _ in self._poll.poll(0):
            pid = next(pid for pid, watched in self._watched.items() if watched == pidfd)
            self._record(pid, procfs.exit_status(pid), t_ns)

    def _find(self) -> None:
        listed = self._pids()
        self._ended.intersection_update(listed)
        for pid in listed:
            if pid not in self._watched and pid not in self._ended and len(self._watched) < MAX_WATCHED:
                with suppress(OSError):  # it has ended already, or is hidden
                    self._watched[pid] = os.pidfd_open(pid)
                    self._poll.register(self._watched[pid], select.POLLIN)
                    self.pids.add(pid)

    def _record(self, pid: int, status: int | None, t_ns: int) -> None:
        pidfd = self._watched.pop(pid)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        self._ended.add(pid)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        ended = {
            "pid": pid,
            "t_ns": t_ns - self._origin_ns,
            "signal": -code if code is not None and code < 0 else None,
            "code": code if code is not None and code >= 0 else None,
        }
        kept = self._others if ended["signal"] is None else self._by_signal
        if len(kept) < MAX_KEPT:
            kept.append(ended)

    def ended(self) -> list[dict[str, Any]]:
        """Return {pid, t_ns, signal, code} of those that ended, in their order; both None where it is not known how.

        `t_ns` is when the end was noticed, up to 0.05 s later than it was. Of each kind, by a signal or not, the first
        hundred are kept.
        """
        return sorted(self._by_signal + self._others, key=lambda ended: ended["t_ns"])

    def close(self) -> None:
        """Stop watching."""
        for pidfd in self._watched.values():
            os.close(pidfd)
        self._watched = {}
