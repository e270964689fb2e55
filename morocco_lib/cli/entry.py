"""The commands. Results go to stdout, messages to stderr; exit 0 valid, 1 invalid, 2 wrong usage, 3 the environment failed."""

import argparse
import os
import sys
from pathlib import Path

import morocco_lib
from morocco_lib.cli import commands, images, legacy, plans
from morocco_lib.cli.arguments import positive, positives, seconds, seeds, share, size, subject
from morocco_lib.cli.output import say
from morocco_lib.errors import EnvironmentFailure, MoroccoError
from morocco_lib.options import BACKENDS, PRECISIONS


def open_streams() -> None:
    """Open closed ones of stdin, stdout and stderr, and make them UTF-8 in any locale."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # or the next file opened gets its number, and what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - until we end
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if stream is not None:
            stream.reconfigure(encoding="utf-8", errors=errors)  # a file's name is printed as the bytes it has


def flush_stdout() -> None:
    """Flush stdout; raises BrokenPipeError and EnvironmentFailure."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_stdout()
        raise EnvironmentFailure(
            f"cannot write the result to stdout: {error.strerror}", remedy="free the disk, or send it elsewhere"
        ) from None


def drop_stdout() -> None:
    """Discard unwritten output, or the interpreter complains when it flushes at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def folder_is_gone() -> bool:
    """Return whether the current folder has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


FIRST = """\
How good, how fast and how big is a text model? Measured, with evidence you can check.

  morocco doctor                           what can be measured on this machine, and the remedy for the rest
  morocco run params/plans/demo.yaml       train, measure, score and report two models on synthetic records
  morocco bench --command CMD TASK ...     measure a program of your own (morocco bench --help)
  morocco report outputs/demo              one page with every number and where it comes from
  morocco verify outputs/demo              recompute every number, check every file against its digest

morocco --help lists all commands, morocco COMMAND --help shows commands that work."""


