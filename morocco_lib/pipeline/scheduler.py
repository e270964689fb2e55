"""Turns: models that are compared are measured in the same minutes, one run of each after the other: A B C A B C ...

A machine drifts: it warms up, clocks fall, other work comes and goes. What all models go through alike does not show as
a difference between them.

    Turns   in the process that runs a plan: gives the turns, a seat for each kernel
    Place   in a kernel: asks for a turn before each run, and leaves when all is measured

A turn is given when nobody is at work: all others wait, have left, or are gone. So nothing is measured while a kernel
still starts, prepares its model or computes; who needs more runs than the others takes more, and nobody draws before the
last run is over. Kernels wait in a read of a socket, which costs nothing and ends with either process.
"""

import os
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from morocco_lib.errors import EnvironmentFailure

SEATS = 8  # kernels that wait for each other at most; each holds some 150 MB
VARIABLE = "MOROCCO_TURNS"  # in a kernel's environment: the file descriptor of its socket
TURN, MEET, LEAVE, GO = b"t", b"m", b"l", b"g"


class Place:
    """A place among those that take turns. Enter it to measure; leaving it waits until all others have left too.

    Args:
        line: The socket to who gives turns; None: nobody does, and nothing is waited for.
    """

    def __init__(self, line: socket.socket | None = None):
        self._line, self._turns = line, 0

    @classmethod
    def of_this_process(cls) -> "Place":
        """Return the place that the process was started with; a second call finds none."""
        number = os.environ.pop(VARIABLE, None)  # not for the programs that are measured
        if number is None:
            return cls()
        line = socket.socket(fileno=int(number))
        line.set_inheritable(False)
        return cls(line)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn; it lasts until the next is asked for, and one within it is the same.

        Raises:
            EnvironmentFailure: the process that gives turns is gone.
        """
        if not self._turns:
            self._wait(TURN)
        self._turns += 1
        try:
            yield
        finally:
            self._turns -= 1

    def meet(self) -> None:
        """Wait until all others have come to their `meet` too, or have left, so that what follows is in step."""
        self._wait(MEET)

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *raised) -> None:
        if self._line:
            with self._line:
                self._wait(LEAVE)
            self._line = None

    def _wait(self, word: bytes) -> None:
        if self._line is None:
            return
        answer = b""
        with suppress(ConnectionError):
            self._line.sendall(word)
            answer = self._line.recv(1)
        if not answer:
            raise EnvironmentFailure("the plan that this notebook is part of has ended", remedy="run the plan again")


class Seat:
    """The other end of a kernel's place."""

    def __init__(self, over: threading.Event):
        self.over = over  # set when nobody will measure any more
        self.line, self._theirs = socket.socketpair()

    def options(self, environment: dict[str, str]) -> dict[str, Any]:
        """Return what `subprocess.Popen` is to be told for a process that takes this seat."""
        number = self._theirs.fileno()
        return {"env": {**environment, VARIABLE: str(number)}, "pass_fds": (number,)}

    def taken(self) -> None:
        """Say that the process has been started: from now on the seat falls free with its end."""
        self._theirs.close()

    def leave(self) -> None:
        """Free the seat, whatever its process does; more than once is fine."""
        with suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)

    def say(self, word: bytes) -> None:
        with suppress(OSError):  # gone, which is heard next
            self.line.sendall(word)

    def hear(self) -> bytes:
        """Return a word, empty when the other end is gone."""
        try:
            return self.line.recv(1)
        except OSError:
            return b""

    def close(self) -> None:
        self.line.close()
        self._theirs.close()


class Turns:
    """Gives turns, round robin, to the processes in its seats, until each has left or ended.

    Args:
        count: How many seats; each is waited for until its first turn is asked for, or `Seat.leave`.
    """

    def __init__(self, count: int):
        self.over = threading.Event()
        self.seats = [Seat(self.over) for _ in range(count)]
        self._thread = threading.Thread(target=self._give, name="morocco-turns", daemon=True)

    def __enter__(self) -> "Turns":
        self._thread.start()
        return self

    def __exit__(self, *raised) -> None:
        for seat in self.seats:
            seat.leave()
        self._thread.join()
        for seat in self.seats:
            seat.close()

    def _give(self) -> None:
        asked = dict.fromkeys(self.seats, b"")  # what each waits for, in the order of turns; nothing while it works
        with selectors.DefaultSelector() as lines:
            for seat in self.seats:
                lines.register(seat.line, selectors.EVENT_READ, seat)
            while any(word != LEAVE for word in asked.values()):
                if all(asked.values()):
                    turn = [seat for seat, word in asked.items() if word == TURN][:1]
                    for seat in turn or [seat for seat, word in asked.items() if word == MEET]:
                        del asked[seat]
                        asked[seat] = b""  # at the end of the row
                        seat.say(GO)
                for key, _ in lines.select():
                    if word := key.data.hear():
                        asked[key.data] = word
                    else:
                        lines.unregister(key.fileobj)
                        del asked[key.data]
        for seat in asked:
            seat.say(GO)
        self.over.set()
