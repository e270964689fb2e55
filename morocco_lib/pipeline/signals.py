"""SIGINT, SIGTERM and SIGHUP (a closed terminal) while a plan runs; the end of its processes with it."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


class Signals:
    """Notes signals, to be raised by `check` where that is safe; a second one ends the process at once.

    An exception raised wherever a signal arrives may be swallowed there, and leaves what it interrupts half done.
    """

    def __enter__(self) -> "Signals":
        self.received = None
        noted = [signal.SIGINT, signal.SIGTERM]
        noted += [signal.SIGHUP] * (signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN)  # ignored under nohup
        self.before = {number: signal.signal(number, self._note) for number in noted}
        return self

    def __exit__(self, *raised) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if raised == (None, None, None):
            self.check()

    def _note(self, number: int, frame) -> None:
        again, self.received = self.received is not None, number
        if again:
            os._exit(128 + number)  # kernels end with us; the next run corrects the step's status

    def check(self) -> None:
        """Raise KeyboardInterrupt or SystemExit if a signal has come."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received:
            sys.exit(128 + self.received)


def end_with_parent(parent: int) -> None:
    """Let the system kill this process when the one that started it is gone, however it ended.

    Args:
        parent: Its pid; if it has gone already, this process ends now.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
