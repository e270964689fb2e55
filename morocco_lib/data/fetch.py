"""The official archives, downloaded: nothing is kept that has not the digest the kit knows.

A task's folder appears whole, by one rename, or not at all. What a server or an archive can do wrong (break off, stall,
drip, send more or something else, name files outside the folder, unpack without end) ends in an error that names it.
"""

import hashlib
import lzma
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field, field_validator

from morocco_lib import config, fileio
from morocco_lib.artifacts import steps
from morocco_lib.config import Count, Strict
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.tasks.base import Task

SOURCES = Path(__file__).with_name("sources.yaml")
RECORD = "FETCHED.json"  # in each task's folder: where its files are from
CHUNK = 1 << 18
ATTEMPTS = 3  # of one download
SILENCE_S = 30.0  # a server that sends nothing for so long is given up
MEMBERS = 1000  # files in an archive; the official ones hold a handful
# what the standard library raises for archives that are broken, locked, or packed in a way it does not know
UNPACKING = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, ValueError)


class Archive(Strict):
    """One archive: where it is, and the digest and size without which it is not taken."""

    url: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: Count

    @field_validator("url")
    @classmethod
    def _web(cls, url: str) -> str:
        if not url.startswith(("https://", "http://")):
            raise ValueError("an address starts with https:// or http://")
        return url


class Sources(Strict):
    """The file that says where the archives are."""

    unpacked_bytes: Annotated[Count, Field(description="an archive that unpacks to more is refused")]
    archives: dict[str, Archive]


def load_sources(path: Path = SOURCES) -> Sources:
    """Return the archives a YAML file names; raises UsageError if it cannot be read or understood."""
    return config.validate(Sources, config.read_yaml(path), str(path))


