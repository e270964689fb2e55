"""Records + size + seed -> the stream to feed, the way back to the records, the length histogram. Pure: no file, no clock.

No text is fed twice in a stream: what a file lacks to the size is made of parts of its records, without label, and is
checked, but not scored. Order and idx do not show which records are made.
"""

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any, BinaryIO

from morocco_lib.errors import UsageError
from morocco_lib.tasks.base import Idx, Prediction, Task
from morocco_lib.tasks.jsonl import Record
from morocco_lib.tasks.recombine import Opening, vocabulary

OPENING_WORDS = 3  # of each text that is made; more where these are not enough to tell all apart
VOCABULARY_OF = 500  # records
_as_json = json.JSONEncoder(ensure_ascii=False).encode
TRUE = -1  # in place of the other record that one was recombined with


@dataclass(frozen=True)
class Workload(Mapping):
    """A stream of records without labels and with idx 0..size-1, and the way back to the records it came from.

    As a mapping it gives, for each idx fed, the record fed.

    Args:
        task: The task of the records.
        records: Distinct records, labelled or not.
        order: For each position of the stream the place of its record in `records`.
        seed: What was drawn with it: which records, order, parts; None if the records are in their own order.
        gold: The labels of `records` where these are skeletons; None: unknown, or in the records.
        others: For each position the place of the record that this one was recombined with, or TRUE; empty: all are true.
        words, codes, opening: What texts that are made open with: a vocabulary, a number for each position, words a text.
    """

    task: Task
    records: Sequence[Record]
    order: tuple[int, ...]
    seed: int | None
    gold: Sequence[Prediction] | None = None
    others: tuple[int, ...] = ()
    words: Sequence[str] = ()
    codes: Sequence[int] = ()
    opening: int = 0

    def __repr__(self) -> str:
        return f"<{len(self)} records fed of {len(self.records)} of {self.task.title}, seed {self.seed}>"

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Idx]:
        return (self.task.key(self.task.reindex(self.records[k], p)) for p, k in enumerate(self.order))

    def __getitem__(self, idx: Idx) -> Record:
        position = self.position(idx)
        if position is None:
            raise KeyError(idx)
        return self._fed(position)

    def __contains__(self, idx: object) -> bool:
        return self.position(idx) is not None

    @cached_property
    def _unlabelled(self) -> list[Record]:
        return [self.task.strip_labels(record) for record in self.records]

    def _fed(self, position: int) -> Record:
        record = self._unlabelled[self.order[position]]
        if self.words and not self.is_true(position):
            other = self._unlabelled[self.others[position]]
            record = self.task.recombine(record, other, Opening(self.words, self.codes[position], self.opening))
        return self.task.reindex(record, position)

    def is_true(self, position: int) -> bool:
        """Tell whether a record of the file is fed there, and not one that was made."""
        return not self.others or self.others[position] == TRUE

    def position(self, idx: object) -> int | None:
        """Return the place of an idx in the stream, None if it was not fed."""
        try:
            position = int(idx)
        except (TypeError, ValueError, OverflowError):
            return None
        if not 0 <= position < len(self.order) or isinstance(idx, bool) or str(position) != str(idx):
            return None
        return position

    def lines(self) -> Iterator[bytes]:
        """Yield the lines fed, in order, each with its line feed."""
        for position in range(len(self.order)):
            yield _as_json(self._fed(position)).encode() + b"\n"

    def restore(self, prediction: Prediction) -> tuple[int, Prediction] | None:
        """Return (place of the record in `records`, the prediction with that record's own idx); None for a record that was made."""
        position = self.position(prediction["idx"])
        place = self.order[position]
        return (place, self.task.restore(prediction, self.records[place])) if self.is_true(position) else None

    def describe(self, out: BinaryIO | None = None) -> dict[str, Any]:
        """Return what `workload.json` holds: enough to map answers back and to score them without the data files.

        Args:
            out: The stream is written to it. It is made before the clock starts, so that a fast program does not wait.
        """
        gold = [self.task.gold(record) for record in self.records]
        lengths: Counter[int] = Counter()
        digest, total, line_bytes = hashlib.sha256(), 0, []
        for line in self.lines():
            line_bytes.append(len(line))
            lengths[(len(line) - 1).bit_length()] += 1
            digest.update(line)
            total += len(line)
            if out:
                out.write(line)
        return {
            "schema": 1,
            "task": self.task.name,
            "size": len(self.order),
            "distinct": len({place for position, place in enumerate(self.order) if self.is_true(position)}),
            "seed": self.seed,
            "bytes": total,
            "sha256": digest.hexdigest(),
            "line_bytes_histogram": [
                {"from": 1 << (k - 1) if k else 0, "below": 1 << k, "lines": n} for k, n in sorted(lengths.items())
            ],
            "fed_bytes": line_bytes,
            "records": [self.task.skeleton(record) for record in self.records],
            "gold": gold if None not in gold else None,
            "order": list(self.order),
            "others": list(self.others) or None,
        }


