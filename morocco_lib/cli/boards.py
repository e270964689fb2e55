"""The commands on submissions: pack and rank. Each returns its exit code."""

from collections.abc import Callable
from dataclasses import asdict

from morocco_lib.cli.output import put, say, show
from morocco_lib.errors import UsageError
from morocco_lib.fileio import expand


def add(command: Callable) -> None:
    """Add the commands; see `entry.build_parser`."""
    option = command(
        "pack", pack, "pack the benches and evals of a folder of results as one submission",
        "morocco pack outputs/demo -o submission.zip", "morocco pack bench1 -o bench1.zip --json",
    ).add_argument  # fmt: skip
    option("outputs", type=expand, metavar="OUTPUTS")
    option("-o", "--out", type=expand, required=True, metavar="FILE.zip", help="new archive")
    option("--sign", type=expand, metavar="KEY", help="sign it with this private key of ssh")
    option("--original", action="store_true", help="the original's layout instead: benches/ of logs, preds/")
    option("--json", action="store_true", help="one JSON object: the operating points")

    option = command(
        "rank", rank, "check submissions one by one and rank them",
        "morocco rank submission.zip -o board --tasks terra --data records", "morocco rank bench1.zip submission.zip -o board --json",
    ).add_argument  # fmt: skip
    option(
        "submissions", type=expand, nargs="+", metavar="SUBMISSION", help="of `morocco pack`, or logs of the original"
    )
    option("-o", "--out", type=expand, required=True, metavar="DIR", help="the board; submissions it has are kept")
    option("--tasks", nargs="+", metavar="TASK", help="of a new board (default: the nine of Russian SuperGLUE)")
    option(
        "--data",
        type=expand,
        metavar="DIR",
        help="the board's records, in the official layout: what was fed is held against them",
    )
    option("--split", default="val", metavar="NAME", help="of these records (default val)")
    option("--signed-by", type=expand, metavar="FILE", help="allowed signers, as ssh-keygen reads them")
    option("--rerun", metavar="IMAGE", help="measure this image again, here, and compare; needs --data")
    option("--json", action="store_true", help="one JSON object: the ranking")


def pack(args) -> int:
    from morocco_lib.leaderboard import submission

    points = submission.pack(args.outputs, args.out, key=args.sign, original=args.original)
    if args.json:
        show({"schema": 1, "points": points})
    else:
        for point in points:
            put(
                f"{point['model']} on {point['task']}, batch {point['batch_size']}: {point['verdict'] or 'score alone'}"
            )
        if not args.sign:
            say(submission.signature_text(None))
        put(args.out)
    return 0


def rank(args) -> int:
    from morocco_lib.formatting import text_table
    from morocco_lib.leaderboard import board, page

    if missing := [str(path) for path in args.submissions if not path.exists()]:
        raise UsageError(f"no file {', '.join(missing)}", rule="a submission is what `morocco pack` wrote")
    if args.rerun and not args.data:
        raise UsageError(
            "--rerun without --data", rule="it is measured on the board's records", remedy="add --data DIR"
        )
    terms = board.terms(args.out, args.tasks, args.data, args.split, args.signed_by)
    judged = board.add(args.submissions, args.out, terms, image=args.rerun, say=say)
    result = board.write(args.out)
    if args.json:
        show(result | {"judged": [{"verdict": entry.verdict, **asdict(entry)} for entry in judged]})
    else:
        for entry in judged:
            put(f"{entry.verdict}: {entry.model or entry.file} ({entry.id})")
            for check in entry.checks:
                if check.outcome != "ok":
                    put(f"  {check.outcome:<8} {check.name}: {check.seen}")
        put(text_table(page.cells(result["rows"]), right=range(1, 7)))
        put(args.out / board.PAGE)
    return 1 if any(entry.verdict == "refused" for entry in judged) else 0
