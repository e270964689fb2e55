"""The official archives, downloaded: nothing is kept that does not have the known digest and size.

A task's folder appears whole, by one rename, or not at all. What a server or an archive can do wrong (break off, stall,
drip, send more or something else, unpack without end) ends in an error that names it. Of an archive only the task's own
file names are written, whatever paths it holds.
"""

import functools
import lzma
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pooch
import requests
import tenacity
import urllib3
from pydantic import Field

from morocco_lib import config, fileio
from morocco_lib.config import Count, Schema
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.tasks.base import Task

SOURCES = Path(__file__).with_name("sources.yaml")
RECORD = "FETCHED.json"  # in each task's folder: where its files are from
# What the standard library raises for archives that are damaged, encrypted, or compressed in a way it does not know.
UNPACKING = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, ValueError)


class Archive(Schema):
    """One archive: where it is, and the digest and size without which it is refused."""

    url: str = Field(pattern=r"^https?://")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: Count


class Sources(Schema):
    """The file that says where the archives are."""

    unpacked_bytes: Count  # an archive that unpacks to more is refused
    archives: dict[str, Archive]


class _Transient(EnvironmentFailure):
    """A failed download that another attempt may complete."""


def load_sources(path: Path = SOURCES) -> Sources:
    """Return the archives that a YAML file names; raises UsageError if it cannot be read or understood."""
    return config.validate(Sources, config.read_yaml(path), str(path))


def fetch(
    task: Task,
    out: Path,
    sources: Sources,
    *,
    timeout_s: float = 3600.0,
    silence_s: float = 30.0,
    pause_s: float = 2.0,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Download one task's archive and put its files into `out`/<title>; return them.

    Files that an earlier fetch of the same archive put there are kept.

    Args:
        timeout_s: For the whole download.
        silence_s: Longest time without a byte.
        pause_s: Before the second attempt; doubled before the third.
        say: Called with a line before each further attempt.
    Raises:
        UsageError: the folder exists with other content, or no archive of this task is known.
        EnvironmentFailure: the network, or an archive that is not the known one; nothing was kept.
    """
    if task.name not in sources.archives:
        raise UsageError(f"no archive of {task.name}", rule=f"known: {', '.join(sorted(sources.archives))}")
    archive, folder = sources.archives[task.name], Path(out) / task.title
    if folder.exists():
        return _kept(folder, archive)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Transient),
            stop=tenacity.stop_after_attempt(3) | tenacity.stop_before_delay(timeout_s),
            wait=tenacity.wait_exponential(pause_s),
            before_sleep=lambda state: say(f"{state.outcome.exception().seen}; trying again"),
            reraise=True,
        )
        packed = retrying(_download, archive, Path(scratch), time.monotonic() + timeout_s, silence_s)
        unpacked = Path(scratch) / task.title
        unpacked.mkdir()
        names = _unpack(packed, unpacked, task, archive, sources.unpacked_bytes)
        try:
            for name in names:
                task.read(unpacked / name)
        except UsageError as error:
            raise _refused(archive, f"it holds no records of {task.title} ({error})") from None
        digests = {name: fileio.sha256_file(unpacked / name) for name in names}
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = {"schema": 1, "url": archive.url, "sha256": archive.sha256, "fetched": now, "files": digests}
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


def _download(archive: Archive, folder: Path, deadline: float, silence_s: float) -> Path:
    pooch.get_logger().setLevel("WARNING")  # it would print the path of the temporary file
    stream = functools.partial(_stream, archive, deadline, silence_s)
    try:
        return Path(pooch.retrieve(archive.url, f"sha256:{archive.sha256}", "archive.zip", folder, downloader=stream))
    except ValueError as error:  # the digest
        raise _refused(archive, f"not the known archive: {str(error).partition('. ')[0]}") from None


def _stream(archive: Archive, deadline: float, silence_s: float, url: str, target: str, _pooch: None) -> None:
    """Download to a file, for pooch.

    pooch.HTTPDownloader does not serve: it waits for whole chunks, so a server that drips single bytes would never meet
    the deadline, and it writes a body without end until the disk is full.
    """
    size, headers = 0, {"User-Agent": "morocco-lib", "Accept-Encoding": "identity"}
    try:
        with requests.get(url, stream=True, timeout=silence_s, headers=headers) as answer, open(target, "wb") as file:
            answer.raise_for_status()
            while chunk := answer.raw.read1(1 << 18):
                size += len(chunk)
                if size > archive.bytes:
                    raise _refused(archive, f"more than the {archive.bytes:,} bytes it has")
                if time.monotonic() > deadline:
                    raise _broken(archive, f"not finished within the time limit, {size:,} of {archive.bytes:,} bytes")
                file.write(chunk)
    except requests.HTTPError as error:
        code = error.response.status_code
        failure = _broken if code >= 500 or code == 429 else _refused
        raise failure(archive, f"HTTP {code} {error.response.reason}") from None
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise _broken(archive, f"no byte for {silence_s:g} s, {size:,} of {archive.bytes:,} bytes") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        cause = error
        while cause.__context__:  # "Connection refused", not the layers around it
            cause = cause.__context__
        raise _broken(archive, f"{cause}, {size:,} of {archive.bytes:,} bytes") from None
    if size < archive.bytes:
        raise _broken(archive, f"broke off after {size:,} of {archive.bytes:,} bytes")


def _broken(archive: Archive, what: str) -> _Transient:
    return _Transient(f"{archive.url}: {what}", remedy="rerun the command; tasks that are complete are kept")


def _refused(archive: Archive, what: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{archive.url}: {what}",
        rule="only the known archive is accepted, and nothing of this one was kept",
        remedy="if you trust another, name it with its digest in a file for --sources",
    )


def _unpack(packed: Path, folder: Path, task: Task, archive: Archive, limit: int) -> list[str]:
    """Write the task's own files of an archive into a folder, flat, and return their names.

    pooch.Unzip does not serve: it extracts whatever there is, without a limit and links included.
    """
    wanted = sorted(f"{stem}.jsonl" for stem in task.sizes)
    chosen = {}
    try:
        with zipfile.ZipFile(packed) as box:
            for member in box.infolist():
                path = PurePosixPath(member.filename)
                if path.name in wanted and "__MACOSX" not in path.parts and not member.is_dir():
                    if path.name in chosen:
                        raise _refused(archive, f"{path.name} twice in it")
                    chosen[path.name] = member
            if missing := set(wanted) - set(chosen):
                raise _refused(archive, f"no {', '.join(sorted(missing))} in it")
            # zipfile reads no more of a member than this, whatever the compressed data hold.
            if sum(member.file_size for member in chosen.values()) > limit:
                raise _refused(archive, f"it unpacks to more than {limit:,} bytes")
            for name, member in chosen.items():
                with box.open(member) as source, (folder / name).open("wb") as file:
                    shutil.copyfileobj(source, file)
    except UNPACKING as error:
        raise _refused(archive, f"not an archive that can be unpacked ({error})") from None
    return wanted
