"""Official files that are tables: delimited text -> rows by column name, and submissions of that form."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from morocco_lib.errors import UsageError
from morocco_lib.tasks.jsonl import open_lines, split_lines

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """How a table is written.

    Attributes:
        delimiter: Between cells.
        quoted: By the rules of CSV; else a quotation mark is text.
        headless: The columns, where files without a header exist: one is taken for such if no cell of its first row names a
            column of `columns`.
        columns: Column -> field of the record; columns that are not named are dropped. Several may name one field.
        idx: The column of the idx; where a file lacks it, rows are numbered from 0.
    """

    delimiter: str = "\t"
    quoted: bool = False
    headless: tuple[str, ...] = ()
    columns: dict[str, str] | None = None
    idx: str = "index"

    def cells(self, line: str) -> list[str]:
        """Return the cells of one line; raises ValueError."""
        if not self.quoted:
            return line.split(self.delimiter)
        try:
            (cells,) = csv.reader([line], delimiter=self.delimiter, strict=True)
        except csv.Error as error:
            raise ValueError(f"broken quoting ({error})") from None
        return cells

    def rows(self, path: Path) -> Iterator[tuple[int, Row]]:
        """Yield (line number from 1, row) of a file.

        Raises:
            UsageError: unreadable, not UTF-8, or a row has other columns than the header; file, line and rule are named.
        """
        header: list[str] = []
        with open_lines(path) as lines:
            for number, cells in self._read(lines, path):
                if not header:
                    header = list(cells)
                    if not self.headless or set(cells) & set(self.columns):
                        continue
                    header = list(self.headless)
                if len(cells) != len(header):
                    raise _damaged(path, number, f"{len(cells)} cells", f"the columns are {', '.join(header)}")
                yield number, dict(zip(header, cells, strict=True))

    def _read(self, lines: Iterable[bytes], path: Path) -> Iterator[tuple[int, list[str]]]:
        number = 0
        try:
            for number, line in _joined(split_lines(lines)) if self.quoted else split_lines(lines):
                if line:
                    yield number, self.cells(line.decode())
        except ValueError as error:
            what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise _damaged(path, number, what, "a table is UTF-8 text, a row a line") from None


def _joined(numbered: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield rows whose quoted cells hold line feeds as one line, by the number of their first."""
    held, first = b"", 0
    for number, line in numbered:
        first, held = (first, held + b"\n" + line) if held else (number, line)
        if held.count(b'"') % 2 == 0:
            yield first, held
            held = b""
    if held:
        yield first, held


def _damaged(path: Path, number: int, seen: str, rule: str) -> UsageError:
    return UsageError(f"{path}, line {number}: {seen}", rule=rule, remedy="give the file as it was published")


@dataclass(frozen=True)
class Submission:
    """The table that a leaderboard takes.

    Attributes:
        file: Its name there.
        columns: The idx first.
        header: Whether it has one.
    """

    file: str
    columns: tuple[str, ...]
    delimiter: str = "\t"
    header: bool = True

    def fits(self, first: list[str]) -> bool:
        """Tell whether a file with these cells in its first line may be one."""
        return set(first) == set(self.columns) if self.header else len(first) == len(self.columns)

    def row(self, line: bytes, header: list[str]) -> Row:
        """Return one row; raises ValueError."""
        cells = Table(self.delimiter, quoted=self.delimiter == ",").cells(line.decode())
        if len(cells) != len(header):
            raise ValueError(f"{len(cells)} cells for {', '.join(header)}")
        return dict(zip(header, cells, strict=True))

    def text(self, rows: Iterable[Row]) -> str:
        """Return the contents of the file."""
        out = io.StringIO()
        quoting = {} if self.delimiter == "," else {"quoting": csv.QUOTE_NONE, "quotechar": None}
        writer = csv.DictWriter(out, self.columns, delimiter=self.delimiter, lineterminator="\n", **quoting)
        if self.header:
            writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()
