"""The command line. Results go to stdout, messages to stderr; exit 0 valid, 1 invalid, 2 wrong usage, 3 the environment failed."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import morocco_lib
from morocco_lib.cli import boards, commands, images, legacy, plans, programs, storage, swarm, vm
from morocco_lib.cli.arguments import Parser
from morocco_lib.cli.output import say
from morocco_lib.errors import EnvironmentFailure, MoroccoError


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
    """Return the parser of all commands."""
    parser = Parser(
        prog="morocco", description=FIRST.splitlines()[0], examples=("morocco doctor", "morocco run params/plans/demo.yaml")
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"morocco {morocco_lib.__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument(
        "--print-completion", choices=("bash", "zsh", "tcsh"), metavar="SHELL",
        help='print what completes commands in bash, zsh or tcsh: eval "$(morocco --print-completion bash)"',
    )  # fmt: skip
    parser.set_defaults(handler=first)
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", title="commands")

    def command(name: str, handler: Callable | None, text: str, *examples: str, among=subparsers) -> Parser:
        sub = among.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", examples=examples)
        sub.set_defaults(handler=handler)
        return sub

    for module in (commands, programs, images, legacy, plans, boards, storage, vm, swarm):
        module.add(command)
    return parser


def first(args) -> int:
    """Print the commands that are needed first, or what --print-completion requests."""
    if args.print_completion:
        print(completion(args.print_completion))
    else:
        print(FIRST)
    return 0


def completion(shell: str) -> str:
    """Return a shell's completion script; options that take a path complete files."""
    import shtab

    from morocco_lib.tasks import task_names

    def complete(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    complete(sub)
            elif action.type is Path:
                action.complete = shtab.FILE
            elif action.dest in ("task", "tasks"):
                action.choices = task_names()

    parser = build_parser()
    complete(parser)
    return shtab.complete(parser, shell=shell)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code; every error becomes one line, with --debug a traceback."""
    argv = sys.argv[1:] if argv is None else argv
    open_streams()
    debug = False
    try:
        try:
            args = build_parser().parse_args(argv)
        except SystemExit:  # --help and --version have printed
            flush_stdout()
            raise
        debug = args.debug
        code = args.handler(args)
        flush_stdout()
        return code
    except BrokenPipeError:
        drop_stdout()
        return 128 + 13
    except KeyboardInterrupt:
        say("morocco: interrupted; what was finished is kept")
        return 130
    except Exception as error:
        if debug:
            raise
        say(f"morocco: {explanation(error, argv)}")
        if isinstance(error, OSError):
            drop_stdout()
        return error.exit_code if isinstance(error, MoroccoError) else 3


def explanation(error: Exception, argv: list[str]) -> str:
    """Return the message for an error."""
    match error:
        case MoroccoError():
            return str(error)
        case ModuleNotFoundError():
            return f"{error.name} is not installed; this command needs the kit; run `make setup`"
        case MemoryError():
            return "out of memory; free some, raise the limit, or give a smaller file"
        case OSError() if folder_is_gone():
            return "the current folder was removed; change into another one"
        case OSError():
            where = "" if error.filename else " (see where stdout goes)"
            return f"{error}{where}; the system refused this; correct the cause and run again"
    debug = f"run `morocco --debug {' '.join(argv)}` and report what it prints"
    return f"{type(error).__name__}: {error}; this is a bug; {debug}"


def folder_is_gone() -> bool:
    """Return whether the current folder has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
