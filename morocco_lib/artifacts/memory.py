"""What was rebuilt before on this machine, so that the same bytes need not be rebuilt again by the same code."""

import functools
import hashlib
import importlib.metadata
import json
import os
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import morocco_lib
from morocco_lib import fileio, foreign

LIBRARIES = ("numpy", "scipy", "jinja2", "pygments", "matplotlib", "seaborn", "bokeh")  # decide numbers and pages


@functools.cache
def code_sha256() -> str:
    """Return a digest of all files of this package, and of what it computes with: other code may compute other numbers."""
    root, digest = Path(morocco_lib.__file__).parent, hashlib.sha256(sys.version.encode())
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(root)} {fileio.sha256_file(path)}\n".encode())
    return digest.hexdigest()


class Memory:
    """A table of keys and JSON values in one file; without effect where it cannot be read or written.

    Make it before long work: what is added is of the code as it was then.

    Args:
        path: None: $XDG_CACHE_HOME/morocco/verified.sqlite, by default in ~/.cache.
        code: See `code_sha256`.
        anew: Nothing is found in it, so that all is made and kept anew.
    """

    def __init__(self, path: Path | None = None, code: str = "", anew: bool = False):
        self.path, self.code, self.anew = path, code or code_sha256(), anew

    def __reduce__(self):
        return Memory, (self.path, self.code, self.anew)  # a connection is of one process

    @functools.cached_property
    def _table(self) -> sqlite3.Connection:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = self.path or Path(cache) / "morocco/verified.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = sqlite3.connect(path, timeout=1, isolation_level=None)
        table.execute("PRAGMA synchronous=OFF")  # what is lost is rebuilt
        table.execute("CREATE TABLE IF NOT EXISTS verified (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        return table

    def key(self, *parts: Any) -> str:
        """Return the key of what follows from these parts (JSON) and the code."""
        return hashlib.sha256(fileio.canonical([self.code, *parts]).encode()).hexdigest()

    def get(self, key: str) -> Any:
        """Return the value of a key; None if there is none."""
        found = [] if self.anew else self._asked("SELECT value FROM verified WHERE key = ?", key)
        return foreign.parse(found[0][0].encode()) if found else None

    def add(self, key: str, value: Any) -> None:
        """Keep a value, of JSON."""
        self._asked("INSERT OR REPLACE INTO verified VALUES (?, ?)", key, json.dumps(value))

    def _asked(self, query: str, *values: str) -> list[tuple]:
        if os.getpid() in _without:
            return []
        try:
            return self._table.execute(query, values).fetchall()
        except (sqlite3.Error, OSError, RuntimeError):  # RuntimeError: a user without a home
            _without.add(os.getpid())  # or each step would wait for a table that is locked
            return []


_without: set[int] = set()  # this process, if its table cannot be used