def build(task: Task, records: Sequence[Record], size: int, seed: int, true: int | None = None) -> Workload:
    """Return a shuffled stream of records, all of different texts: records of the file, the rest recombined from them.

    Where the task cannot recombine its records, the file is cycled instead, each pass with a shuffle of its own.

    Args:
        size: Records in all.
        seed: Of all that is drawn; the same one gives the same stream.
        true: How many are records of the file; None: as many as it holds.
    Raises:
        UsageError: size below 1.
    """
    if size < 1:
        raise UsageError(f"input size {size}", rule="at least one record is fed")
    rng = random.Random(f"workload/{seed}")
    true = min(size, len(records) if true is None else true)
    places, count = range(len(records)), size - true
    passes = (rng.sample(places, len(places)) for _ in range(count // len(places) + 1))
    bases = list(islice(chain.from_iterable(passes), count))
    words = opening_words(task, records) if count else []
    if not words:
        return Workload(task, records, (*rng.sample(places, true), *bases), seed)
    opening = OPENING_WORDS
    while len(words) ** opening < 2 * count:
        opening += 1
    kin = defaultdict(list)
    for place, record in enumerate(records):
        kin[task.kin(record)].append(place)
    others = [rng.choice(kin[task.kin(records[base])]) for base in bases]
    made = zip(bases, others, rng.sample(range(len(words) ** opening), count), strict=True)
    stream = [*((place, TRUE, 0) for place in rng.sample(places, true)), *made]
    rng.shuffle(stream)
    order, others, codes = zip(*stream, strict=True)
    return Workload(task, records, order, seed, None, others, words, codes, opening)


def opening_words(task: Task, records: Sequence[Record]) -> list[str]:
    """Return the words that texts of recombined records open with; none where the task cannot recombine these."""
    words = vocabulary(map(task.bow_text, records[:VOCABULARY_OF]))
    possible = len(words) > 1 and task.recombine(records[0], records[0], Opening(words, 0, OPENING_WORDS))
    return words if possible else []


def in_order(task: Task, records: Sequence[Record]) -> Workload:
    """Return the stream of every record exactly once, in its own order."""
    return Workload(task, records, tuple(range(len(records))), None)


def from_description(task: Task, description: Mapping[str, Any]) -> Workload:
    """Return the workload of a `workload.json`: of skeletons, so it maps back and checks but cannot be fed."""
    order, others = tuple(description["order"]), tuple(description.get("others") or ())
    return Workload(task, description["records"], order, description["seed"], description["gold"], others)


def rebuilt(task: Task, records: Sequence[Record], description: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `workload.json` must hold, but for its source, if these are the records of one that was drawn as it says."""
    size, seed = description["size"], description["seed"]
    load = in_order(task, records) if seed is None else build(task, records, size, seed, description["distinct"])
    return load.describe()
