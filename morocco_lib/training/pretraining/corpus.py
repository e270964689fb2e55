"""Text -> token ids in sequences of one length, kept in a file that memory does not grow with."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from morocco_lib import foreign
from morocco_lib.errors import UsageError
from morocco_lib.tasks.jsonl import open_lines, read_objects, split_lines
from morocco_lib.training.backbones import template_of
from morocco_lib.training.pretraining import sentences

DOCUMENTS_AT_ONCE = 1000
FORMS = PACKED, LINES, PAIRS = "packed", "lines", "pairs"  # of sequences: see `encode`
FOLDER_MARK = "dataset_info.json"  # of a folder that `datasets` saved


@dataclass(frozen=True)
class Source:
    """Where documents come from.

    Attributes:
        files: Text files (a document a line), JSON Lines, either as .gz, or folders that `datasets` saved.
        field: The key, or column, of a document.
    """

    files: tuple[Path, ...]
    field: str = "text"

    def digest(self) -> str:
        """Return the sha256 of all that is read, in hex."""
        found = hashlib.sha256(self.field.encode())
        for path in self.files:
            inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            for one in inside:
                found.update(foreign.sha256_file(one).encode())
        return found.hexdigest()

    def documents(self) -> Iterator[str]:
        """Yield the documents in the order of the files; empty ones are passed over.

        Raises:
            UsageError: a file cannot be read, or a line has no such key.
        """
        for path in self.files:
            for text in _documents(path, self.field):
                if text.strip():
                    yield text


def _documents(path: Path, field: str) -> Iterator[str]:
    if path.is_dir():
        yield from _of_datasets(path, field)
    elif path.name.removesuffix(".gz").endswith((".jsonl", ".json")):
        for number, record in read_objects(path):
            if type(record.get(field)) is not str:
                raise UsageError(f"{path}, line {number}: no text in {field!r}", remedy="name the key of the documents")
            yield record[field]
    else:
        with open_lines(path) as lines:
            for number, line in split_lines(lines):
                try:
                    yield line.decode()
                except UnicodeDecodeError:
                    raise UsageError(f"{path}, line {number}: not UTF-8", rule="a corpus is text") from None


def _of_datasets(folder: Path, field: str) -> Iterator[str]:
    if not (folder / FOLDER_MARK).is_file():
        raise UsageError(f"{folder} is no corpus", rule=f"a folder is one that `datasets` saved, with {FOLDER_MARK}")
    try:
        from datasets import load_from_disk
    except ModuleNotFoundError:
        raise UsageError(f"{folder} needs the package datasets", remedy="run `pip install datasets`") from None
    data = load_from_disk(str(folder))
    if field not in data.column_names:
        raise UsageError(f"{folder} has no column {field!r}", rule=f"columns: {', '.join(data.column_names)}")
    yield from (row[field] for row in data)


@dataclass(frozen=True)
class Sequences:
    """Token ids, special tokens included: shape (sequences, length), how many of each are not padding, and of pairs
    whether the two texts are swapped.
    """

    ids: np.ndarray
    lengths: np.ndarray
    swapped: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, places: slice) -> "Sequences":
        return Sequences(self.ids[places], self.lengths[places], self.swapped[places])


def split(sequences: Sequences, share: float) -> tuple[Sequences, Sequences]:
    """Return (train, validation): validation is the first share of the sequences, one at least."""
    count = max(1, round(share * len(sequences)))
    if count >= len(sequences):
        raise UsageError(
            f"{len(sequences)} sequences", rule="some are to be trained on, and some held back", remedy="more text"
        )
    return sequences.part(slice(count, None)), sequences.part(slice(0, count))


def encode(source: Source, tokenizer_text: str, length: int, folder: Path, form: str = PACKED) -> Sequences:
    """Return the source as sequences; what was encoded before with the same text, tokenizer and form is taken from the folder.

    Args:
        tokenizer_text: Of tokenizer.json; its special tokens stand around each sequence.
        length: Tokens of a sequence, special ones included.
        form: PACKED: documents are concatenated and cut, the rest is dropped; LINES: a document a sequence, truncated and
            padded; PAIRS: see `sentences.pairs`.
    """
    wanted = [source.digest(), hashlib.sha256(tokenizer_text.encode()).hexdigest(), length, form]
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
    path = folder / f"corpus-{key}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        begun = path.with_suffix(f".{os.getpid()}")
        with begun.open("wb") as out:
            count = 0
            for rows in _rows(source.documents(), Tokenizer.from_str(tokenizer_text), length, form):
                out.write(np.asarray(rows, np.int32).tobytes())
                count += len(rows)
            os.fsync(out.fileno())
        if not count:
            begun.unlink()
            raise UsageError("the corpus is shorter than one sequence", remedy="more text, or shorter sequences")
        begun.rename(path)
    table = np.memmap(path, np.int32, "r").reshape(-1, length + 2)
    return Sequences(table[:, 2:], table[:, 0], table[:, 1])


def _rows(documents: Iterable[str], tokenizer: Tokenizer, length: int, form: str) -> Iterator[list[list[int]]]:
    """Yield rows of (tokens that are not padding, whether swapped, ids ...), some thousands at a time."""
    tokenizer.no_padding(), tokenizer.no_truncation()
    template = template_of(tokenizer, "a corpus")
    room, padding = length - len(template.start) - len(template.end), tokenizer.token_to_id("[PAD]") or 0

    def ids_of(texts: list[str]) -> list[list[int]]:
        return [one.ids for one in tokenizer.encode_batch(texts, add_special_tokens=False)]

    def row(ids: list[int], swapped: bool = False) -> list[int]:
        return [len(ids), swapped, *ids, *[padding] * (length - len(ids))]

    if form == PAIRS:
        split = (ids_of(sentences.split(document)) for document in documents)
        made = sentences.pairs(split, length - template.size)
        while some := list(islice(made, DOCUMENTS_AT_ONCE)):
            yield [row([*template.start, *a, *template.middle, *b, *template.end], swapped) for a, b, swapped in some]
        return
    held: list[int] = []
    documents = iter(documents)
    while some := list(islice(documents, DOCUMENTS_AT_ONCE)):
        encoded = ids_of(some)
        if form == LINES:
            bodies = [ids[:room] for ids in encoded if ids]
        else:
            for ids in encoded:
                held += ids
            whole = len(held) // room * room
            bodies, held = [held[k : k + room] for k in range(0, whole, room)], held[whole:]
        yield [row([*template.start, *body, *template.end]) for body in bodies]


def first_documents(source: Source, count: int) -> Sequence[str]:
    """Return documents to train a tokenizer on."""
    return list(islice(source.documents(), count))
