"""Paths as people write them, atomic writes, JSON, and digests; what is read comes through the gate, `foreign`."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.foreign import read_json, sha256_file

__all__ = ["canonical", "dump", "expand", "read_json", "sha256_file", "state", "write_json", "write_text", "writing"]


def expand(path: str) -> Path:
    """Return a path with `~` and variables replaced, as a shell does it: the same in options, notebooks, plans and YAML.

    Raises:
        UsageError: a variable is not set.
    """
    found = os.path.expandvars(os.path.expanduser(path))
    if unset := re.search(r"\$(\w+|\{\w+\})", found):
        raise UsageError(f"{path}: the variable {unset[0]} is not set", remedy="set it, or write the path out")
    return Path(found)


def state(*names: str) -> Path:
    """Return a place among the records that are kept of this user's work on this machine."""
    return Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "morocco", *names)


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name, then rename: a reader sees all of it or nothing."""
    write_text(path, dump(value))


def dump(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # it may not have been made
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)  # a failed write does not name it
        raise


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError into an EnvironmentFailure that names what cannot be written."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(
            f"cannot write {folder}: {error.strerror}", remedy="free or choose another disk"
        ) from None
