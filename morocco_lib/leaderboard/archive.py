"""Zip archives of submissions: written so that equal files make equal archives, and unpacked as if they were made to do harm."""

import os
import shutil
import stat
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from morocco_lib import fileio, foreign
from morocco_lib.errors import Refused, UsageError

ZIP_BYTES, ZIP_ENTRIES, ZIP_DIRECTORY_BYTES = 1 << 30, 50_000, 8 << 20  # of an archive, and of its table of contents
MEMBER_BYTES, UNZIPPED_BYTES = 64 << 20, 2 << 30  # of a file in it, which readers hold in memory, and of all
UNZIPPED_RATIO, UNZIPPED_LEAST = 100, 16 << 20  # as of gzip files
NAME_BYTES, PART_BYTES, NAME_PARTS = 1000, 255, 16  # of a file's name in it, and of a part between slashes
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)  # what zipfile raises


def pack(folder: Path, out: Path) -> None:
    """Write the files below a folder as an archive; equal files make equal archives."""
    with zipfile.ZipFile(out, "w") as box:
        for path in sorted(path for path, _ in foreign.tree(folder)):
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix())  # of 1980
            member.external_attr, member.compress_type = 0o100644 << 16, zipfile.ZIP_DEFLATED
            member.file_size = path.stat().st_size
            with foreign.opened(path) as source, box.open(member, "w") as target:
                shutil.copyfileobj(source, target)


def unpack(path: Path, folder: Path) -> list[str]:
    """Write the files of a zip archive into an empty folder, and return their names.

    Raises:
        Refused: it is no plain zip archive of regular files with honest names and sizes; nothing is written outside the folder.
        UsageError: it cannot be read.
        EnvironmentFailure: the folder cannot be written.
    """
    try:
        file = foreign.opened(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", remedy="name a zip archive") from None
    try:
        with file, fileio.writing(folder):
            _check_directory(file)
            with zipfile.ZipFile(file) as box:
                members = _members(box.infolist(), os.fstat(file.fileno()).st_size)
                for member in members:
                    target = folder / member.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with box.open(member) as source, target.open("xb") as out:
                        shutil.copyfileobj(source, out)
                        if out.tell() != member.file_size:
                            raise Refused("DAMAGED", f"{member.filename} has another size than it states")
    except UnicodeDecodeError:
        raise Refused("ODD_NAME", "a name in it is not UTF-8") from None
    except DAMAGED as error:
        raise Refused("DAMAGED", f"it cannot be unpacked ({error})") from None
    return [member.filename for member in members]


def _check_directory(file: BinaryIO) -> None:
    """Raise Refused unless a file ends as a plain zip archive does whose table of contents is small, before that is read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 42))
    end = file.read()
    if end[-22:-18] != b"PK\5\6" or end[-2:] != b"\0\0":
        raise Refused("DAMAGED", "it does not end as a zip archive without a comment does")
    if end[:4] == b"PK\6\7" or size > ZIP_BYTES or int.from_bytes(end[-10:-6], "little") > ZIP_DIRECTORY_BYTES:
        raise Refused("TOO_LARGE", f"it has {size:,} bytes, or a table of contents for more than {ZIP_ENTRIES:,} files")


def _members(infos: list, size: int) -> list:
    """Return the files among the members of a zip archive of `size` bytes; raises Refused."""
    members = [info for info in infos if not info.is_dir()]
    if len(infos) > ZIP_ENTRIES:
        raise Refused("TOO_LARGE", f"it holds more than {ZIP_ENTRIES:,} files")
    for info in infos:
        _check_name(info.orig_filename.removesuffix("/"), plain=info.flag_bits & 0x800 or info.filename.isascii())
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
            raise Refused("LINK", f"{info.filename} is {foreign.NO_FILE}")
        if info.flag_bits & 0x1 or info.compress_type not in (0, 8):
            raise Refused("ENCODED", f"{info.filename} is encrypted, or not compressed by deflate")
    total, largest = sum(info.file_size for info in members), max((info.file_size for info in members), default=0)
    if largest > MEMBER_BYTES or total > min(UNZIPPED_BYTES, max(UNZIPPED_LEAST, UNZIPPED_RATIO * size)):
        raise Refused("TOO_LARGE", f"it unpacks to {total:,} bytes, its largest file to {largest:,}")
    names = [unicodedata.normalize("NFC", info.filename).casefold() for info in members]
    folders = {name[:at] for name in names for at, letter in enumerate(name) if letter == "/"}
    if len(set(names)) < len(names) or folders & set(names):
        raise Refused("DOUBLE_NAME", "two files in it have one name")
    return members


def _check_name(name: str, plain: object = True) -> None:
    """Raise Refused unless a file in an archive has a name that is the same everywhere and stays inside a folder."""
    parts = name.split("/")
    if ".." in parts or name.startswith("/"):
        raise Refused("TRAVERSAL", f"{name!r:.200} leads out of it")
    sizes = [len(part.encode(errors="replace")) for part in parts]
    long = sum(sizes) > NAME_BYTES or max(sizes) > PART_BYTES or len(sizes) > NAME_PARTS
    if not plain or long or {"", "."} & set(parts) or "\\" in name or not name.isprintable():
        raise Refused("ODD_NAME", f"{name!r:.200} is no plain name of a file")
