"""The original's logs: where they are found, how they are read, and the facts of each that the rules need.

A log is `<model>/<task>/<input size>_<batch size>_<index>.jsonl`, a line a sample, about three a second: `timestamp`
(Unix seconds), `cpu_usage` (CPU seconds over the life of the process, as ps has it), `ram` (bytes), `gpu_usage` (0..1)
and `gpu_ram` (bytes); all but the first are null where nothing was read. Nothing is skipped: a file of another name and
a line of another form are errors.
"""

import io
import json
import os
import re
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from morocco_lib import foreign
from morocco_lib.errors import UsageError
from morocco_lib.foreign import parse_object
from morocco_lib.tasks.jsonl import open_lines, split_lines

KEYS = ("timestamp", "cpu_usage", "ram", "gpu_usage", "gpu_ram")
NAME = re.compile(r"([1-9][0-9]{0,8})_([1-9][0-9]{0,8})_([0-9]{1,8})\.jsonl(\.gz)?")
ARCHIVES = (".tar.gz", ".tgz")
LAYOUT = "a log is <model>/<task>/<input size>_<batch size>_<index>.jsonl"
DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError)  # raised when a file or an archive is read


@dataclass(frozen=True)
class Log:
    """One run.

    Attributes:
        file: The path as it is shown.
        folder: The model's folder, or where in an archive it is; it tells models of one name apart.
        columns: The readings of each of `KEYS`, one a sample; None where nothing was read.
    """

    file: str
    folder: str
    model: str
    task: str
    input_size: int
    batch_size: int
    index: int
    columns: dict[str, list[float | None]] = field(repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Input size and batch size."""
        return self.input_size, self.batch_size

    @property
    def samples(self) -> int:
        return len(self.columns["timestamp"])

    @property
    def began_s(self) -> float:
        """The first timestamp, Unix seconds."""
        return self.columns["timestamp"][0]

    @property
    def total_s(self) -> float:
        """Seconds from the first sample to the last."""
        return self.columns["timestamp"][-1] - self.began_s

    @property
    def gap_s(self) -> float:
        """Seconds between two samples, on average."""
        return self.total_s / max(1, self.samples - 1)

    @property
    def went_back(self) -> bool:
        """A timestamp is below the one before it."""
        return self.columns["timestamp"] != sorted(self.columns["timestamp"])

    def seconds(self) -> list[float]:
        """Return the time of each sample since the first one."""
        return [stamp - self.began_s for stamp in self.columns["timestamp"]]

    def first(self, key: str, least: float = 0.0) -> float | None:
        """Return the seconds until a reading is at least `least`; None if none is."""
        readings = zip(self.columns["timestamp"], self.columns[key], strict=True)
        return next((stamp - self.began_s for stamp, value in readings if value is not None and value >= least), None)

    @property
    def onset_s(self) -> float | None:
        """Seconds to the first sample with GPU memory; None if no sample has any."""
        return self.first("gpu_ram")

    @property
    def aligned_s(self) -> float | None:
        """Seconds from the first sample with GPU memory to the last sample."""
        return None if self.onset_s is None else self.total_s - self.onset_s

    @property
    def gpu_ram_bytes(self) -> float | None:
        """The largest reading; None if no sample has any."""
        return max((value for value in self.columns["gpu_ram"] if value is not None), default=None)


def read_all(paths: Iterable[Path]) -> list[Log]:
    """Read every log in files, folders and .tar.gz archives.

    Raises:
        UsageError: nothing there, unreadable or damaged, no log by its name, a line that is no sample (file and line
            are named), or two files of one run.
    """
    found: dict[tuple, Log] = {}
    for path in paths:
        before = len(found)
        for log in _within(Path(path)):
            run = (log.folder, log.task, *log.size, log.index)
            if run in found:
                raise UsageError(
                    f"{log.file} is the same run as {found[run].file}",
                    rule="a run counts once",
                    remedy="name each file, or its folder, once",
                )
            found[run] = log
        if len(found) == before:
            raise UsageError(f"no log in {path}", rule=LAYOUT, remedy="give log files, their folder or its .tar.gz")
    return list(found.values())


def _within(path: Path) -> Iterator[Log]:
    try:
        if path.is_dir():
            for file in sorted(file for file, _ in foreign.tree(path)):
                yield from _within_file(file)
        elif path.name.endswith(ARCHIVES):
            yield from _within_archive(path)
        else:
            yield from _within_file(path)
    except DAMAGED as error:
        where = getattr(error, "filename", None) or path
        raise UsageError(
            f"cannot read {where}: {getattr(error, 'strerror', None) or error}", remedy="copy it again"
        ) from None


def _within_file(path: Path) -> Iterator[Log]:
    with open_lines(path) as lines:
        yield Log(*_facts(str(path), Path(os.path.abspath(path)).parts), _columns(str(path), lines))


def _within_archive(path: Path) -> Iterator[Log]:
    with foreign.opened(path) as file:
        whole = foreign.unpacked(file).read()  # all of it at once: its check sum is at the end
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as archive:
        for member in archive:
            if member.isdir():
                continue
            shown = f"{path}:{member.name}"
            inside = [part for part in PurePosixPath(member.name).parts if part != "."]
            model = [path.name.split(".")[0]] if len(inside) < 3 else []
            facts = _facts(shown, [os.path.abspath(path), *model, *inside])
            lines = archive.extractfile(member) if member.isreg() else None
            if lines is None:
                raise UsageError(f"{shown} is no file", rule=LAYOUT, remedy="pack it again without links and devices")
            yield Log(*facts, _columns(shown, lines))


def _facts(shown: str, parts: Sequence[str]) -> tuple:
    """Return the fields of a log that its path tells."""
    name = NAME.fullmatch(parts[-1])
    if not name or len(parts) < 4:
        raise UsageError(f"{shown} is not named as a log", rule=LAYOUT, remedy="remove it, or name the logs themselves")
    return shown, str(PurePosixPath(*parts[:-2])), parts[-3], parts[-2], *map(int, name.groups()[:3])


def _columns(shown: str, lines: Iterable[bytes]) -> dict[str, list[float | None]]:
    columns: dict[str, list[float | None]] = {key: [] for key in KEYS}
    number = 0
    try:
        for number, line in split_lines(lines):
            if not line.strip():
                continue
            try:
                sample = parse_object(line, any_number=True)
                _check(sample)
            except ValueError as error:
                raise UsageError(
                    f"{shown}, line {number}: {error}",
                    rule=f"a sample has {', '.join(KEYS)}: numbers from 0, all but the first may be null",
                    remedy="correct or remove that line",
                ) from None
            for key in KEYS:
                columns[key].append(sample[key])
    except DAMAGED as error:
        raise UsageError(f"{shown}, after line {number}: {error}", remedy="copy it again") from None
    if not columns["timestamp"]:
        raise UsageError(
            f"{shown} is empty", rule="a log has a line a sample", remedy="run it again, or remove the file"
        )
    return columns


def _check(sample: dict[str, Any]) -> None:
    if wrong := sample.keys() ^ set(KEYS):
        name = min(wrong)
        raise ValueError(f"{name!r} is {'unknown' if name in sample else 'absent'}")
    for key in KEYS:
        value = sample[key]
        if value is None and key != "timestamp":
            continue
        if type(value) not in (int, float) or not 0 <= value <= sys.float_info.max:
            raise ValueError(f"{key!r} is {json.dumps(value)[:40]}")


def by_cell(logs: Iterable[Log]) -> dict[tuple[str, str], list[Log]]:
    """Return the logs of each (model, task), sorted; models of one name in several folders get these as names."""
    cells: dict[tuple[str, str], list[Log]] = {}
    for log in sorted(logs, key=lambda log: (*log.size, log.index)):
        cells.setdefault((log.folder, log.task), []).append(log)
    alike = Counter((members[0].model, members[0].task) for members in cells.values())
    named = {
        (members[0].model if alike[members[0].model, task] == 1 else folder, task): members
        for (folder, task), members in cells.items()
    }
    return dict(sorted(named.items()))
