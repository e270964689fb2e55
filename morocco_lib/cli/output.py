"""Results go to stdout, messages to stderr."""

import json
import sys


def say(text: str) -> None:
    """Print a message to stderr."""
    if sys.stderr is not None:  # closed: print would fall back to stdout
        print(text, file=sys.stderr, flush=True)


def show(value) -> None:
    """Print a result as one JSON object."""
    print(json.dumps(value, ensure_ascii=False))
