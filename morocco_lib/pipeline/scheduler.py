"""Interleaved measuring: models that are compared are measured one run at a time, round robin: A B C A B C ...

A machine drifts: it warms up, clock rates fall, other work comes and goes. Interleaved, all models are exposed to the same
drift, and it does not show as a difference between them.

    Scheduler   in the process that runs a plan: grants turns, one worker slot a kernel
    Client      in a kernel: waits for its turn before each run, and leaves when everything is measured

A turn is granted when no kernel is working: all others wait, have left, or are gone. So nothing is measured while another
kernel starts, prepares its model or computes; a kernel that needs more runs than the others gets more turns, and none
draws figures before the last run is over. Kernels wait in a read of a socket, which costs nothing and ends with either
process.
"""

import os
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from morocco_lib.errors import EnvironmentFailure

SLOTS = 8  # kernels that run together at most; each needs some 150 MB
VARIABLE = "MOROCCO_SCHEDULER"  # in a kernel's environment: the file descriptor of its socket
TURN, BARRIER, LEAVE, GO = b"t", b"b", b"l", b"g"


class Client:
    """A kernel's connection to the scheduler. Enter it to measure; leaving it waits until all others have left too.

    Args:
        connection: The socket to the scheduler; None: there is no scheduler, and nothing is waited for.
    """

    def __init__(self, connection: socket.socket | None = None):
        self._connection, self._depth = connection, 0

    @classmethod
    def of_this_process(cls) -> "Client":
        """Return the client that the process was started with; a second call finds none."""
        number = os.environ.pop(VARIABLE, None)  # not for the programs that are measured
        if number is None:
            return cls()
        connection = socket.socket(fileno=int(number))
        connection.set_inheritable(False)
        return cls(connection)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn; it lasts until the next one is requested. A nested turn is the same turn.

        Raises:
            EnvironmentFailure: the scheduler's process is gone.
        """
        if not self._depth:
            self._wait(TURN)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def barrier(self) -> None:
        """Wait until all others have reached their barrier too, or have left."""
        self._wait(BARRIER)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *raised) -> None:
        if self._connection:
            with self._connection:
                self._wait(LEAVE)
            self._connection = None

    def _wait(self, request: bytes) -> None:
        if self._connection is None:
            return
        reply = b""
        with suppress(ConnectionError):
            self._connection.sendall(request)
            reply = self._connection.recv(1)
        if not reply:
            raise EnvironmentFailure("the plan that this notebook is part of has ended", remedy="run the plan again")


class WorkerSlot:
    """The scheduler's end of a client's connection."""

    def __init__(self, over: threading.Event):
        self.over = over  # set when everything is measured
        self.connection, self.theirs = socket.socketpair()  # theirs: for the process of this slot

    def started(self) -> None:
        """Note that the process has been started: from now on its end frees the slot."""
        self.theirs.close()

    def leave(self) -> None:
        """Free the slot, whatever its process does; more than once is fine."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def go(self) -> None:
        with suppress(OSError):  # gone, which the next read shows
            self.connection.sendall(GO)

    def read(self) -> bytes:
        """Return a request; empty when the process is gone."""
        try:
            return self.connection.recv(1)
        except OSError:
            return b""

    def close(self) -> None:
        self.connection.close()
        self.theirs.close()


class Scheduler:
    """Grants turns, round robin, to the processes in its slots, until each has left or ended.

    Args:
        count: Number of slots; each is waited for until its first request, or `WorkerSlot.leave`.
    """

    def __init__(self, count: int):
        self.over = threading.Event()
        self.slots = [WorkerSlot(self.over) for _ in range(count)]
        self._thread = threading.Thread(target=self._grant, name="morocco-scheduler", daemon=True)

    def __enter__(self) -> "Scheduler":
        self._thread.start()
        return self

    def __exit__(self, *raised) -> None:
        for slot in self.slots:
            slot.leave()
        self._thread.join()
        for slot in self.slots:
            slot.close()

    def _grant(self) -> None:
        requests = dict.fromkeys(self.slots, b"")  # in the order of turns; nothing while the process works
        with selectors.DefaultSelector() as selector:
            for slot in self.slots:
                selector.register(slot.connection, selectors.EVENT_READ, slot)
            while any(request != LEAVE for request in requests.values()):
                if all(requests.values()):
                    turn = [slot for slot, request in requests.items() if request == TURN][:1]
                    for slot in turn or [slot for slot, request in requests.items() if request == BARRIER]:
                        del requests[slot]
                        requests[slot] = b""  # at the end of the queue
                        slot.go()
                for key, _ in selector.select():
                    if request := key.data.read():
                        requests[key.data] = request
                    else:
                        selector.unregister(key.fileobj)
                        del requests[key.data]
        for slot in requests:
            slot.go()
        self.over.set()
