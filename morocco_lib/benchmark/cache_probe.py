"""Does a program keep its answers? Two kinds of input, equal but for this: texts that never come twice, and few over and over.

A benchmark cycles a short file, so a program that remembers texts looks faster than it is. The probe feeds runs of both
kinds in turn. At each place both have the same record, under a tag of its own (`unique`) or one of few (`repeated`), so
lines are equal in characters and bytes, and an honest program is equally fast on both.

workloads(...) tells what to feed in one pair of runs, size_for(...) how much of it, sequence(...) in which order;
`analysis.caching.judge` what came of it.

A tag stands before every free text of a record, where neither cutting long texts nor remembering their beginnings (a
prefix cache) makes texts equal; offsets of marked words move along. It is made of single letters, so that a tokenizer
that remembers words, as honest ones do, has met them all.
Limits: what a program remembers of parts that have no tag (RUSSE's word, RWSD's spans, RuCoS's entities) is not seen.
"""

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from morocco_lib.analysis.caching import PAIRS
from morocco_lib.data.workload import Workload
from morocco_lib.errors import UsageError
from morocco_lib.tasks.base import Task
from morocco_lib.tasks.jsonl import Record

DISTINCT = 4  # repeated texts: few enough that even a batch of four holds one twice
LETTERS = "абвгдежзиклмнопрстуфхцчшщыэюя"  # of two bytes each; those that are lost where accents are stripped left out
TAG_LETTERS = 6
WORK_S = 1.0  # of one run
BATCHES = 10  # of one run, at least


# -- what to feed --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tagged(Sequence):
    """Records, each with a tag, made when asked for: a long stream of them is not held in memory."""

    task: Task
    records: Sequence[Record]
    tags: Sequence[str]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int) -> Record:
        return self.task.with_nonce(self.records[place], self.tags[place])


def workloads(task: Task, records: Sequence[Record], size: int, seed: int, pair: int = 1) -> tuple[Workload, Workload]:
    """Return the streams (unique, repeated) of one pair of runs, both of `size` records without labels.

    Args:
        records: Of the task, labelled or not. Four are taken, one of each quarter by length.
        seed: Of records, order and tags. To be drawn anew for every measurement: a cache that outlives the program
            may know the tags of an older seed.
        pair: Number of the pair, from 1. `unique` has other tags in each; `repeated` is the same in all, so that answers
            kept from run to run are found, too.
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
    unique = Tagged(task, [few[place] for place in order], _tags(seed, pair, size))
    repeated = Tagged(task, few, _tags(seed, 0, count))
    return Workload(task, unique, tuple(range(size)), seed), Workload(task, repeated, order, seed)


def _tags(seed: int, pair: int, count: int) -> list[str]:
    # Different ones; the first letter is the pair's, so no tag is in two pairs.
    base = len(LETTERS)
    numbers = random.Random(f"cached/{seed}/{pair}").sample(range(pair, base**TAG_LETTERS, base), count)
    return [" ".join(LETTERS[number // base**k % base] for k in range(TAG_LETTERS)) for number in numbers]


def size_for(per_s: float | None, batch_size: int, most: int, init_s: float = 0.0) -> int:
    """Return how many records to feed in one run: a second's work, at least ten batches, never more than `most`.

    Args:
        per_s: Speed seen before, records a second; None if it could not be read: then `most`.
        most: Input size of the timed runs.
        init_s: Start-up in seconds where the speed can only be had from whole runs: then the work takes twice as long.
    Limits: a program that keeps its answers takes longer than a second where it cannot, as it is slower than it looked.
    """
    if per_s is None:
        return most
    return min(most, max(math.ceil(per_s * max(WORK_S, 2 * init_s)), BATCHES * batch_size))


def sequence(pairs: int = PAIRS) -> Iterator[tuple[int, str]]:
    """Yield (number of the pair, "unique" or "repeated") of each run, in the order to run them: u r, r u, u r, ...

    Turned round in every second pair, a steady drift of the machine is against either kind in turn.
    """
    for pair in range(1, pairs + 1):
        kinds = ("unique", "repeated")
        yield from ((pair, kind) for kind in (kinds if pair % 2 else reversed(kinds)))