def fetch(
    task: Task,
    out: Path,
    sources: Sources,
    *,
    timeout_s: float = 3600.0,
    silence_s: float = SILENCE_S,
    pause_s: float = 2.0,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Download one task's archive and put its files into `out`/<title>; return them.

    Files that an earlier fetch of the same archive put there are kept.

    Args:
        timeout_s: For the whole download.
        silence_s: Longest time without a byte.
        pause_s: Before the second attempt; doubled before the third.
    Raises:
        UsageError: the folder is there and something else, or no archive of this task is known.
        EnvironmentFailure: the network, or an archive that is not the known one; nothing was kept.
    """
    if task.name not in sources.archives:
        raise UsageError(f"no archive of {task.name}", rule=f"known: {', '.join(sorted(sources.archives))}")
    archive, folder = sources.archives[task.name], Path(out) / task.title
    if folder.exists():
        return _kept(folder, archive)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        packed, unpacked = Path(scratch) / "archive.zip", Path(scratch) / task.title
        deadline = time.monotonic() + timeout_s
        for attempt in range(ATTEMPTS):
            try:
                _download(archive, packed, deadline, silence_s)
                break
            except EnvironmentFailure as error:
                if attempt == ATTEMPTS - 1 or not getattr(error, "passing", False) or time.monotonic() > deadline:
                    raise
                say(f"{error.seen}; trying again")
                time.sleep(pause_s * 2**attempt)
        unpacked.mkdir()
        names = _unpack(packed, unpacked, task, archive, sources.unpacked_bytes)
        try:
            for name in names:
                task.read(unpacked / name)  # what cannot be read is not handed out
        except UsageError as error:
            raise _refused(archive, f"it holds no records of {task.title} ({error})") from None
        digests = {name: fileio.sha256_file(unpacked / name) for name in names}
        record = {"schema": 1, "url": archive.url, "sha256": archive.sha256, "fetched": steps.now(), "files": digests}
        fileio.write_json(unpacked / RECORD, record)
        unpacked.rename(folder)
    return [folder / name for name in names]


def _kept(folder: Path, archive: Archive) -> list[Path]:
    if (folder / RECORD).is_file():
        record = fileio.read_json(folder / RECORD)
        now = {name: fileio.sha256_file(folder / name) for name in record.get("files", {}) if (folder / name).is_file()}
        if record.get("sha256") == archive.sha256 and now == record.get("files"):
            return [folder / name for name in now]
    raise UsageError(
        f"{folder} is there and is not what this archive holds",
        rule="nothing is overwritten",
        remedy="give --out another folder, or move this one away",
    )


def _download(archive: Archive, target: Path, deadline: float, silence_s: float) -> None:
    """Stream an archive to a file, hashing; raises EnvironmentFailure with `passing` set where trying again may help."""
    request = urllib.request.Request(archive.url, headers={"User-Agent": "morocco-lib", "Accept-Encoding": "identity"})
    digest, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(request, timeout=silence_s) as answer, target.open("wb") as file:
            while chunk := answer.read1(CHUNK):
                size += len(chunk)
                if size > archive.bytes:
                    raise _refused(archive, f"more than the {archive.bytes:,} bytes it has")
                if time.monotonic() > deadline:
                    raise _broken(archive, f"not done in time, {size:,} of {archive.bytes:,} bytes")
                digest.update(chunk)
                file.write(chunk)
    except urllib.error.HTTPError as error:
        failure = _broken if error.code >= 500 or error.code == 429 else _refused
        raise failure(archive, f"HTTP {error.code} {error.reason}") from None
    except TimeoutError:
        raise _broken(archive, f"no byte for {silence_s:g} s, {size:,} of {archive.bytes:,} bytes") from None
    except (HTTPException, ConnectionError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        raise _broken(archive, f"{reason}, {size:,} of {archive.bytes:,} bytes") from None
    if size < archive.bytes:
        raise _broken(archive, f"broke off after {size:,} of {archive.bytes:,} bytes")
    if digest.hexdigest() != archive.sha256:
        raise _refused(archive, f"sha256 {digest.hexdigest()} instead of {archive.sha256}")


def _broken(archive: Archive, what: str) -> EnvironmentFailure:
    error = EnvironmentFailure(f"{archive.url}: {what}", remedy="run the same command again; what is done is kept")
    error.passing = True
    return error


def _refused(archive: Archive, what: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{archive.url}: {what}",
        rule="only the known archive is taken, and nothing of this one was kept",
        remedy="if you trust another, name it with its digest in a file for --sources",
    )


def _unpack(packed: Path, folder: Path, task: Task, archive: Archive, limit: int) -> list[str]:
    """Write the task's own files of an archive into a folder, flat, and return their names."""
    wanted = {f"{stem}.jsonl" for stem in task.sizes}
    left, names = limit, []
    try:
        with zipfile.ZipFile(packed) as box:
            members = box.infolist()
            if len(members) > MEMBERS:
                raise _refused(archive, f"{len(members):,} files in it, more than {MEMBERS:,}")
            for member in members:
                path = PurePosixPath(member.filename.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
                    raise _refused(archive, f"{member.filename!r} in it lies outside its folder")
                if (member.external_attr >> 16) & 0o170000 == 0o120000:
                    raise _refused(archive, f"{member.filename!r} in it is a link")
                if path.parts[0] == "__MACOSX" or path.name not in wanted or member.is_dir():
                    continue
                if path.name in names:
                    raise _refused(archive, f"{path.name} twice in it")
                names.append(path.name)
                with box.open(member) as source, (folder / path.name).open("wb") as file:
                    while chunk := source.read(CHUNK):
                        left -= len(chunk)
                        if left < 0:
                            raise _refused(archive, f"it unpacks to more than {limit:,} bytes")
                        file.write(chunk)
    except UNPACKING as error:
        raise _refused(archive, f"not an archive that can be unpacked ({error})") from None
    if missing := sorted(wanted - set(names)):
        raise _refused(archive, f"no {', '.join(missing)} in it")
    return sorted(names)
