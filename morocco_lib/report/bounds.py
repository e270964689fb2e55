"""Back-of-envelope bounds to compare measured speeds with."""

import json
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

from morocco_lib import foreign
from morocco_lib.tasks.base import Task

ROUNDS, RECORDS = 5, 2000


def json_bound(task: Task, records: Path, predictions: Path) -> float:
    """Return the records per second that one Python process parses, and answers with, as JSON: a program without a model.

    Args:
        records: A file of the task's records, JSON Lines or a table; they are parsed as they are fed.
        predictions: What a program printed: its JSON lines are serialized, once for each record.
    Returns:
        The fastest of five rounds over at most 2,000 records, in this process.
    Limits: bounds a Python program that computes in one process.
    """
    fed = map(task.strip_labels, task.read(records)[:RECORDS])
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in fed]
    given = []
    with foreign.opened(predictions) as file:
        for line in islice(file, len(lines)):
            with suppress(ValueError, RecursionError):  # what the program printed
                given.append(json.loads(line))
    given = given or [{}]
    answers = [given[k % len(given)] for k in range(len(lines))]
    took_s = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for line, answer in zip(lines, answers, strict=True):
            json.loads(line)
            json.dumps(answer, ensure_ascii=False)
        took_s.append(time.perf_counter() - began)
    return len(lines) / min(took_s)
