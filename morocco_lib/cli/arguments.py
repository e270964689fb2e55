"""What the commands share of their options: the parser, and values that are refused with what was expected."""

import argparse
import re


class Parser(argparse.ArgumentParser):
    """A parser whose help ends with commands that work; options are not abbreviated.

    Args:
        examples: The commands.
    """

    def __init__(self, *, examples: tuple[str, ...], **options):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=form, epilog="try: " + "\n     ".join(examples), **options)


def add_program(sub: argparse.ArgumentParser) -> None:
    """Add the arguments that say what runs on which task."""
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", metavar="IMAGE", help="an image the Docker Engine holds: name, id or digest")
    what.add_argument(
        "--command", metavar="CMD", help="one string, split like a shell would but given no shell; `--batch-size N` is appended"
    )  # fmt: skip
    sub.add_argument("--gpus", type=lambda text: text.split(","), metavar="UUID[,UUID]", help="GPUs of the container")
    handed = "variables of your environment that the program is handed (docs/your-model.md)"
    sub.add_argument("--env", type=lambda text: text.split(","), default=[], metavar="NAME[,NAME]", help=handed)
    sub.add_argument("task", metavar="TASK")


def add_output(sub: argparse.ArgumentParser, result: str = "one JSON object") -> None:
    """Add --quiet and --json, which prints the result."""
    sub.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    sub.add_argument("--json", action="store_true", help=result)


# -- values --------------------------------------------------------------------------------------------------------
def positive(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text.strip(), re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def positives(text: str) -> list[int]:
    values = [positive(part) for part in text.split(",")]
    if len(set(values)) != len(values):
        raise argparse.ArgumentTypeError(f"{text!r} names a batch size twice")
    return values


def seconds(text: str) -> float:
    return _between(text, 1e9, "a number above 0")


def share(text: str) -> float:
    return _between(text, 1, "a share between 0 and 1, as 0.02")


def _between(text: str, below: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < below:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def shard(text: str) -> tuple[int, int]:
    """Return (2, 3) of "2/3"."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text, re.ASCII)
    if not found or int(found[1]) > int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part of a whole, as 1/3, 2/3 and 3/3")
    return int(found[1]), int(found[2])


def seeds(text: str) -> list[int]:
    """Return the seeds of "1-5" or "1,3,8"."""
    from morocco_lib.config.schema import parse_seeds

    try:
        return parse_seeds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size(text: str) -> int:
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    found = re.fullmatch(r"([1-9]\d*)(?:([KMGT])(?:i?B)?)?", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512M, 2G or a number of bytes")
    return int(found[1]) * units[found[2] or ""]
