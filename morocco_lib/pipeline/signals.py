"""SIGINT, SIGTERM and SIGHUP (a closed terminal) while a plan runs; the end of its processes with it."""

import multiprocessing
import os
import signal
import sys
import threading


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


def end_with_parent() -> None:
    """Let this process, which `multiprocessing` started, be killed when the one that asked for it is gone, however it ended."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()
