"""The interface that all runners share, and the one loop that feeds a program and reads its output.

    stdin: JSONL records until EOF     stdout: one JSON prediction a record, nothing else     stderr: free text
    stderr line `morocco: {"event": "ready"}`, optional: the first record can be answered now

All times are nanoseconds of `time.monotonic_ns`.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from morocco_lib.foreign import parse_object

EVENT_PREFIX = b"morocco: "
EVENT_BYTES = 4096  # of the line of an event
EVENTS = 1000  # that are kept
CONTROL = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")  # colours, cleared lines: the rest of a bar before a carriage return


@dataclass(frozen=True)
class Limits:
    """What a program may use; None means no limit for a process and the runner's own for a container.

    Args:
        timeout_s: Seconds until it is killed.
        memory_bytes: Of the whole tree, enforced by a cgroup; swap does not widen it.
        pids: Processes and threads at once. Containers only, as is `cpus`.
        cpus: CPU seconds a second.
    """

    timeout_s: float = 3600.0
    memory_bytes: int | None = None
    pids: int | None = None
    cpus: float | None = None


@dataclass(frozen=True)
class Exit:
    """How a program ended.

    `code` is None when a signal ended it, `signal` is None otherwise. `first_read_ns` is when the program took the
    first byte of its stdin, None where that is not known. `cpu_s` is the CPU time of the tree as the kernel
    accounted it at the end, `peak_bytes` the kernel's peak of its memory with file cache, each with the source.
    `left_pids` are processes that outlived the program and were killed, `outside_pids` those of them that had left its cgroup.
    `pids_refused` counts new processes that were
    refused for the limit. `disk_mounts` are the places outside memory that a container could write to, None where that was not
    tested. The engine's times are its own wall times of start and death, None for a process.
    """

    code: int | None
    signal: int | None
    oom_killed: bool
    started_ns: int
    ended_ns: int
    first_read_ns: int | None = None
    cpu_s: float | None = None
    cpu_source: str | None = None
    peak_bytes: int | None = None
    peak_source: str | None = None
    left_pids: tuple[int, ...] = ()
    outside_pids: tuple[int, ...] = ()
    pids_refused: int = 0
    disk_mounts: tuple[str, ...] | None = None
    engine_started_ns: int | None = None
    engine_died_ns: int | None = None


class Handle(Protocol):
    """A running program."""

    started_ns: int  # before the program was created
    cgroup: Path | None  # its own memory cgroup, if it has one

    def write(self, data: bytes) -> None:
        """Write to stdin; blocks while the pipe is full. Raises BrokenPipeError when its reading end is closed."""

    def close_stdin(self) -> None:
        """Let the program see the end of its input."""

    def chunks(self) -> Iterator[tuple[int, str, bytes]]:
        """Yield (t_ns, "stdout" | "stderr", bytes) as they arrive, until both streams have ended."""

    def pids(self) -> list[int]:
        """Return the host pids of the whole process tree."""

    def wait(self, timeout_s: float | None) -> Exit:
        """Wait for the end and clean up; raises TimeoutError."""

    def kill(self) -> None:
        """Kill the whole process tree."""


class Runner(Protocol):
    name: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a program."""

    def bounded(self, limits: Limits) -> Limits:
        """Return the limits that hold, with the runner's own where none were given."""

    def start(self, argv: list[str], limits: Limits) -> Handle:
        """Start a program; the clock is read before anything is created."""


@dataclass
class Feed:
    """What was written to stdin."""

    bytes_written: int = 0
    complete: bool = False
    first_write_ns: int | None = None
    closed_ns: int | None = None


@dataclass
class Conversation:
    """What `converse` recorded; `ready_ns` is None for programs without a ready line."""

    exit: Exit
    feed: Feed
    timed_out: bool
    ready_ns: int | None = None
    first_answer_ns: int | None = None
    last_answer_ns: int | None = None
    events: list[dict[str, Any]] = field(default_factory=list)


