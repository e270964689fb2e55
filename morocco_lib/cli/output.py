"""Results go to stdout, messages to stderr."""

import json
import signal
import sys
from collections.abc import Callable

from morocco_lib.foreign import shown


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
