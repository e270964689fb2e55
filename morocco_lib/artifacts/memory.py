"""What was rebuilt before on this machine, so that the same bytes need not be rebuilt again by the same code."""

import functools
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import morocco_lib
from morocco_lib import fileio


@functools.cache
def code_sha256() -> str:
    """Return a digest of all files of this package: other code may compute other numbers."""
    root, digest = Path(morocco_lib.__file__).parent, hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(root)} {fileio.sha256_file(path)}\n".encode())
    return digest.hexdigest()


class Memory:
    """A table of keys and JSON values in one file; without effect where it cannot be written.

    Args:
        path: None: $XDG_CACHE_HOME/morocco/verified.sqlite, by default in ~/.cache.
    """

    def __init__(self, path: Path | None = None):
        self.path = path or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "morocco/verified.sqlite"

    def __reduce__(self):
        return Memory, (self.path,)  # a connection is of one process

    @functools.cached_property
    def _table(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        table = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        table.execute("PRAGMA synchronous=OFF")  # what is lost is rebuilt
        table.execute("CREATE TABLE IF NOT EXISTS verified (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        return table

    def key(self, *parts: Any) -> str:
        """Return the key of what follows from these parts (JSON) and the code."""
        return hashlib.sha256(fileio.canonical([code_sha256(), *parts]).encode()).hexdigest()

    def get(self, key: str) -> Any:
        """Return the value of a key; None if there is none."""
        with suppress(sqlite3.Error, OSError, RuntimeError, ValueError):  # RuntimeError: a user without a home
            found = self._table.execute("SELECT value FROM verified WHERE key = ?", [key]).fetchone()
            return json.loads(found[0]) if found else None
        return None

    def add(self, key: str, value: Iterable[Any]) -> None:
        """Keep a value."""
        with suppress(sqlite3.Error, OSError, RuntimeError):
            self._table.execute("INSERT OR REPLACE INTO verified VALUES (?, ?)", [key, json.dumps(value)])