def converse(
    handle: Handle,
    blocks: Iterable[bytes],
    limits: Limits,
    on_stdout: Callable[[int, bytes], None],
    on_stderr: Callable[[int, bytes], None],
    on_event: Callable[[int, dict[str, Any]], None] = lambda t_ns, event: None,
    withhold: Callable[[threading.Event], None] = lambda ended: None,
) -> Conversation:
    """Feed a program from a thread while reading its output, until it has ended.

    Args:
        handle: The started program.
        blocks: The input; drawn one block at a time as the program reads them.
        limits: `timeout_s` counts from this call; then the whole tree is killed.
        on_stdout, on_stderr: Called with (t_ns, bytes) for every arrival.
        on_event: Called for every well-formed `morocco: {...}` line of stderr.
        withhold: Called before the first byte is fed, in the thread that feeds; returns when feeding may begin, and soon
            after the event that the program has ended.
    Raises:
        Whatever the callbacks or the iterator of blocks raise; the program is killed and cleaned up before.
    """
    feed, failures, ended = Feed(), [], threading.Event()

    def run_feed() -> None:
        try:
            withhold(ended)
            for block in blocks:
                if feed.first_write_ns is None:
                    feed.first_write_ns = time.monotonic_ns()
                handle.write(block)
                feed.bytes_written += len(block)
            feed.complete = True
        except BrokenPipeError:
            pass  # the program stopped reading; its exit code and the bytes fed decide what that means
        except BaseException as error:  # a source that cannot be read must not look like a short input
            failures.append(error)
            handle.kill()
        finally:
            handle.close_stdin()
            feed.closed_ns = time.monotonic_ns()

    expired = threading.Event()

    def expire() -> None:
        expired.set()
        handle.kill()

    feeder = threading.Thread(target=run_feed, name="morocco-feeder", daemon=True)
    watchdog = threading.Timer(limits.timeout_s, expire)
    watchdog.daemon = True
    conversation = Conversation(exit=None, feed=feed, timed_out=False)
    pending = b""
    try:
        feeder.start()
        watchdog.start()
        for t_ns, stream, data in handle.chunks():
            if stream == "stdout":
                if conversation.first_answer_ns is None:
                    conversation.first_answer_ns = t_ns
                conversation.last_answer_ns = t_ns
                on_stdout(t_ns, data)
                continue
            on_stderr(t_ns, data)
            *lines, pending = (pending + data).split(b"\n")
            pending = pending[-EVENT_BYTES:]  # a flood without line ends must not pile up
            for line in lines:
                event = parse_event(line)
                if event is not None and len(conversation.events) < EVENTS:
                    conversation.events.append({**event, "t_ns": t_ns})
                    if event.get("event") == "ready" and conversation.ready_ns is None:
                        conversation.ready_ns = t_ns
                    on_event(t_ns, event)
        conversation.exit = handle.wait(None)
    except BaseException:
        abandon(handle)
        raise
    finally:
        ended.set()
        watchdog.cancel()
        feeder.join(10)
    conversation.timed_out = expired.is_set()
    if failures:
        raise failures[0]
    return conversation


def events_in(stderr: bytes) -> list[dict[str, Any]]:
    """Return the events that `converse` keeps of what was printed on stderr, without their times."""
    lines = stderr.split(b"\n")[:-1]
    return [event for line in lines if EVENT_PREFIX in line and (event := parse_event(line)) is not None][:EVENTS]


def abandon(handle: Handle) -> None:
    """Kill a program and clean up after it, because of an error that is about to be raised."""
    with suppress(Exception):
        handle.kill()
    with suppress(Exception):
        handle.wait(10)


def parse_event(line: bytes) -> dict[str, Any] | None:
    """Return the event of a `morocco: {...}` line, None for any other line; read as a terminal shows it.

    An event is a short object with its name as `event`; of its values those are kept that are true, false, null, a finite
    number or a printable text, for the line is a stranger's.
    """
    line = CONTROL.sub(b"", line).rstrip(b"\r").rpartition(b"\r")[2]
    if not line.startswith(EVENT_PREFIX) or len(line) > EVENT_BYTES:
        return None
    try:
        event = parse_object(line[len(EVENT_PREFIX) :], any_number=True)
    except ValueError:
        return None
    kept = {name: value for name, value in event.items() if name.isprintable() and _is_plain(value)}
    return kept if isinstance(kept.get("event"), str) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return value.isprintable()
    return value is None or (isinstance(value, bool | int | float) and abs(value) < 2**63)
