"""SIGINT and SIGTERM while a plan runs."""

import os
import signal
import sys


class Signals:
    """Notes SIGINT and SIGTERM, to be raised by `check` where that is safe; a second one ends the process at once.

    An exception raised wherever a signal arrives may be swallowed there, and leaves what it interrupts half done.
    """

    def __enter__(self) -> "Signals":
        self.received = None
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
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