# -- the command line ----------------------------------------------------------------------------------------------
def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="morocco",
        description="How good, how fast and how big is a text model? Measured, with evidence you can check.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="try: morocco doctor\n     morocco run params/plans/demo.yaml",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"morocco {morocco_lib.__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument(
        "--print-completion", choices=("bash", "zsh", "tcsh"), metavar="SHELL",
        help='print what completes commands in bash, zsh or tcsh: eval "$(morocco --print-completion bash)"',
    )  # fmt: skip
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", title="commands")

    def command(name, handler, text, *examples, among=subparsers):
        sub = among.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter, epilog="try: " + "\n     ".join(examples),
        )  # fmt: skip
        sub.set_defaults(handler=handler)
        return sub

    sub = command(
        "doctor",
        commands.doctor,
        "what can be measured here, why not the rest, and how to enable it",
        "morocco doctor",
        "morocco doctor --json",
    )
    sub.add_argument("--json", action="store_true", help="one JSON object")

    sub = subparsers.add_parser(
        "data", help="records to work on", description="Records to work on.", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="try: morocco data synthetic --out records\n     morocco data fetch --out russian-superglue",
    )  # fmt: skip
    kinds = sub.add_subparsers(dest="kind", metavar="KIND", required=True)
    sub = command(
        "synthetic", commands.synthetic, "write synthetic records in the official layout; a tenth of the labels is wrong on purpose",
        "morocco data synthetic --out records", "morocco data synthetic terra --seed 2 --out records2", among=kinds,
    )  # fmt: skip
    sub.add_argument("tasks", nargs="*", metavar="TASK", help="default: all tasks")
    sub.add_argument("--seed", type=int, default=1)
    sub.add_argument("--records", type=positive, metavar="N", help="of each train split (default 150 to 2000, by task)")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder")

    sub = command(
        "fetch", commands.fetch, "download the official archives, check their digests and unpack them",
        "morocco data fetch --out russian-superglue", "morocco data fetch terra rcb --out russian-superglue", among=kinds,
    )  # fmt: skip
    sub.add_argument("tasks", nargs="*", metavar="TASK", help="default: all tasks")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder; tasks fetched before are kept")
    sub.add_argument("--sources", type=Path, metavar="FILE", help="YAML with other addresses and digests")
    sub.add_argument(
        "--timeout",
        type=seconds,
        default=3600.0,
        metavar="S",
        help="time limit of a download in seconds (default 3600)",
    )

    sub = command(
        "train", commands.train, "fit a model on a task's train split", "morocco train tfidf terra --data records --out fitted",
        "morocco train majority terra --data records --out fitted-majority --json",
    )  # fmt: skip
    sub.add_argument(
        "model", metavar="MODEL", help="majority, tfidf, a name in params/models, a folder that transformers reads, or a hub id"
    )  # fmt: skip
    sub.add_argument("task", metavar="TASK")
    sub.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder in the official layout")
    sub.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="new or empty folder; gets weights/ and train.json"
    )
    sub.add_argument("--seed", type=int, default=1)
    sub.add_argument(
        "--seeds", type=seeds, metavar="A-B", help="train a transformer with each, as 1-5; the best by val is kept"
    )
    sub.add_argument("--recipe", metavar="NAME", help="how a transformer is trained: one of params/recipes, or a file")
    sub.add_argument("--json", action="store_true", help="print train.json")

    sub = command(
        "infer", commands.infer, "answer JSONL records on stdin with JSONL predictions on stdout",
        "morocco infer fitted < records/TERRa/val.jsonl",
        "morocco infer fitted terra --batch-size 8 < records/TERRa/test.jsonl > preds.jsonl",
    )  # fmt: skip
    sub.add_argument("weights", type=Path, metavar="WEIGHTS", help="folder that `morocco train` made")
    sub.add_argument("task", nargs="?", metavar="TASK", help="refuse weights of another task")
    sub.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="records answered together (default 32)"
    )
    sub.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of a transformer's computations (default fp32)"
    )
    sub.add_argument("--backend", choices=BACKENDS, default="torch", help="what runs a transformer (default torch)")

    sub = command(
        "eval", commands.evaluate, "score a file of predictions", "morocco eval terra preds.jsonl records/TERRa/val.jsonl",
        "morocco infer fitted < records/TERRa/val.jsonl | morocco eval terra /dev/stdin records/TERRa/val.jsonl",
    )  # fmt: skip
    sub.add_argument("task", metavar="TASK")
    sub.add_argument("predictions", type=Path, metavar="PREDS", help="JSONL, one prediction a record")
    sub.add_argument("gold", type=Path, metavar="GOLD", help="JSONL, the labelled records")
    sub.add_argument(
        "--original", action="store_true", help="the original's lenient rules, to compare with its figures"
    )

    sub = command(
        "check", commands.check, "check a program against the contract with a few records, before anything is measured",
        "morocco check --command 'morocco infer fitted' terra --data records/TERRa/val.jsonl",
        "morocco check --command 'morocco infer fitted' terra --data records/TERRa/test.jsonl --show 3 --json",
    )  # fmt: skip
    subject(sub)
    sub.add_argument("task", metavar="TASK")
    sub.add_argument("--data", type=Path, required=True, metavar="FILE", help="JSONL records; labels are never fed")
    sub.add_argument(
        "--records", type=positive, default=25, metavar="N", help="records fed; the last batch is not full (default 25)"
    )  # fmt: skip
    sub.add_argument("--show", metavar="IDX", help="show what is fed and answered for this record")
    sub.add_argument("--model", metavar="NAME", help="name in the report (default: the program's)")
    sub.add_argument("--timeout", type=seconds, default=600.0, metavar="S", help="of one start (default 600)")
    sub.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    sub.add_argument("--json", action="store_true", help="one JSON object")

    sub = command(
        "bench", commands.bench, "measure speed, start-up, memory and score of a program",
        "morocco bench --command 'morocco infer fitted' terra --data records/TERRa/val.jsonl --input-size 2000 --repeats 3 --out bench1",
        "morocco bench --command 'morocco infer fitted' terra --data records/TERRa/val.jsonl --batch-size 1,8 --repeats 1 --out bench2 --json",
    )  # fmt: skip
    subject(sub)
    sub.add_argument("task", metavar="TASK")
    sub.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="JSONL records; labels are stripped before feeding"
    )
    sub.add_argument(
        "--input-size", type=positive, metavar="N", help="records fed in a run (default: as many as take ten seconds)"
    )
    sub.add_argument(
        "--batch-size", type=positives, default=[32], metavar="B[,B...]", help="one operating point each (default 32)"
    )
    sub.add_argument(
        "--repeats",
        type=positive,
        metavar="R",
        help="runs of an operating point (default: three or more, to --precision)",
    )
    sub.add_argument(
        "--precision", type=share, metavar="P", help="repeat until the speed's interval is narrower than this share of it (default 0.02)"
    )  # fmt: skip
    sub.add_argument(
        "--max-minutes", type=seconds, metavar="M", help="make no run that would end later than this (default 30)"
    )
    sub.add_argument(
        "--quick", action="store_true", help="timed runs only: no check, no cold starts, no cache probe; so is --repeats 1"
    )  # fmt: skip
    sub.add_argument(
        "--original-logs", type=Path, metavar="DIR", help="add runs of one record, and write all in the original's format"
    )  # fmt: skip
    sub.add_argument("--seed", type=int, default=1, help="of the order records are fed in (default 1)")
    sub.add_argument("--model", metavar="NAME", help="name in results (default: the program's)")
    sub.add_argument(
        "--timeout", type=seconds, default=3600.0, metavar="S", help="time limit of a run in seconds (default 3600)"
    )
    sub.add_argument(
        "--memory", type=size, metavar="SIZE", help="memory limit of a run, as 512M or 2G; needs a cgroup of its own"
    )
    sub.add_argument(
        "--pids", type=positive, metavar="N", help="limit of processes and threads (default 4096; containers)"
    )
    sub.add_argument("--cpus", type=seconds, metavar="N", help="limit of CPUs, as 1.5 (default all; containers)")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder")
    sub.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    sub.add_argument("--json", action="store_true", help="one JSON object an operating point")

    images.add(command)
    legacy.add(command)

    plans.add(command)
    return parser


