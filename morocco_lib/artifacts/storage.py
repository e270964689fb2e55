"""Folders in S3 buckets: what differs is transferred, what has arrived is checked, and a file is replaced by a whole one only.

    s3://BUCKET/PREFIX/...           each file, with its sha256 in its metadata
    s3://BUCKET/PREFIX/SHA256SUMS    uploaded last, in the format of sha256sum; no file of the folder itself

Files are compared by size, then sha256. What SHA256SUMS does not list, or what was written after it (by another tool, or an
upload that was killed), is asked for its metadata. The status of a step folder is transferred after all else: what has one is whole.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath

from morocco_lib import fileio, foreign
from morocco_lib.artifacts.bucket import MANIFEST, Folder, Remote, check_name, explained, last_part
from morocco_lib.artifacts.steps import STATUS
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.formatting import counted

SCRATCH = ".morocco-sync"  # in a folder that is downloaded into: what has not been checked yet
NO_LINKS = "links are not followed"

Watch = Callable[[int, int], None]


@dataclass
class Synced:
    """What a sync did, or would do."""

    transferred: list[str]
    bytes: int
    deleted: list[str]
    unchanged: int
    unverified: int = 0  # transferred, and nothing says what their sha256 is
    wrong: list[str] = field(default_factory=list)  # files that are lost, or not what was uploaded: not taken

    def text(self, dry_run: bool = False) -> str:
        """Return a line of text."""
        transferred, deleted = ("to transfer", "to delete") if dry_run else ("transferred", "deleted")
        unknown = f", {self.unverified:,} of them without a sha256 to check" if self.unverified else ""
        gone = f", {len(self.deleted):,} {deleted}" if self.deleted else ""
        what = f"{counted(len(self.transferred), 'file')} {transferred} ({self.bytes / 1e6:,.1f} MB){unknown}"
        return f"{what}, {self.unchanged:,} the same{gone}"


def sync(
    source: Path | Remote, target: Path | Remote, *, delete: bool = False, dry_run: bool = False,
    watch: Watch = lambda done, total: None,
) -> Synced:  # fmt: skip
    """Make a folder in a bucket like a local one, or the reverse.

    Args:
        delete: Also delete what only the target has, below it.
        dry_run: Change nothing.
        watch: Called in this thread with the bytes transferred and all that are to be; what it raises ends the sync.
    Raises:
        UsageError: not one of each; nothing in the source; what is no file, or a name that is none of a file.
        EnvironmentFailure: network, keys, bucket or disk; what was transferred is kept, and no file is half written.
    """
    if isinstance(source, Remote) == isinstance(target, Remote):
        raise UsageError(f"from {source} to {target}", rule="one of the two is in a bucket: s3://BUCKET/PREFIX")
    upwards = isinstance(target, Remote)
    with explained(target if upwards else source):
        return (_upload if upwards else _download)(source, target, delete, dry_run, watch)


def names(remote: Remote) -> list[str]:
    """Return the names of all files in a remote folder; raises as `sync` does."""
    with explained(remote):
        return list(Folder(remote).files())


def _upload(source: Path, target: Remote, delete: bool, dry_run: bool, watch: Watch) -> Synced:
    files, odd = _tree(source) if source.is_dir() else ({}, [])
    for name in odd:
        raise UsageError(f"{source / name} is {foreign.NO_FILE}", rule=NO_LINKS, remedy="copy the file there")
    if not files:
        raise UsageError(f"{source} holds no files", remedy="give a folder of files")
    for name in files:
        check_name(name, source)
        if last_part(name) == MANIFEST:
            raise UsageError(f"{source / name}: sync writes a file of this name itself", remedy="rename it")
    folder, before = Folder(target), {name: _stamp(source / name) for name in files}
    ours, there = _digests(source, files), {name: size for name, (size, _) in folder.objects.items()}
    theirs = folder.digests(name for name, size in files.items() if there.get(name) == size)
    changed = {name: size for name, size in files.items() if theirs.get(name) != ours[name]}
    extra = [name for name in there if name not in files and name != MANIFEST] if delete else []
    done = Synced(list(changed), sum(changed.values()), extra, len(files) - len(changed))
    if dry_run:
        return done
    folder.abort_uploads(changed)
    folder.delete(name for name in changed if last_part(name) == STATUS and name in there)
    for name in folder.transfer({name: str(source / name) for name in changed}, changed, watch, ours):
        if _stamp(source / name) != before[name]:
            raise EnvironmentFailure(
                f"{source / name} was changed while it was uploaded", remedy="run the command again when it is finished"
            )
    others = {name: folder.listed_digest(name) for name in there if name not in files and name not in extra}
    sums = {name: digest for name, digest in others.items() if digest} | ours
    if changed or sums != {name: digest for name, (digest, _) in folder.sums.items()}:
        folder.write_manifest(sums)
    folder.delete(extra)
    return done


def _download(source: Remote, target: Path, delete: bool, dry_run: bool, watch: Watch) -> Synced:
    folder = Folder(source)
    if not (files := folder.files()):
        raise UsageError(f"{source} holds no files", remedy="give a folder that something was uploaded to")
    above = {str(path) for name in files for path in PurePosixPath(name).parents}
    for name in above & files.keys():
        raise UsageError(f"{source}: {name} is a file and a folder", remedy="rename one of them")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file", remedy="give a folder")
    here, odd = _tree(target) if target.is_dir() else ({}, [])
    for name in (above | files.keys()) & set(odd):
        raise UsageError(f"{target / name} is {foreign.NO_FILE}", rule=NO_LINKS, remedy="move it away")
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
        empty, sizes = (
            [name for name in changed if not changed[name]],
            {name: size for name, size in changed.items() if size},
        )
        for name in empty:  # their first byte cannot be requested
            places[name].touch()
        for name in chain(empty, folder.transfer({name: str(places[name]) for name in sizes}, sizes, watch)):
            if theirs[name] not in (None, digest := foreign.sha256_file(places[name])):
                done.wrong.append(f"{name} has the sha256 {digest}, not {theirs[name]}")
                done.transferred.remove(name)
                continue
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            places[name].replace(target / name)
    done.deleted = [] if done.wrong else extra
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


def _stamp(path: Path) -> tuple[int, int]:
    return (info := path.stat()).st_size, info.st_mtime_ns


def _digests(folder: Path, names: Collection[str]) -> dict[str, str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda name: foreign.sha256_file(folder / name, within=folder), names)
        return dict(zip(names, found, strict=True))


@contextmanager
def _scratch(target: Path, needed: int) -> Iterator[Path]:
    """Yield an empty folder below another, on a disk that has room."""
    scratch = target / SCRATCH
    try:
        with fileio.writing(target):
            shutil.rmtree(scratch, ignore_errors=True)  # of a sync that was killed
            scratch.mkdir(parents=True)
            if (free := shutil.disk_usage(target).free) < needed:
                raise EnvironmentFailure(
                    f"cannot write {target}: {needed:,} bytes are needed, {free:,} are free",
                    remedy="free or choose another disk",
                )
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
