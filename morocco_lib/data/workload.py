"""Records + size + seed -> the stream to feed, the way back to the records, the length histogram. Pure: no file, no clock."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from morocco_lib.errors import UsageError
from morocco_lib.tasks.base import Idx, Prediction, Task
from morocco_lib.tasks.jsonl import Record


@dataclass(frozen=True)
class Workload(Mapping):
    """A stream of records without labels and with idx 0..size-1, and the way back to the records it came from.

    As a mapping it gives, for each idx fed, the record fed.

    Args:
        task: The task of the records.
        records: Distinct records, labelled or not.
        order: For each position of the stream the place of its record in `records`.
        seed: What the order was drawn with; None if the records are in their own order.
        gold: The labels of `records` where these are skeletons; None: unknown, or in the records.
    """

    task: Task
    records: Sequence[Record]
    order: tuple[int, ...]
    seed: int | None
    gold: Sequence[Prediction] | None = None

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

    def _fed(self, position: int) -> Record:
        record = self.records[self.order[position]]
        return self.task.reindex(self.task.strip_labels(record), position)

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
            yield json.dumps(self._fed(position), ensure_ascii=False).encode() + b"\n"

    def restore(self, prediction: Prediction) -> tuple[int, Prediction]:
        """Return (place of the record in `records`, the prediction with that record's own idx)."""
        place = self.order[self.position(prediction["idx"])]
        return place, self.task.restore(prediction, self.records[place])

    def describe(self, out: BinaryIO | None = None) -> dict[str, Any]:
        """Return what `workload.json` holds: enough to map answers back and to score them without the data files.

        Args:
            out: The stream is written to it. It is made before the clock starts, so that a fast program does not wait.
        """
        gold = [self.task.gold(record) for record in self.records]
        lengths: Counter[int] = Counter()
        digest, total, line_bytes = hashlib.sha256(), 0, [0] * len(self.records)
        for place, line in zip(self.order, self.lines(), strict=True):
            line_bytes[place] = line_bytes[place] or len(line)
            lengths[(len(line) - 1).bit_length()] += 1
            digest.update(line)
            total += len(line)
            if out:
                out.write(line)
        return {
            "schema": 1,
            "task": self.task.name,
            "size": len(self.order),
            "distinct": len(set(self.order)),
            "seed": self.seed,
            "bytes": total,
            "sha256": digest.hexdigest(),
            "line_bytes_histogram": [
                {"from": 1 << (k - 1) if k else 0, "below": 1 << k, "lines": n} for k, n in sorted(lengths.items())
            ],
            "line_bytes": line_bytes,  # of each record when first fed; its idx may take more digits later
            "records": [self.task.skeleton(record) for record in self.records],
            "gold": gold if None not in gold else None,
            "order": list(self.order),
        }


def build(task: Task, records: Sequence[Record], size: int, seed: int) -> Workload:
    """Return a stream of `size` records; each pass over them has a shuffle of its own, so none comes twice before all came once.

    Raises:
        UsageError: size below 1.
    """
    if size < 1:
        raise UsageError(f"input size {size}", rule="at least one record is fed")
    order: list[int] = []
    for cycle in range(-(-size // len(records))):
        places = list(range(len(records)))
        random.Random(f"workload/{seed}/{cycle}").shuffle(places)
        order += places
    return Workload(task, records, tuple(order[:size]), seed)


def in_order(task: Task, records: Sequence[Record]) -> Workload:
    """Return the stream of every record exactly once, in its own order."""
    return Workload(task, records, tuple(range(len(records))), None)


def from_description(task: Task, description: Mapping[str, Any]) -> Workload:
    """Return the workload of a `workload.json`: of skeletons, so it maps back and checks but cannot be fed."""
    order, gold = tuple(description["order"]), description["gold"]
    return Workload(task, description["records"], order, description["seed"], gold)
