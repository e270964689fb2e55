"""The original's raw logs: read in blocks, and the few facts of each that any rule needs.

A log is `<model>/<task>/<input_size>_<batch_size>_<index>.jsonl`, a line a sample, about three a second: `timestamp`
(Unix seconds), `cpu_usage` (CPU seconds over the life of the process, as ps has it), `ram` (bytes), `gpu_usage` (0..1)
and `gpu_ram` (bytes); all but the first are null where nothing was seen. Nothing is passed over: a file of another name
and a line of another form are errors.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from morocco_lib.errors import UsageError
from morocco_lib.legacy.files import DAMAGED, Place, walk

KEYS = ("timestamp", "cpu_usage", "ram", "gpu_usage", "gpu_ram")
BLOCK_BYTES = 1 << 17  # read at a time, however long a log is
LINE_BYTES = 1 << 20  # a sample has about a hundred
LARGEST = 1e18  # above it is no time, share or memory of this world

Columns = Sequence[Sequence[float | None]]  # of KEYS, a value a sample


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is not JSON")


_BETWEEN = [f'{", " if place else "{"}"{key}": '.encode() for place, key in enumerate(KEYS)]
_BARE_LINE = b"".join(_BETWEEN) + b"}\n"
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


@dataclass(frozen=True, slots=True)
class Log:
    """What is kept of one log.

    Attributes:
        samples: Lines.
        total_s: Last timestamp less the first.
        onset_s: First sample with GPU memory less the first sample; None: no sample has any.
        gpu_ram_bytes: The largest; None: no sample has any.
        went_back: A timestamp is below the one before it.
        began_s: The first timestamp, Unix seconds.
    """

    place: Place
    samples: int
    total_s: float
    onset_s: float | None
    gpu_ram_bytes: float | None
    went_back: bool
    began_s: float = 0.0

    @property
    def gap_s(self) -> float:
        """Seconds between two samples, on average."""
        return self.total_s / max(1, self.samples - 1)

    @property
    def aligned_s(self) -> float | None:
        """Seconds from the first sample with GPU memory to the last sample."""
        return None if self.onset_s is None else self.total_s - self.onset_s


def read_all(paths: Iterable[Path]) -> list[Log]:
    """Return the facts of every log; see `files.walk`."""
    return [read(place, file) for place, file in walk(paths)]


# -- reading -------------------------------------------------------------------------------------------------------
def read(place: Place, file: BinaryIO) -> Log:
    """Return the facts of one log.

    Raises:
        UsageError: the file is empty, cut off, or a line is not a sample; file and line are named.
    """
    samples, first, last, onset, largest, went_back = 0, 0.0, 0.0, None, None, False
    for stamps, _, _, _, memory in blocks(place.file, file):
        if not samples:
            first = last = stamps[0]
        went_back = went_back or stamps[0] < last or stamps != sorted(stamps)
        seen = [value for value in memory if value is not None]
        if seen:
            if onset is None:
                onset = next(s for s, value in zip(stamps, memory, strict=True) if value is not None) - first
            largest = max(seen) if largest is None else max(largest, *seen)
        samples, last = samples + len(stamps), stamps[-1]
    return Log(place, samples, last - first, onset, largest, went_back, first)


def blocks(shown: str, file: BinaryIO) -> Iterator[Columns]:
    """Yield the samples of a log as columns, some thousand at a time; raises as `read` does."""
    rest, number, empty = b"", 1, True
    try:
        while True:
            block = file.read(BLOCK_BYTES)
            data = rest + block
            cut = data.rfind(b"\n") + 1 if block else len(data)
            if len(data) - cut >= LINE_BYTES:
                _refuse(shown, number + data.count(b"\n"), f"a line longer than {LINE_BYTES >> 20} MiB")
            rest, data = data[cut:], data[:cut]
            if data:
                columns = _quickly(data) or _line_by_line(data.removesuffix(b"\n"), number, shown)
                number += data.count(b"\n")
                if columns:
                    empty = False
                    yield columns
            if not block:
                break
    except DAMAGED as error:
        raise UsageError(f"{shown}, after line {number - 1}: {error}", remedy="copy it again") from None
    if empty:
        raise UsageError(f"{shown} is empty", rule="a log has a line a sample", remedy="bench again, or take it out")


def series(place: Place, file: BinaryIO) -> list[list[float | None]]:
    """Return a whole log as columns of `KEYS`, seconds since the first sample in place of the time; raises as `read` does."""
    columns: list[list[float | None]] = [[] for _ in KEYS]
    for block in blocks(place.file, file):
        for whole, part in zip(columns, block, strict=True):
            whole.extend(part)
    return [[stamp - columns[0][0] for stamp in columns[0]], *columns[1:]]


def _quickly(data: bytes) -> Columns | None:
    """Return the columns of lines that are written as the original writes them; None: look at each.

    Without digits and nulls such lines are all the same; without keys they are one list of numbers, sooner decoded than
    an object a line. What is hidden by the first step (a digit in a key) is no JSON after the second.
    """
    number = data.count(b"\n")
    if data.translate(None, b"0123456789.-").replace(b"null", b"") != _BARE_LINE * number:
        return None
    data = data.removeprefix(_BETWEEN[0]).removesuffix(b"}\n").replace(b"}\n" + _BETWEEN[0], b",")
    for key in _BETWEEN[1:]:
        data = data.replace(key, b",")
    try:
        values = _DECODER.decode(f"[{data.decode()}]")
    except ValueError:
        return None
    columns = tuple(values[place :: len(KEYS)] for place in range(len(KEYS)))
    whole = len(values) == number * len(KEYS)
    return columns if whole and all(map(_is_column, columns, KEYS)) else None


def _is_column(values: Sequence[object], key: str) -> bool:
    kinds = set(map(type, values))
    numbers = [v for v in values if v is not None] if type(None) in kinds else values
    if not kinds <= {int, float, type(None)} or (key == KEYS[0] and len(numbers) < len(values)):
        return False
    return not numbers or (min(numbers) >= 0 and max(numbers) < LARGEST)


def _line_by_line(data: bytes, number: int, shown: str) -> Columns:
    """Return the columns of lines, empty ones passed over; the first that is no sample is refused with its number."""
    from morocco_lib.tasks.jsonl import parse_object  # loads the tasks, which good logs need not

    rows = []
    for line_number, line in enumerate(data.split(b"\n"), start=number):
        line = line.removeprefix(b"\xef\xbb\xbf") if line_number == 1 else line
        if not line.strip():
            continue
        try:
            row = parse_object(line.rstrip(b"\r"))
        except ValueError as error:
            _refuse(shown, line_number, str(error))
        if row.keys() != set(KEYS):
            odd = sorted(row.keys() ^ set(KEYS))[0]
            _refuse(shown, line_number, f"{odd!r} is {'unknown' if odd in row else 'absent'}")
        for key in KEYS:
            if not _is_column([row[key]], key):
                _refuse(shown, line_number, f"{key!r} is {json.dumps(row[key])[:40]}")
        rows.append([row[key] for key in KEYS])
    return [list(column) for column in zip(*rows, strict=True)]


def _refuse(shown: str, number: int, seen: str) -> NoReturn:
    raise UsageError(
        f"{shown}, line {number}: {seen}",
        rule=f"a sample has {', '.join(KEYS)}: numbers from 0, all but the first may be null",
        remedy="mend or remove that line",
    )


# -- cells ---------------------------------------------------------------------------------------------------------
def by_cell(logs: Iterable[Log]) -> dict[tuple[str, str], list[Log]]:
    """Return the logs of each (model, task), sorted; models of one name in several folders get these as names."""
    cells: dict[tuple[str, str], list[Log]] = {}
    for log in logs:
        cells.setdefault((log.place.folder, log.place.task), []).append(log)
    named: dict[tuple[str, str], set[str]] = {}
    for folder, task in cells:
        named.setdefault((cells[folder, task][0].place.model, task), set()).add(folder)
    found = {}
    for (folder, task), members in cells.items():
        model = members[0].place.model
        name = model if len(named[model, task]) == 1 else folder
        order = sorted(members, key=lambda log: (log.place.input_size, log.place.batch_size, log.place.index))
        found[name, task] = order
    return dict(sorted(found.items()))
