"""The command on folders in S3 buckets: sync. Returns its exit code."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from morocco_lib.cli.arguments import add_output
from morocco_lib.cli.output import put, show, transfer_progress
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.fileio import expand


def add(command: Callable) -> None:
    """Add the commands; see `entry.build_parser`."""
    sub = command(
        "sync", sync, "make a folder in an S3 bucket like a local one, or the reverse; what is there already is not transferred",
        "morocco sync outputs/demo s3://bucket/demo --dry-run", "morocco sync s3://bucket/demo outputs/demo",
    )  # fmt: skip
    option = sub.add_argument
    where = "a folder, s3://BUCKET/PREFIX, or //PREFIX in the bucket that MOROCCO_S3_BUCKET names"
    option("source", type=place, metavar="SRC", help=where)
    option("target", type=place, metavar="DST", help="the same; one of the two is in a bucket")
    option("--delete", action="store_true", help="also delete what only DST has, below it")
    option("--dry-run", action="store_true", help="list what would be done")
    add_output(sub)


def place(text: str):
    """Return the remote folder or the local path that a text names."""
    from morocco_lib.artifacts.bucket import Remote

    return Remote.parse(text) or expand(text)


def remote(text: str):
    """Return the remote folder that a text names."""
    if isinstance(found := place(text), Path):
        raise UsageError(f"{text} is in no bucket", rule="s3://BUCKET/PREFIX")
    return found


def fetched(source, outputs: Path) -> Path:
    """Make the folder of `outputs` that keeps a remote folder's step folders like them, and return it.

    Raises:
        InvalidResult: a file is lost, or not what was uploaded.
    """
    from morocco_lib.artifacts import steps, storage
    from morocco_lib.artifacts.bucket import last_part

    folder = outputs / f"s3+{source.bucket}+{source.prefix.strip('/').replace('/', '+')}".rstrip("+")
    with transfer_progress(f"fetching {source}", False) as (message, watch):
        found = [name.removesuffix(steps.STATUS) for name in storage.names(source) if last_part(name) == steps.STATUS]
        if not found:
            raise UsageError(f"no step folder in {source}", remedy="give what `morocco run --sync` made")
        for name in found:  # with what an earlier attempt left, which the bucket has no more, taken away
            part, here = replace(source, prefix=source.prefix + name), folder / name
            if wrong := storage.sync(part, here, delete=True, watch=watch).wrong:
                raise InvalidResult(f"{part}: {wrong[0]}", rule="a report is of whole steps", remedy="upload it again")
        message(f"{source} is in {folder}")
    return folder


def sync(args) -> int:
    from morocco_lib.artifacts import storage

    with transfer_progress("syncing", args.quiet) as (say, watch):
        done = storage.sync(args.source, args.target, delete=args.delete, dry_run=args.dry_run, watch=watch)
        for line in done.wrong:
            say(line)
    if args.json:
        show(
            {
                "schema": 1,
                "source": str(args.source),
                "target": str(args.target),
                "dry_run": args.dry_run,
                **asdict(done),
            }
        )
        return 1 if done.wrong else 0
    for what, names in (("transfer", done.transferred), ("delete", done.deleted)) if args.dry_run else ():
        for name in names:
            put(f"{what}  {name}")
    put(done.text(args.dry_run))
    return 1 if done.wrong else 0
