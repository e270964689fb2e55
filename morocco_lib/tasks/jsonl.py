"""Reading JSON Lines the way the official files need it."""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from morocco_lib.errors import UsageError

Record = dict[str, Any]
LINE_BYTES = 16 << 20  # a record is some kilobytes; what is longer is no file of records


def _no_constant(token: str) -> None:
    raise ValueError(f"{token} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> Record:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(name for name in names if names.count(name) > 1)!r:.60}")
    return found


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique)


def parse_object(raw: bytes) -> Record:
    """Parse one line as a JSON object.

    Args:
        raw: One line without its line feed; a carriage return at the end is accepted.
    Raises:
        ValueError: not UTF-8, not JSON (NaN and Infinity included), a duplicate key (parsers differ in which value
            they take), half a character, or not an object; the message says which.
    """
    if len(raw) >= LINE_BYTES:
        raise ValueError(f"a line longer than {LINE_BYTES >> 20} MiB")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {raw[error.start]:#04x} at {error.start})") from None
    try:
        value = _DECODER.decode(text)
    except (json.JSONDecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}, not an object")
    if _SURROGATE.search(raw):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half a character (an escaped surrogate without its pair), not UTF-8") from None
    return value


@contextmanager
def open_lines(path: Path) -> Iterator[Iterable[bytes]]:
    """Open a file of lines for reading, unzipping `.gz`.

    Raises:
        UsageError: the file is missing, is no file, may not be read, or is damaged.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            yield lines
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
