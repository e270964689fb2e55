"""Does a program cache answers? Two kinds of input, equal but for this: texts that are all unique, and a few repeated ones.

A benchmark cycles a short file, so a program that caches looks faster than it is. The probe feeds runs of both kinds in
turn. At each place both have the same record, under a nonce of its own (`unique`) or one of few (`repeated`), so lines are
equal in characters and bytes, and an honest program is equally fast on both.

workloads(...) makes the input of one pair of runs, size_for(...) sets its size; `analysis.caching.judge` gives the result.

A nonce stands before every free text of a record, where neither truncation of long texts nor a prefix cache makes texts
equal; offsets of marked words move along. It consists of single letters, so that the word cache of an honest tokenizer
holds them all.
Limits: what a program caches of parts that have no nonce (RUSSE's word, RWSD's spans, RuCoS's entities) is not noticed.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from morocco_lib.data.workload import Workload
from morocco_lib.errors import UsageError
from morocco_lib.tasks.base import Task
from morocco_lib.tasks.jsonl import Record

DISTINCT = 4  # repeated texts: few enough that even a batch of four holds duplicates
LETTERS = "абвгдежзиклмнопрстуфхцчшщыэюя"  # of two bytes each, without those that lose an accent in normalisation
NONCE_LETTERS = 6
WORK_S = 1.0  # of one run
BATCHES = 10  # of one run, at least


@dataclass(frozen=True)
class WithNonces(Sequence):
    """Records, each with a nonce, made on access: a long stream of them is not held in memory."""

    task: Task
    records: Sequence[Record]
    nonces: Sequence[str]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int) -> Record:
        return self.task.with_nonce(self.records[place], self.nonces[place])


def workloads(task: Task, records: Sequence[Record], size: int, seed: int, pair: int = 1) -> dict[str, Workload]:
    """Return the streams of one pair of runs in the order to run them, by kind: "unique" and "repeated".

    Both are of `size` records without labels. The order is reversed in every second pair, so that a steady drift of the
    machine affects both kinds.

    Args:
        records: Of the task, labelled or not. Four are taken, one of each quarter by length.
        seed: Of records, order and nonces. To be drawn for every measurement: a cache that outlives the program may hold
            the nonces of an earlier seed.
        pair: Number of the pair, from 1. `unique` has other nonces in each; `repeated` is the same in all, so that a cache
            that lasts from run to run is found, too.
    Raises:
        UsageError: size or pair out of range.
    """
    if size < 1 or not 1 <= pair < len(LETTERS):
        rule = f"at least one record is fed, in pairs 1 to {len(LETTERS) - 1}"
        raise UsageError(f"input size {size}, pair {pair}", rule=rule)
    rng = random.Random(f"cached/{seed}")
    bare = sorted(map(task.strip_labels, records), key=lambda record: len(json.dumps(record, ensure_ascii=False)))
    count = min(DISTINCT, len(bare))
    few = [rng.choice(bare[len(bare) * k // count : len(bare) * (k + 1) // count]) for k in range(count)]
    order = tuple(rng.choices(range(count), k=size))
    unique = WithNonces(task, [few[place] for place in order], _nonces(seed, pair, size))
    repeated = WithNonces(task, few, _nonces(seed, 0, count))
    loads = {
        "unique": Workload(task, unique, tuple(range(size)), seed),
        "repeated": Workload(task, repeated, order, seed),
    }
    return loads if pair % 2 else dict(reversed(loads.items()))


def _nonces(seed: int, pair: int, count: int) -> list[str]:
    # All different; the first letter is the pair's, so no nonce is in two pairs.
    base = len(LETTERS)
    numbers = random.Random(f"cached/{seed}/{pair}").sample(range(pair, base**NONCE_LETTERS, base), count)
    return [" ".join(LETTERS[number // base**k % base] for k in range(NONCE_LETTERS)) for number in numbers]


def size_for(per_s: float | None, batch_size: int, most: int, first_use_s: float = 0.0) -> int:
    """Return how many records to feed in one run: a second's work, at least ten batches, never more than `most`.

    Args:
        per_s: Speed measured before, records a second; None if unknown: then `most`.
        most: Input size of the timed runs.
        first_use_s: Of the time since feeding, what is no work on records: the work takes twice as long at least.
    Limits: a program that caches takes longer than a second on unique texts, as it is slower than it looked.
    """
    if per_s is None:
        return most
    return min(most, max(math.ceil(per_s * max(WORK_S, 2 * first_use_s)), BATCHES * batch_size))
