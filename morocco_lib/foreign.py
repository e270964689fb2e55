"""The gate for what others wrote: opened, read, named and shown as if it were made to do harm.

Files are regular ones, opened without waiting and, inside a folder of somebody else's, without following links. JSON is
UTF-8 with bounded depth, finite numbers and no duplicate key. Sizes are bounded, those of what is unpacked, too. Nothing
else in this library opens or parses what it did not write: tests/test_foreign.py looks who does. Zip archives of
submissions have a gate of their own behind it, `leaderboard.archive`.
"""

import errno
import gzip
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from morocco_lib.errors import UsageError

LINE_BYTES = 16 << 20  # a record is some kilobytes; what is longer is no file of records
TEXT_BYTES = 256 << 20  # of a file that is read whole
FILE_BYTES = 256 << 30  # of a file that is read piece by piece; /proc/kcore is 500 times that
UNPACKED_BYTES, UNPACKED_LEAST = 2 << 30, 64 << 20  # of what a gzip file holds: at most, and always
UNPACKED_RATIO = 200  # JSON Lines shrink to a tenth or a twentieth, zeros to a thousandth
DEPTH = 64  # of nested values; a record has 8
YAML_BYTES, VALUES = 1 << 20, 100_000  # of a YAML file, whose parser is slow; in it, its aliases written out
ENTRIES = 1_000_000  # in a folder
NO_FILE = "not a regular file"

Shape = type | None | tuple | list | dict


# -- files ---------------------------------------------------------------------------------------------------------
def opened(path: Path, within: Path | None = None, *, pipe: bool = False) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        within: A folder of somebody else's that holds it: below that, no link is followed and no `..` taken.
        pipe: Serve also what the user names in /dev: stdin, or a pipe of the shell.
    Raises:
        UsageError: it is no regular file, it is reached through a link, or it is too large.
        OSError: missing, unreadable, or a folder.
    """
    path = Path(path)
    fd = os.open(path, _FLAGS) if within is None else _open_below(Path(within), path)
    try:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(info.st_mode) and not (pipe and path.parts[:2] == ("/", "dev")):
            raise _odd(path, NO_FILE)
        if info.st_size > FILE_BYTES:
            raise _odd(path, f"larger than {FILE_BYTES >> 30} GiB")
        os.set_blocking(fd, True)
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a pipe without a writer is not waited for


def _open_below(folder: Path, path: Path) -> int:
    parts = path.relative_to(folder).parts
    fd = os.open(folder, _FLAGS | os.O_DIRECTORY)
    try:
        for number, part in enumerate(parts, start=1):
            if part == ".." or stat.S_ISLNK(os.stat(part, dir_fd=fd, follow_symlinks=False).st_mode):
                raise _odd(folder.joinpath(*parts[:number]), "a link")
            above, fd = fd, os.open(part, _FLAGS | os.O_NOFOLLOW, dir_fd=fd)
            os.close(above)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    return fd


def _odd(path: Path, what: str) -> UsageError:
    rule = "what is read is a file of its folder, and digested, too"
    return UsageError(f"{path} is {what}", rule=rule, remedy="save it as a file")


def check(path: Path, within: Path | None = None) -> Path:
    """Return the path of a file for a library that opens it itself; raises what `opened` raises."""
    opened(path, within).close()
    return path


def read_bytes(path: Path, within: Path | None = None, limit: int = TEXT_BYTES) -> bytes:
    """Return a file's bytes, `limit` at most; raises what `opened` raises."""
    with opened(path, within) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise _odd(path, f"larger than {limit >> 20} MiB")
    return raw


def read_text(path: Path, within: Path | None = None) -> str:
    """Return a file's text; raises what `opened` raises, and ValueError where it is not UTF-8."""
    return read_bytes(path, within).decode()


def read_json(path: Path, within: Path | None = None, shape: Shape = ...) -> Any:
    """Return the value of a JSON file.

    Raises:
        UsageError: missing, unreadable, broken, or of another shape.
    """
    try:
        value = parse(read_bytes(path, within))
        if shape is not ...:
            fits(value, shape)
        return value
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path} ({error})", remedy="restore it or run the step again") from None


def sha256_file(path: Path, within: Path | None = None) -> str:
    """Return the sha256 of a file in hex; raises what `opened` raises."""
    with opened(path, within) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpacked(file: BinaryIO) -> BinaryIO:
    """Return what a gzip file holds; reading more than it can honestly hold raises OSError."""
    size = os.fstat(file.fileno()).st_size
    limit = min(UNPACKED_BYTES, max(UNPACKED_LEAST, UNPACKED_RATIO * size))
    return io.BufferedReader(_Limited(gzip.GzipFile(fileobj=file, mode="rb"), limit), 1 << 20)


class _Limited(io.RawIOBase):
    def __init__(self, source: BinaryIO, limit: int):
        self._source, self._limit, self._read = source, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._source.read1(len(buffer))
        self._read += len(data)
        if self._read > self._limit:
            raise OSError(f"it unpacks to more than {self._limit:,} bytes")
        buffer[: len(data)] = data
        return len(data)


def tree(folder: Path, skip: str = "") -> Iterator[tuple[Path, bool]]:
    """Yield (path, whether it is a regular file) of everything below a folder but folders themselves; no link is followed.

    Args:
        skip: A folder below that holds a file of this name is left out.
    Raises:
        UsageError: there is too much in it.
    """
    folders, count = [Path(folder)], 0
    while folders:
        place = folders.pop()
        try:
            entries = list(os.scandir(place))
        except OSError:
            yield place, False
            continue
        if skip and place != Path(folder) and any(entry.name == skip for entry in entries):
            continue
        count += len(entries)
        if count > ENTRIES:
            raise UsageError(f"{folder} holds more than {ENTRIES:,} files", remedy="take away what is no result")
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(place / entry.name)
            else:
                yield place / entry.name, entry.is_file(follow_symlinks=False)


