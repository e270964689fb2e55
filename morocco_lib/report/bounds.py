"""Back-of-envelope bounds to compare measured speeds with."""

import json
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

from morocco_lib import foreign
from morocco_lib.tasks.jsonl import open_lines, split_lines

ROUNDS, RECORDS = 5, 2000


def json_bound(records: Path, predictions: Path) -> float:
    """Return the records per second that one Python process parses, and answers with, as JSON: a program without a model.

    Args:
        records: A JSONL file of the task's records, as it is or with gzip.
        predictions: What a program printed: its JSON lines are serialized, once for each record.
    Returns:
        The fastest of five rounds over at most 2,000 records, in this process.
    Limits: bounds a Python program that computes in one process; labels, which are not fed, are parsed here too.
    """
    with open_lines(records) as file:
        lines = list(islice((line for _, line in split_lines(file) if line.strip()), RECORDS))
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
