"""The program inside every container: JSONL records on stdin -> JSONL predictions on stdout, in input order.

Answers are flushed batch by batch; `morocco: {"event": "ready"}` on stderr tells when the first record can be
answered. Imports only what the `infer` extra installs.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from morocco_lib.errors import MoroccoError, UsageError
from morocco_lib.foreign import parse_object
from morocco_lib.models import Model
from morocco_lib.options import BACKENDS, INFERENCE_PRECISIONS, Options
from morocco_lib.tasks.base import Prediction, Task
from morocco_lib.tasks.jsonl import Record, split_lines


def run(folder: Path, task_name: str | None, batch_size: int, options: Options) -> None:
    """Answer stdin until it ends.

    Args:
        folder: A weights folder.
        task_name: The task to answer; None takes the one that MOROCCO_INFER_TASK names (an image does), else the model's own.
        batch_size: Records (of a transformer: sequences) computed with together at most.
        options: How a transformer computes.
    Raises:
        UsageError: the model cannot be read, or a record is bad; records before it have been answered.
    """
    from morocco_lib.models import weights

    model, task = weights.load(folder, task_name or os.environ.get("MOROCCO_INFER_TASK"), options)
    out = sys.stdout.buffer
    say(f"morocco: {json.dumps({'event': 'ready', **getattr(model, 'operating_point', {})})}")
    reader = _Reader(task)
    stream = model.stream if hasattr(model, "stream") else partial(_by_batches, model)
    for predictions in stream(reader.records(), batch_size):
        out.write("".join(f"{task.format(p)}\n" for p in predictions).encode())
        out.flush()
    if truncated := getattr(model, "truncated", 0):
        say(f"{truncated} sequences were longer than the model takes and were truncated")
    if reader.error:
        raise reader.error


def say(text: str) -> None:
    """Print a line to stderr at once."""
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


class _Reader:
    """The records of stdin up to the first bad one, whose error is kept until those before it have been answered."""

    def __init__(self, task: Task):
        self.task = task
        self.error: UsageError | None = None

    def records(self) -> Iterator[Record]:
        for number, line in split_lines(sys.stdin.buffer):
            if not line.strip():
                continue
            try:
                record = parse_object(line)
                self.task.validate(record)
            except ValueError as error:
                self.error = UsageError(
                    f"stdin, line {number}: {error}",
                    rule=f"every line is one {self.task.title} record as a JSON object in UTF-8",
                    remedy="correct or remove that line; the records before it have been answered",
                )
                return
            yield record


def _by_batches(model: Model, records: Iterator[Record], batch_size: int) -> Iterator[list[Prediction]]:
    while batch := list(islice(records, batch_size)):
        yield model.answer(batch)


def main(folder: Path, task_name: str | None, batch_size: int, options: Options) -> int:
    """Run as a program: a signal or a closed pipe ends it at once, without a traceback."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # A handler, not the default action: as process 1 of a container the default would be ignored.
        signal.signal(number, lambda signum, frame: os._exit(128 + signum))
    try:
        run(folder, task_name, batch_size, options)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)  # stdout has no reader, and stderr may have none


def in_container(argv: list[str] | None = None) -> int:
    """Answer as an image does: `python -m morocco_lib.infer WEIGHTS` takes the options of `morocco infer`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m morocco_lib.infer", allow_abbrev=False)
    parser.add_argument("weights", type=Path)
    parser.add_argument("task", nargs="?")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N")
    parser.add_argument("--precision", choices=INFERENCE_PRECISIONS, default="fp32")
    parser.add_argument("--backend", choices=BACKENDS, default="torch")
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f"argument --batch-size: {args.batch_size} is not a whole number above 0")
    try:
        return main(args.weights, args.task, args.batch_size, Options(args.precision, args.backend))
    except MoroccoError as error:
        say(f"morocco: {error}")
        return error.exit_code
    except Exception as error:
        say(f"morocco: {type(error).__name__}: {error}")
        return 3


if __name__ == "__main__":
    raise SystemExit(in_container())
