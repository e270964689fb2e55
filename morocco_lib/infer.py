"""The program inside every container: JSONL records on stdin -> JSONL predictions on stdout, in input order.

Answers are flushed batch by batch; `morocco: {"event": "ready"}` on stderr tells when the first record can be
answered. Imports only what the `infer` extra installs.
"""

import os
import signal
import sys
from pathlib import Path

from morocco_lib.errors import UsageError
from morocco_lib.tasks.records import parse_object, split_lines


def run(folder: Path, task_name: str | None, batch_size: int) -> None:
    """Answer stdin until it ends.

    Args:
        folder: A weights folder.
        task_name: The task asked; None takes the one that MOROCCO_INFER_TASK names (an image does), else the model's own.
        batch_size: Records answered, written and flushed together.
    Raises:
        UsageError: the model cannot be read, or a record is bad; records before it have been answered.
    """
    from morocco_lib.models import weights

    if sys.stdin is None or sys.stdout is None:
        raise UsageError("stdin or stdout is closed", rule="records come on stdin, predictions go to stdout")
    model, task = weights.load(folder, task_name or os.environ.get("MOROCCO_INFER_TASK"))
    out = sys.stdout.buffer
    if sys.stderr is not None:
        sys.stderr.write('morocco: {"event": "ready"}\n')
        sys.stderr.flush()
    batch: list[dict] = []

    def flush() -> None:
        if batch:
            out.write("".join(f"{task.format(p)}\n" for p in model.answer(batch)).encode())
            out.flush()
            batch.clear()

    for number, line in split_lines(sys.stdin.buffer):
        if not line.strip():
            continue
        try:
            record = parse_object(line)
            task.validate(record)
        except ValueError as error:
            flush()
            raise UsageError(
                f"stdin, line {number}: {error}",
                rule=f"every line is one {task.title} record as a JSON object in UTF-8",
                remedy="mend or remove that line; the records before it have been answered",
            ) from None
        batch.append(record)
        if len(batch) == batch_size:
            flush()
    flush()


def main(folder: Path, task_name: str | None, batch_size: int) -> int:
    """Run as a program: a signal or a closed pipe ends it at once, without a traceback."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # A handler, not the default action: as process 1 of a container the default would be ignored.
        signal.signal(number, lambda signum, frame: os._exit(128 + signum))
    try:
        run(folder, task_name, batch_size)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)  # nobody listens any more; not even for an error message
