"""A folder in an S3 bucket: what is in it, and requests on it, over boto3."""

import functools
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from morocco_lib import foreign
from morocco_lib.artifacts.steps import STATUS
from morocco_lib.errors import EnvironmentFailure, UsageError

MANIFEST = "SHA256SUMS"
LINE = re.compile(r"^([0-9a-f]{64}) [ *](.+)$", re.MULTILINE)
DIGEST = "morocco-sha256"  # the name of the metadata
VARIABLE = "MOROCCO_S3_BUCKET"
THREADS = 10
WINDOW = 256  # transfers submitted and not finished
ATTEMPTS = 6  # of a request; half a minute passes before the last
KEYS = "see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, what they may do, and AWS_ENDPOINT_URL_S3"
AGAIN = "run the command again: what was transferred is kept"
REMEDIES = dict.fromkeys(
    ("AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "401", "403"), KEYS
)
REMEDIES["NoSuchBucket"] = "create the bucket, or correct its name"


@dataclass(frozen=True)
class Remote:
    """The name of a folder in a bucket; the prefix of its keys is empty or ends with a slash."""

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
            bucket, prefix = os.environ.get(VARIABLE, ""), text
        else:
            return None
        if not re.fullmatch(r"[a-zA-Z0-9._-]{1,255}", bucket):
            rule = f"s3://BUCKET/PREFIX, or //PREFIX in the bucket of {VARIABLE}"
            raise UsageError(f"{text} names no bucket", rule=rule)
        if prefix := prefix.strip("/"):
            check_name(prefix, text)
        return cls(bucket, prefix and f"{prefix}/")

    def __truediv__(self, name: str) -> "Remote":
        return Remote(self.bucket, f"{self.prefix}{name}/")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def last_part(name: str) -> str:
    return name.rpartition("/")[2]


def check_name(name: str, where: object) -> None:
    """Raise UsageError unless a name is one of a file below a folder, which a line of SHA256SUMS can hold."""
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and not {"", ".", ".."} & {*parts}
    if not plain or max(len(part.encode()) for part in parts) > 255:
        rule = "nothing was transferred"
        raise UsageError(f"{where}: {name!r:.200} is no name of a file below a folder", rule=rule, remedy="rename it")


@contextmanager
def explained(remote: Remote) -> Iterator[None]:
    """Turn what boto3 raises into an EnvironmentFailure; what a server says in words is not shown: it may quote a request."""
    from botocore import exceptions as boto
    from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

    try:
        yield
        return
    except boto.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        what, remedy = f"{error.operation_name} was answered with {code:.60}", REMEDIES.get(code, AGAIN)
    except (boto.HTTPClientError, boto.ConnectionError, boto.ResponseStreamingError) as error:
        host = urlsplit(error.kwargs.get("endpoint_url", "")).netloc.rpartition("@")[2]
        what, remedy = (
            f"no answer from {host or 'the server'} ({type(error).__name__})",
            f"see the network and the address, then {AGAIN}",
        )
    except (RetriesExceededError, S3DownloadFailedError) as error:
        what, remedy = f"a download broke off ({type(error).__name__})", AGAIN
    except boto.BotoCoreError as error:
        what, remedy = str(error), KEYS
    raise EnvironmentFailure(f"cannot sync with {remote}: {what}", remedy=remedy)


@functools.cache
def _loader():
    from botocore.loaders import create_loader

    return create_loader()  # of descriptions, which are large


def _client():
    from botocore.config import Config
    from botocore.session import get_session

    env, session = os.environ.get, get_session()
    session.register_component("data_loader", _loader())
    try:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": int(env("AWS_MAX_ATTEMPTS", ATTEMPTS))}, connect_timeout=15,
            # Many stores refuse checksums that only AWS knows, and what arrives is compared here.
            request_checksum_calculation=env("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
            response_checksum_validation="when_required",
        )  # fmt: skip
        return session.create_client("s3", config=config)
    except ValueError as error:
        raise UsageError(str(error), remedy="correct AWS_ENDPOINT_URL_S3 and the other AWS variables") from None


class Folder:
    """A remote folder as it was when this was made. `objects`: name -> (size, time); `sums`: name -> (sha256, time).

    The newest SHA256SUMS at, above or below a file holds for it, so that a folder and one within it may both be uploaded.
    """

    def __init__(self, remote: Remote):
        self.remote, self.client = remote, _client()
        self.objects: dict[str, tuple[int, datetime]] = {}
        for item in self._listed("list_objects_v2", "Contents"):
            written = item["LastModified"].replace(microsecond=0)  # as precise as the time of a SHA256SUMS
            self.objects[item["Key"].removeprefix(remote.prefix)] = (item["Size"], written)

    def _listed(self, operation: str, what: str) -> Iterator[dict]:
        pages = self.client.get_paginator(operation).paginate(Bucket=self.remote.bucket, Prefix=self.remote.prefix)
        return (item for page in pages for item in page.get(what, ()))

    def _of(self, name: str) -> dict[str, str]:
        return {"Bucket": self.remote.bucket, "Key": self.remote.prefix + name}

    @functools.cached_property
    def sums(self) -> dict[str, tuple[str, datetime]]:
        from botocore.exceptions import ClientError

        prefix, found, sums = self.remote.prefix, [], {}
        above = {prefix[:end] for end in (0, *(m.end() for m in re.finditer("/", prefix)))} - {prefix}
        below = {prefix + name.removesuffix(MANIFEST) for name in self.objects if last_part(name) == MANIFEST}
        for folder in above | below:
            try:
                answer = self.client.get_object(Bucket=self.remote.bucket, Key=folder + MANIFEST)
            except ClientError as error:
                if folder in above and error.response["Error"]["Code"] in ("NoSuchKey", "AccessDenied", "403", "404"):
                    continue
                raise
            text = answer["Body"].read(foreign.TEXT_BYTES).decode(errors="replace")
            found.append((answer["LastModified"], folder, text))
        for written, folder, text in sorted(found):
            sums = {key: line for key, line in sums.items() if not key.startswith(folder)}
            sums |= {folder + name: (digest, written) for digest, name in LINE.findall(text)}
        return {key.removeprefix(prefix): line for key, line in sums.items() if key.startswith(prefix)}

    def files(self) -> dict[str, int]:
        """Return name -> size of its files; raises UsageError if one is no name of a file below a folder."""
        listed = {name: size for name, (size, _) in self.objects.items() if last_part(name) != MANIFEST}
        files = {name: size for name, size in listed.items() if size or last_part(name)}  # others mark a folder
        for name in files:
            check_name(name, self.remote)
        return files

    def listed_digest(self, name: str) -> str | None:
        """Return the sha256 of an object from SHA256SUMS, if it was written after the object."""
        digest, written = self.sums.get(name, (None, None))
        return digest if digest and self.objects[name][1] <= written else None

    def digests(self, names: Iterable[str]) -> dict[str, str | None]:
        """Return the sha256 of objects, of their metadata where SHA256SUMS has none; None where nothing says what it is."""

        def stored(name: str) -> str | None:
            return self.listed_digest(name) or self.client.head_object(**self._of(name))["Metadata"].get(DIGEST)

        names, _ = list(names), self.sums  # read before threads ask for it
        with ThreadPoolExecutor(THREADS) as pool:
            return dict(zip(names, pool.map(stored, names), strict=True))

    def write_manifest(self, sums: dict[str, str]) -> None:
        text = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
        self.client.put_object(**self._of(MANIFEST), Body=text.encode())

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects one by one: a batch needs a checksum that not all stores take."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: self.client.delete_object(**self._of(name)), names))

    def abort_uploads(self, names: Iterable[str]) -> None:
        """Abort what killed uploads of these files left: parts that no listing of files shows and that are paid for."""
        from botocore.exceptions import ClientError

        keys = {self.remote.prefix + name for name in names}
        with suppress(ClientError):  # not every store lists them
            for item in self._listed("list_multipart_uploads", "Uploads"):
                if item["Key"] in keys:
                    self.client.abort_multipart_upload(
                        Bucket=self.remote.bucket, Key=item["Key"], UploadId=item["UploadId"]
                    )

    def transfer(
        self, paths: dict[str, str], sizes: dict[str, int], watch: Callable[[int, int], None], digests: dict[str, str] | None = None
    ) -> Iterator[str]:  # fmt: skip
        """Download files, or upload them where their digests are given, and yield the name of each when it is transferred.

        Small ones go first, statuses of steps after all others. The first failure ends it.
        """
        from boto3.s3.transfer import TransferConfig, create_transfer_manager
        from s3transfer.subscribers import BaseSubscriber

        moved, total, lock = 0, sum(sizes.values()), threading.Lock()

        class Watcher(BaseSubscriber):
            def on_progress(self, future, bytes_transferred, **kwargs):
                nonlocal moved
                with lock:
                    moved += bytes_transferred

        def begin(name: str):
            if digests is None:
                return manager.download(*self._of(name).values(), paths[name], subscribers=[Watcher()])
            metadata = {"Metadata": {DIGEST: digests[name]}}
            return manager.upload(paths[name], *self._of(name).values(), metadata, [Watcher()])

        def end(name: str, future) -> str:
            while not future.done():
                time.sleep(0.01)
                watch(moved, total)
            future.result()
            watch(moved, total)
            return name

        config = TransferConfig(max_concurrency=THREADS, preferred_transfer_client="classic")
        with create_transfer_manager(self.client, config) as manager:
            for statuses in (False, True):
                underway: deque = deque()
                for name in sorted((n for n in sizes if (last_part(n) == STATUS) == statuses), key=sizes.get):
                    underway.append((name, begin(name)))
                    if len(underway) == WINDOW:
                        yield end(*underway.popleft())
                while underway:
                    yield end(*underway.popleft())
