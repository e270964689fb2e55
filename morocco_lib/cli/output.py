"""Results go to stdout, messages to stderr."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from morocco_lib.foreign import shown

EVERY_S = 10.0  # between two lines of progress where there is no terminal


def say(text: str) -> None:
    """Print a message to stderr."""
    print(shown(text), file=sys.stderr, flush=True)


def put(text: object, flush: bool = False) -> None:
    """Print a result as text."""
    print(shown(str(text)), flush=flush)


def messages(quiet: bool) -> Callable[[str], None]:
    """Return what prints messages: `say`, with quiet nothing."""
    return (lambda text: None) if quiet else say


def show(value) -> None:
    """Print a result as one JSON object."""
    put(json.dumps(value, ensure_ascii=False))


def exit_on_sigterm() -> None:
    """Let SIGTERM end the command as an exception does, so that what it has begun is cleaned up."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@contextmanager
def transfer_progress(what: str, quiet: bool) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """Yield what to call with messages and with bytes: a bar on a terminal, elsewhere a line now and then, with quiet nothing."""
    exit_on_sigterm()  # there is something to take back
    if quiet:
        yield messages(quiet), (lambda done, total: None)
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=what, unit="B", unit_scale=True, leave=False, file=sys.stderr) as bar:

            def draw(done: int, total: int) -> None:
                bar.total = total or None
                bar.update(done - bar.n)

            yield (lambda text: bar.write(text, file=sys.stderr)), draw
    else:
        reported_at = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal reported_at
            if total and time.monotonic() >= reported_at + EVERY_S:
                reported_at = time.monotonic()
                say(f"{what}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

        yield say, line
