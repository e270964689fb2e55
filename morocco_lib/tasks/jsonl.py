"""Reading JSON Lines the way the official files need it."""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from morocco_lib import foreign
from morocco_lib.errors import UsageError
from morocco_lib.foreign import LINE_BYTES, parse_object

Record = dict[str, Any]


@contextmanager
def open_lines(path: Path) -> Iterator[Iterable[bytes]]:
    """Open a file of lines for reading, unzipping `.gz`.

    Raises:
        UsageError: the file is missing, is no file, may not be read, is damaged, or unpacks without end.
    """
    try:
        with foreign.opened(path, pipe=True) as file:
            yield foreign.unpacked(file) if path.suffix == ".gz" else file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {path}: {reason}", remedy="give the path of a JSONL file") from None


def split_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) without byte order mark, line ends and trailing empty line.

    Only a line feed ends a line: U+2028 and its like may stand inside a JSON string. Of a line that is too long its
    first LINE_BYTES are the last that is read.
    """
    if hasattr(lines, "readline"):
        lines = iter(partial(lines.readline, LINE_BYTES), b"")
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        yield number, line.rstrip(b"\r\n") if len(line) < LINE_BYTES else line
        if len(line) >= LINE_BYTES:
            return


def is_jsonl(path: Path) -> bool:
    """Tell a file of JSON Lines from a table by its name, and what has no name of its own (a pipe) by default."""
    return path.name.removesuffix(".gz").rpartition(".")[2] not in ("tsv", "csv", "txt")


def read_objects(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield (line number from 1, object) of a JSON Lines file; empty lines are passed over.

    Raises:
        UsageError: file or line unreadable; file, line and rule are named.
    """
    with open_lines(path) as lines:
        for number, line in split_lines(lines):
            if not line.strip():
                continue
            try:
                yield number, parse_object(line)
            except ValueError as error:
                raise UsageError(
                    f"{path}, line {number}: {error}",
                    rule="every line is one JSON object in UTF-8",
                    remedy="correct or remove that line",
                ) from None