def completion(parser: argparse.ArgumentParser, shell: str) -> int:
    """Print a shell's completion script; options that take a path complete files."""
    try:
        import shtab
    except ModuleNotFoundError:
        say("morocco: shtab is not installed; completion needs the kit; run `make setup`")
        return 3

    def paths(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    paths(sub)
            elif action.type is Path:
                action.complete = shtab.FILE
            elif action.dest in ("task", "tasks"):
                action.choices = task_names()

    from morocco_lib.tasks import task_names

    paths(parser)
    print(shtab.complete(parser, shell=shell))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # Every error becomes one line for the user; --debug shows the traceback.
    open_streams()
    parser, debug = build_parser(), False
    try:
        try:
            args = parser.parse_args(argv)
        except SystemExit:  # --help and --version have printed
            flush_stdout()
            raise
        debug = args.debug
        if args.print_completion:
            code = completion(parser, args.print_completion)
        elif args.subcommand is None:
            print(FIRST)
            code = 0
        else:
            code = args.handler(args)
        flush_stdout()
        return code
    except MoroccoError as error:
        if debug:
            raise
        say(f"morocco: {error}")
        return error.exit_code
    except BrokenPipeError:
        drop_stdout()
        return 128 + 13
    except KeyboardInterrupt:
        say("morocco: interrupted; what was finished is kept")
        return 130
    except ModuleNotFoundError as error:
        if debug:
            raise
        say(f"morocco: {error.name} is not installed; this command needs the kit; run `make setup`")
        return 3
    except MemoryError:
        if debug:
            raise
        say("morocco: out of memory; free some, raise the limit, or give a smaller file")
        return 3
    except OSError as error:
        if debug:
            raise
        if folder_is_gone():
            say("morocco: the current folder was removed; change into another one")
        else:
            where = "" if error.filename else " (see where stdout goes)"
            say(f"morocco: {error}{where}; the system refused this; correct the cause and run again")
        drop_stdout()
        return 3
    except Exception as error:
        if debug:
            raise
        say(
            f"morocco: {type(error).__name__}: {error}; this is a bug; "
            f"run `morocco --debug {' '.join(argv)}` and report what it prints"
        )
        return 3
