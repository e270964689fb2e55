"""Results go to stdout, messages to stderr."""

import json
import signal
import sys
from collections.abc import Callable


def say(text: str) -> None:
    """Print a message to stderr."""
    print(text, file=sys.stderr, flush=True)


def messages(quiet: bool) -> Callable[[str], None]:
    """Return what prints messages: `say`, with quiet nothing."""
    return (lambda text: None) if quiet else say


def show(value) -> None:
    """Print a result as one JSON object."""
    print(json.dumps(value, ensure_ascii=False))


def exit_on_sigterm() -> None:
    """Let SIGTERM end the command as an exception does, so that what it has begun is cleaned up."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