def check_tree(folder: Path, skip: str = "") -> None:
    """Raise UsageError unless a folder holds regular files only, so that nothing from elsewhere is read as its own."""
    for path, is_file in tree(folder, skip):
        if not is_file:
            raise _odd(path, NO_FILE)


# -- JSON ----------------------------------------------------------------------------------------------------------
def _no_constant(token: str) -> None:
    raise ValueError(f"{token} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(name for name in names if names.count(name) > 1)!r:.60}")
    return found


def _integer(token: str) -> int:
    if len(token) > 19 and abs(int(token)) >= 2**63:
        raise ValueError(f"{token:.30} is no 64-bit number")
    return int(token)


def _finite(token: str) -> float:
    value = float(token)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{token:.30} is no 64-bit number")
    return value


_HOOKS = {"parse_constant": _no_constant, "object_pairs_hook": _unique}
_LENIENT = json.JSONDecoder(**_HOOKS)
_STRICT = json.JSONDecoder(**_HOOKS, parse_int=_integer, parse_float=_finite)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(raw: bytes, *, any_number: bool = False) -> Any:
    """Return the value of a JSON text.

    Args:
        any_number: Take numbers of more than 64 bits, as Infinity or as they are: the caller judges each.
    Raises:
        ValueError: not UTF-8, not JSON (NaN and Infinity included), a duplicate key (parsers differ in which value they
            take), nested too deep, a number of more than 64 bits, or half a character; the message says which.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {raw[error.start]:#04x} at {error.start})") from None
    try:
        value = (_LENIENT if any_number else _STRICT).decode(text)
        if raw.count(b"[") + raw.count(b"{") > DEPTH:
            check_nesting(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON ({error})") from None
    if _SURROGATE.search(raw):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half a character (an escaped surrogate without its pair), not UTF-8") from None
    return value


def parse_object(raw: bytes, *, any_number: bool = False) -> dict[str, Any]:
    """Return one line, without its line feed, as a JSON object; raises ValueError as `parse` does, and for other values."""
    if len(raw) >= LINE_BYTES:
        raise ValueError(f"a line longer than {LINE_BYTES >> 20} MiB")
    value = parse(raw, any_number=any_number)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}, not an object")
    return value


def check_brackets(raw: bytes) -> None:
    """Raise ValueError where brackets are open more than DEPTH deep, before a parser that is slow there reads them."""
    depth = 0
    for bracket in re.findall(rb"[\[\]{}]", raw):
        depth = depth + 1 if bracket in b"[{" else max(0, depth - 1)
        if depth > DEPTH:
            raise ValueError(f"nested more than {DEPTH} deep")


def check_nesting(value: Any, limit: int | None = None) -> None:
    """Raise ValueError where a value is nested deeper than DEPTH, or holds more than `limit` values."""
    stack, count = [(value, 1)], 0
    while stack:
        one, depth = stack.pop()
        if isinstance(one, dict | list):
            if depth > DEPTH:
                raise ValueError(f"nested more than {DEPTH} deep")
            count += len(one)
            if limit is not None and count > limit:
                raise ValueError(f"more than {limit:,} values")
            stack += ((inner, depth + 1) for inner in (one.values() if isinstance(one, dict) else one))


def fits(value: Any, shape: Shape, place: str = "it") -> None:
    """Raise ValueError, which names the place, unless a value has a shape.

    A shape is a type, None, or ... for anything; (a, b): one of these; [a]: a list of a; {"name": a, "other?": b}: these
    keys and any others, `other` may be absent; {str: a}: any keys.
    """
    if shape is ...:
        return
    if isinstance(shape, tuple):
        known = (None if value is None else type(value)) in shape
        if not known and not any(_fit(value, one) for one in shape):
            fits(value, shape[0], place)
        return
    kind = shape if isinstance(shape, type) else type(shape)
    if not isinstance(value, kind) and not (kind is float and isinstance(value, int)):
        raise ValueError(f"{place} is {value!r:.60}, not {'null' if shape is None else kind.__name__}")
    if isinstance(shape, list) and not (isinstance(shape[0], type) and all(isinstance(one, shape[0]) for one in value)):
        for number, one in enumerate(value):
            fits(one, shape[0], f"{place}[{number}]")
    if isinstance(shape, dict):
        for name, inner in shape.items():
            if name is str:
                for key, one in value.items():
                    fits(one, inner, f"{place}.{key:.60}")
            elif (key := name.removesuffix("?")) in value:
                if type(value[key]) is not inner:
                    fits(value[key], inner, f"{place}.{key}")
            elif key == name:
                raise ValueError(f"{place}.{name} is absent")


def _fit(value: Any, shape: Shape) -> bool:
    try:
        fits(value, shape)
        return True
    except ValueError:
        return False


# -- shown ---------------------------------------------------------------------------------------------------------
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def word(name: str) -> str:
    """Return a name as one word, fit for a folder, a page and a figure."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")[:80] or "model"


def shown(text: str) -> str:
    """Return a text, or JSON, as a terminal may get it: what would steer it, or turn its letters round, is written out."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def cell(value: Any) -> Any:
    """Return a value of a table for a spreadsheet, which would compute a text that begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
