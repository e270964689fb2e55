"""Files of the kernel that are read again and again."""

import os
from pathlib import Path

MAX_OPEN = 200  # at a time; those beyond are opened for every reading


class OpenFiles:
    """Keeps files open and reads them from the start: a quarter of the cost of opening one for every reading.

    A file of /proc/PID that is kept open stays that of the same process: it reads as gone when the pid is another's.
    """

    def __init__(self):
        self._open: dict[str | Path, int] = {}

    def read(self, path: str | Path, max_bytes: int = 16384) -> bytes:
        """Return what the file holds now, its first `max_bytes`; raises OSError."""
        fd = self._open.get(path)
        if fd is not None:
            return os.pread(fd, max_bytes, 0)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if len(self._open) < MAX_OPEN:
            self._open[path] = fd
            return os.pread(fd, max_bytes, 0)
        try:
            return os.pread(fd, max_bytes, 0)
        finally:
            os.close(fd)

    def forget(self, path: str | Path) -> None:
        """Close a file that will not be read again."""
        if (fd := self._open.pop(path, None)) is not None:
            os.close(fd)

    def close(self) -> None:
        """Close all; one that is read afterwards is opened again."""
        for path in list(self._open):
            self.forget(path)
