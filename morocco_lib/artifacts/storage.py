"""Folders in S3 buckets: what differs is transferred, what has arrived is checked, and a file is replaced by a whole one only.

    s3://BUCKET/PREFIX/...           each file, with its sha256 in its metadata
    s3://BUCKET/PREFIX/SHA256SUMS    uploaded last, in the format of sha256sum; never a file of the folder itself

A folder and one within it may both have been uploaded: the newest SHA256SUMS at, above or below a file holds for it. What it
does not list, or what was written after it (another tool, an upload that was killed), is asked for its metadata. Files are
compared by size, then sha256. The status of a step folder is transferred after all else, so that what has one is whole.
"""

import os
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from morocco_lib import foreign
from morocco_lib.artifacts.steps import STATUS
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.formatting import counted

MANIFEST = "SHA256SUMS"
BUCKET_VARIABLE = "MOROCCO_S3_BUCKET"
SCRATCH = ".morocco-sync"  # in a folder that is downloaded into: what has not been checked yet
DIGEST = "sha256"  # the name of the metadata
LINE = re.compile(r"^([0-9a-f]{64}) [ *](.+)$", re.MULTILINE)
WINDOW = 256  # transfers submitted and not finished
THREADS = 10  # of requests that are no transfers
ATTEMPTS = 6  # of a request; twenty seconds pass before the last
KEYS = "see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, what they may do, and AWS_ENDPOINT_URL_S3"
AGAIN = "run the command again: what was transferred is kept"
REMEDIES = {
    "NoSuchBucket": "create the bucket, or correct its name",
    "PermanentRedirect": "the bucket is in another region: set AWS_DEFAULT_REGION",
    **dict.fromkeys(
        ("AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "401", "403"), KEYS
    ),
}

Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class Remote:
    """A folder in a bucket; the prefix of its keys is empty or ends with a slash."""

    bucket: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> "Remote | None":
        """Return what s3://BUCKET/PREFIX names, or //PREFIX in the bucket of MOROCCO_S3_BUCKET; None: a local path.

        Raises:
            UsageError: no bucket, or no name of a folder.
        """
        if text.startswith("s3://"):
            bucket, _, prefix = text.removeprefix("s3://").partition("/")
        elif text.startswith("//"):
            bucket, prefix = os.environ.get(BUCKET_VARIABLE, ""), text
        else:
            return None
        prefix = prefix.strip("/")
        if not re.fullmatch(r"[a-zA-Z0-9._-]{1,255}", bucket):
            raise UsageError(
                f"{text} names no bucket", rule=f"s3://BUCKET/PREFIX, or //PREFIX in the bucket of {BUCKET_VARIABLE}"
            )
        if prefix:
            _check_name(prefix, text)
        return cls(bucket, prefix and f"{prefix}/")

    def __truediv__(self, name: str) -> "Remote":
        return Remote(self.bucket, f"{self.prefix}{name}/")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass
class Synced:
    """What a sync did, or would do."""

    transferred: list[str] = field(default_factory=list)
    bytes: int = 0
    deleted: list[str] = field(default_factory=list)
    unchanged: int = 0
    unverified: int = 0  # transferred, and nothing says what their sha256 is
    wrong: list[str] = field(
        default_factory=list
    )  # with other bytes than SHA256SUMS says, or lost; nothing was replaced

    def text(self, dry_run: bool = False) -> str:
        """Return a line of text."""
        transferred, deleted = ("to transfer", "to delete") if dry_run else ("transferred", "deleted")
        gone = f", {len(self.deleted):,} {deleted}" if self.deleted else ""
        what = f"{counted(len(self.transferred), 'file')} {transferred} ({self.bytes / 1e6:,.1f} MB)"
        return f"{what}, {self.unchanged:,} the same{gone}"

    def remarks(self) -> list[str]:
        """Return what the user has to know besides."""
        unknown = [f"{counted(self.unverified, 'file')} without a sha256: not checked"] if self.unverified else []
        lost = f"{counted(len(self.wrong), 'file')} wrong, and not taken; upload them again" if self.wrong else ""
        return [*unknown, *self.wrong[:5], *([lost] if lost else [])]


def sync(
    source: Path | Remote,
    target: Path | Remote,
    *,
    delete=False,
    dry_run=False,
    watch: Watch = lambda done, total: None,
) -> Synced:
    """Make a folder in a bucket like a local one, or the reverse.

    Args:
        delete: Also delete what only the target has, below it.
        dry_run: Change nothing.
        watch: Called in this thread with the bytes transferred and all that are to be; what it raises ends the sync.
    Raises:
        UsageError: not one of each; nothing in the source; a name that is none of a file, or what is no file.
        EnvironmentFailure: network, keys, bucket or disk; what was transferred is kept, and no file is half written.
    """
    if isinstance(target, Remote) and isinstance(source, Path):
        remote, work = target, _upload
    elif isinstance(source, Remote) and isinstance(target, Path):
        remote, work = source, _download
    else:
        raise UsageError(f"from {source} to {target}", rule="one of the two is in a bucket: s3://BUCKET/PREFIX")
    with _explained(remote):
        return work(source, target, delete, dry_run, watch)


def names(remote: Remote) -> list[str]:
    """Return the names of all files in a remote folder; raises as `sync` does."""
    with _explained(remote):
        return list(_Folder(remote).files())


# -- both ways -----------------------------------------------------------------------------------------------------
def _upload(source: Path, target: Remote, delete: bool, dry_run: bool, watch: Watch) -> Synced:
    files, odd = _tree(source)
    if not source.is_dir() or not files:
        raise UsageError(f"{source} holds no files", remedy="give a folder of files")
    for name in odd:
        raise UsageError(
            f"{source / name} is {foreign.NO_FILE}", rule="links are not followed", remedy="copy the file there"
        )
    for name in files:
        _check_name(name, str(source))
        if PurePosixPath(name).name == MANIFEST:
            raise UsageError(f"{source / name}: this name is kept for what sync itself writes", remedy="rename it")
    folder = _Folder(target)
    before = {name: _stamp(source / name) for name in files}
    ours = _digests(source, files)
    theirs = folder.digests(name for name in files if name in folder.objects and folder.objects[name][0] == files[name])
    changed = {name: size for name, size in files.items() if theirs.get(name) != ours[name]}
    extra = [name for name in folder.objects if name not in files and name != MANIFEST] if delete else []
    done = Synced(list(changed), sum(changed.values()), extra, len(files) - len(changed))
    if dry_run:
        return done
    folder.abort_uploads(changed)
    folder.delete([name for name in changed if _is_status(name) and name in folder.objects])

    def submit(manager, name: str, watcher):
        extra_args = {"Metadata": {DIGEST: ours[name]}}
        return manager.upload(str(source / name), target.bucket, target.prefix + name, extra_args, [watcher])

    for name in folder.transfer(submit, changed, watch):
        if _stamp(source / name) != before[name]:
            raise EnvironmentFailure(
                f"{source / name} was changed while it was uploaded", remedy="run the command again when it is finished"
            )
    kept = {name: folder.listed(name) for name in folder.objects if name not in files and name not in extra}
    sums = {**{name: digest for name, digest in kept.items() if digest}, **ours}
    text = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    if changed or text != folder.manifest:
        folder.client.put_object(Bucket=target.bucket, Key=target.prefix + MANIFEST, Body=text.encode())
    folder.delete(extra)
    return done


def _download(source: Remote, target: Path, delete: bool, dry_run: bool, watch: Watch) -> Synced:
    folder = _Folder(source)
    files = folder.files()
    if not files:
        raise UsageError(f"{source} holds no files", remedy="give a folder that something was uploaded to")
    above = {str(path) for name in files for path in PurePosixPath(name).parents}
    for name in above & files.keys():
        raise UsageError(f"{source}: {name} is a file and a folder", remedy="rename one of them")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file", remedy="give a folder")
    here, odd = _tree(target) if target.is_dir() else ({}, [])
    for name in (above | files.keys()) & set(odd):
        raise UsageError(f"{target / name} is {foreign.NO_FILE}", rule="links are not followed", remedy="move it away")
    theirs = folder.digests(files)
    ours = _digests(target, [name for name, size in files.items() if theirs[name] and here.get(name) == size])
    changed = {name: size for name, size in files.items() if name not in ours or ours[name] != theirs[name]}
    extra = [name for name in here if name not in files] if delete else []
    done = Synced(list(changed), sum(changed.values()), extra, len(files) - len(changed))
    done.unverified = sum(theirs[name] is None for name in changed)
    done.wrong = [f"{name} is in {MANIFEST} and not there" for name in folder.sums if name not in folder.objects]
    if dry_run:
        return done
    with _scratch(target, done.bytes) as scratch:
        places = {name: scratch / str(number) for number, name in enumerate(changed)}

        def submit(manager, name: str, watcher):
            return manager.download(source.bucket, source.prefix + name, str(places[name]), subscribers=[watcher])

        for name in folder.transfer(submit, changed, watch):
            if theirs[name] not in (None, digest := foreign.sha256_file(places[name])):
                done.wrong.append(f"{name} has the sha256 {digest}, not {theirs[name]}")
                done.transferred.remove(name)
                continue
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            places[name].replace(target / name)
    if done.wrong:
        done.deleted = []
    for name in done.deleted:
        (target / name).unlink()
    return done


def _tree(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Return name -> size of the files below a folder, and the names of what is neither a file nor a folder."""
    files, odd = {}, []
    for path, is_file in sorted(foreign.tree(folder)):
        name = path.relative_to(folder).as_posix()
        if not is_file:
            odd.append(name)
        elif not name.startswith(f"{SCRATCH}/"):
            files[name] = path.stat().st_size
    return files, odd


def _digests(folder: Path, names: Collection[str]) -> dict[str, str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(
            zip(names, pool.map(lambda name: foreign.sha256_file(folder / name, within=folder), names), strict=True)
        )


def _stamp(path: Path) -> tuple[int, int]:
    return (info := path.stat()).st_size, info.st_mtime_ns


def _is_status(name: str) -> bool:
    return PurePosixPath(name).name == STATUS


def _check_name(name: str, where: str) -> None:
    parts = name.split("/")
    if (
        {"", ".", ".."} & set(parts)
        or "\\" in name
        or not name.isprintable()
        or max(len(p.encode()) for p in parts) > 255
    ):
        raise UsageError(
            f"{where}: {name!r:.200} is no name of a file below a folder",
            rule="nothing was transferred",
            remedy="rename it",
        )


@contextmanager
def _scratch(target: Path, needed: int) -> Iterator[Path]:
    """Yield an empty folder below another, on a disk that has room."""
    scratch = target / SCRATCH
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a sync that was killed
        scratch.mkdir(parents=True)
        if (free := shutil.disk_usage(target).free) < needed:
            raise EnvironmentFailure(
                f"cannot write {target}: {needed:,} bytes are needed, {free:,} are free",
                remedy="free or choose another disk",
            )
        yield scratch
    except OSError as error:
        raise EnvironmentFailure(
            f"cannot write {target}: {error.strerror}", remedy="free or choose another disk"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# -- the bucket ----------------------------------------------------------------------------------------------------
@contextmanager
def _explained(remote: Remote) -> Iterator[None]:
    """Turn what boto3 raises into an error with a remedy. What it or a server says in words is not shown: it may quote a request."""
    from botocore import exceptions as boto
    from s3transfer.exceptions import RetriesExceededError

    try:
        yield
    except boto.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise _failed(remote, f"{error.operation_name} was answered with {code}", REMEDIES.get(code, AGAIN)) from None
    except (boto.HTTPClientError, boto.ConnectionError, boto.ResponseStreamingError, RetriesExceededError) as error:
        url = getattr(error, "kwargs", {}).get("endpoint_url")
        host = f"{urlsplit(url).hostname}:{urlsplit(url).port or 443}" if url else "the server"
        raise _failed(
            remote,
            f"no answer from {host} ({type(error).__name__})",
            f"see the network and AWS_ENDPOINT_URL_S3, then {AGAIN}",
        ) from None
    except boto.BotoCoreError as error:
        raise _failed(remote, str(error), KEYS) from None


def _failed(remote: Remote, what: str, remedy: str) -> EnvironmentFailure:
    return EnvironmentFailure(f"cannot sync with {remote}: {what}", remedy=remedy)


def _client():
    import boto3
    from botocore.config import Config

    env = os.environ.get
    try:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": int(env("AWS_MAX_ATTEMPTS", ATTEMPTS))}, connect_timeout=15,
            # Many stores refuse checksums that only AWS knows, and what arrives is compared here.
            request_checksum_calculation=env("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
            response_checksum_validation="when_required",
        )  # fmt: skip
        return boto3.Session().client("s3", config=config)
    except ValueError as error:
        raise UsageError(str(error), remedy="correct AWS_ENDPOINT_URL_S3 and the other AWS variables") from None


class _Folder:
    """What is in a remote folder, and requests on it. `objects`: name -> (size, time); `sums`: name -> (sha256, time)."""

    def __init__(self, remote: Remote):
        self.remote, self.client, self.manifest = remote, _client(), None
        self.objects: dict[str, tuple[int, datetime]] = {}
        for page in self._pages("list_objects_v2"):
            for item in page.get("Contents", ()):
                changed = item["LastModified"].replace(microsecond=0)  # as precise as the time of a SHA256SUMS
                self.objects[item["Key"].removeprefix(remote.prefix)] = (item["Size"], changed)
        self.sums = self._read_sums()

    def _pages(self, operation: str):
        return self.client.get_paginator(operation).paginate(Bucket=self.remote.bucket, Prefix=self.remote.prefix)

    def _read_sums(self) -> dict[str, tuple[str, datetime]]:
        from botocore.exceptions import ClientError

        prefix, found = self.remote.prefix, []
        above = {prefix[:at] for at in (0, *(m.end() for m in re.finditer("/", prefix)))} - {prefix}
        below = {prefix + name.removesuffix(MANIFEST) for name in self.objects if PurePosixPath(name).name == MANIFEST}
        for folder in sorted(above | below):
            try:
                answer = self.client.get_object(Bucket=self.remote.bucket, Key=folder + MANIFEST)
            except ClientError as error:
                if folder in above and error.response["Error"]["Code"] in ("NoSuchKey", "AccessDenied", "403", "404"):
                    continue
                raise
            text = answer["Body"].read(foreign.TEXT_BYTES).decode(errors="replace")
            found.append((answer["LastModified"], folder, text))
            self.manifest = text if folder == prefix else self.manifest
        sums = {}
        for written, folder, text in sorted(found):
            sums = {key: line for key, line in sums.items() if not key.startswith(folder)}
            sums |= {folder + name: (digest, written) for digest, name in LINE.findall(text)}
        return {key.removeprefix(prefix): line for key, line in sums.items() if key.startswith(prefix)}

    def files(self) -> dict[str, int]:
        """Return name -> size of its files; raises UsageError if one is no name of a file below a folder."""
        files = {
            name: size for name, (size, _) in self.objects.items()
            if PurePosixPath(name).name != MANIFEST and (size or not f"/{name}".endswith("/"))  # or it marks a folder
        }  # fmt: skip
        for name in files:
            _check_name(name, str(self.remote))
        return files

    def listed(self, name: str) -> str | None:
        """Return an object's sha256 if SHA256SUMS knows it as it is now."""
        digest, written = self.sums.get(name, (None, None))
        return digest if digest and self.objects[name][1] <= written else None

    def digests(self, names: Iterable[str]) -> dict[str, str | None]:
        """Return the sha256 of objects, None where nothing says what it is."""

        def digest(name: str) -> str | None:
            key = self.remote.prefix + name
            return self.client.head_object(Bucket=self.remote.bucket, Key=key)["Metadata"].get(DIGEST)

        found = {name: self.listed(name) for name in names}
        unknown = [name for name in found if found[name] is None]
        with ThreadPoolExecutor(THREADS) as pool:
            return {**found, **dict(zip(unknown, pool.map(digest, unknown), strict=True))}

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects one by one: batches need a checksum that not all stores take."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(
                pool.map(
                    lambda n: self.client.delete_object(Bucket=self.remote.bucket, Key=self.remote.prefix + n), names
                )
            )

    def abort_uploads(self, names: Iterable[str]) -> None:
        """Abort what killed uploads of these files left: parts that no listing shows and that are paid for."""
        from botocore.exceptions import ClientError

        keys = {self.remote.prefix + name for name in names}
        try:
            left = [item for page in self._pages("list_multipart_uploads") for item in page.get("Uploads", ())]
        except ClientError:  # not every store lists them
            return
        for item in left:
            if item["Key"] in keys:
                self.client.abort_multipart_upload(
                    Bucket=self.remote.bucket, Key=item["Key"], UploadId=item["UploadId"]
                )

    def transfer(self, submit: Callable, sizes: dict[str, int], watch: Watch) -> Iterator[str]:
        """Yield each file when it is transferred, small ones first, statuses after all others; the first failure ends it."""
        from boto3.s3.transfer import TransferConfig, create_transfer_manager
        from s3transfer.subscribers import BaseSubscriber

        moved, total, lock = 0, sum(sizes.values()), threading.Lock()

        class Watcher(BaseSubscriber):
            def on_progress(self, future, bytes_transferred, **kwargs):
                nonlocal moved
                with lock:
                    moved += bytes_transferred

        def end(name: str, future) -> str:
            while not future.done():
                time.sleep(0.01)
                watch(moved, total)
            future.result()
            watch(moved, total)
            return name

        order = sorted(sizes, key=sizes.get)
        config = TransferConfig(max_concurrency=THREADS, preferred_transfer_client="classic")
        with create_transfer_manager(self.client, config) as manager:
            for batch in ([n for n in order if not _is_status(n)], [n for n in order if _is_status(n)]):
                underway: deque = deque()
                for name in batch:
                    underway.append((name, submit(manager, name, Watcher())))
                    if len(underway) >= WINDOW:
                        yield end(*underway.popleft())
                while underway:
                    yield end(*underway.popleft())
