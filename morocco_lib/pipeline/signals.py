"""SIGINT and SIGTERM while a plan runs."""

import os
import signal
import sys


class Signals:
    """SIGINT and SIGTERM as something that is asked for, and raised where it does no harm; a second one ends at once.

    An exception raised wherever a signal happens to arrive may be swallowed there, and leaves what it interrupts undone.
    """

    def __enter__(self) -> "Signals":
        self.seen = None
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *raised) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if raised == (None, None, None):
            self.check()

    def _note(self, number: int, frame) -> None:
        again, self.seen = self.seen is not None, number
        if again:
            os._exit(128 + number)  # kernels die with us; the step's status is set right by the next run

    def check(self) -> None:
        """Raise KeyboardInterrupt or SystemExit if a signal has come."""
        if self.seen == signal.SIGINT:
            raise KeyboardInterrupt
        if self.seen:
            sys.exit(128 + self.seen)
