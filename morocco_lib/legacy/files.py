"""Finding the original's logs in files, folders and archives; what is not named as one is refused, not passed over."""

import gzip
import os
import re
import stat
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from morocco_lib.errors import UsageError

NAME = re.compile(r"([1-9][0-9]{0,8})_([1-9][0-9]{0,8})_([0-9]{1,8})\.jsonl(\.gz)?")
ARCHIVES = (".tar.gz", ".tgz")
LAYOUT = "a log is <model>/<task>/<input size>_<batch size>_<index>.jsonl"
DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError)  # what reading a file or an archive may raise
_BLOCK_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class Place:
    """Which run a file is of.

    Attributes:
        file: The path as it is shown.
        folder: The model's folder, or where in an archive it is; with `task` it tells cells apart.
    """

    file: str
    folder: str
    model: str
    task: str
    input_size: int
    batch_size: int
    index: int


def walk(paths: Iterable[Path]) -> Iterator[tuple[Place, BinaryIO]]:
    """Yield (place, open file) of every log in files, folders and .tar.gz archives; read each before the next.

    Raises:
        UsageError: nothing there, unreadable, no log by its name, or two files of one run.
    """
    seen: dict[tuple, str] = {}
    for path in paths:
        empty = True
        for place, file in _within(path):
            empty = False
            run = (place.folder, place.task, place.input_size, place.batch_size, place.index)
            if run in seen:
                raise UsageError(
                    f"{place.file} is the run of {seen[run]} again",
                    rule="a run counts once",
                    remedy="name each file, or the folder it is in, once",
                )
            seen[run] = place.file
            yield place, file
        if empty:
            raise UsageError(f"no log in {path}", rule=LAYOUT, remedy="give log files, their folder or its .tar.gz")


def _within(path: Path) -> Iterator[tuple[Place, BinaryIO]]:
    if path.is_dir():
        for file in _files(path):
            yield from _opened(file)
    elif path.name.endswith(ARCHIVES):
        yield from _archived(path)
    else:
        yield from _opened(path)


def _files(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> NoReturn:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}", remedy="mend its rights") from None

    for base, folders, files in os.walk(folder, onerror=stop):
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        if links:
            raise UsageError(f"{Path(base, links[0])} is a link to a folder", remedy="name that folder as a LOG")
        folders.sort()  # in place: the order of the walk
        yield from (Path(base, name) for name in sorted(files))


def _opened(path: Path) -> Iterator[tuple[Place, BinaryIO]]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path} is no file", rule=LAYOUT, remedy="give log files, their folder or its .tar.gz")
        place = _place(str(path), Path(os.path.abspath(path)).parts)
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield place, file
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}", remedy="give the path of a log") from None


def _archived(path: Path) -> Iterator[tuple[Place, BinaryIO]]:
    try:
        # Not tarfile's own gzip, which takes a file that was cut off for its end.
        with gzip.open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                shown = f"{path}:{member.name}"
                if member.isdir():
                    continue
                if not member.isfile():
                    raise UsageError(f"{shown} is no file", rule="an archive of logs holds files and folders")
                inside = [part for part in PurePosixPath(member.name).parts if part != "."]
                stem = path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
                parts = [os.path.abspath(path), stem, *inside] if len(inside) < 3 else [os.path.abspath(path), *inside]
                yield _place(shown, parts), archive.extractfile(member)
            while stream.read(_BLOCK_BYTES):
                pass  # its check sum is at the end
    except DAMAGED as error:
        words = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {path}: {words}", remedy="copy the archive again") from None


def _place(shown: str, parts: Sequence[str]) -> Place:
    name = NAME.fullmatch(parts[-1])
    if not name or len(parts) < 4:
        raise UsageError(
            f"{shown} is not named as a log", rule=LAYOUT, remedy="take it out, or name the logs themselves"
        )
    names = (sys.intern(text) for text in (str(PurePosixPath(*parts[:-2])), parts[-3], parts[-2]))  # the same for many
    return Place(shown, *names, *(int(part) for part in name.groups()[:3]))
