"""Where the tokens of a batch lie in one matrix, which of them attend to which, and what is pooled of them.

rows of the matrix      shared prefixes | whole sequences, by length | what follows the prefixes, by prefix and length
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby

import torch
from torch.nn import functional

from morocco_lib.models.transformer.sequences import EncodedSequence

NONE = -1
TOGETHER = 512  # tokens after a prefix, at most, that attend in one block: its cost grows with their square


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens that lie together.

    Args:
        ids: Their ids.
        second: Place of the first one of the second segment.
        place: The sequence's place in the batch, `NONE` of a prefix.
        prefix: The number of the prefix before them, `NONE` without.
        before: Tokens of that prefix.
    """

    ids: list[int]
    second: int
    place: int = NONE
    prefix: int = NONE
    before: int = 0


@dataclass(frozen=True)
class Block:
    """Pieces whose attention is computed at once.

    Args:
        count: Pieces.
        queries, keys: Their rows, equally many a piece: a slice, or places, shape (count, rows of a piece), of which
            some only fill up.
        mask: True where a query sees a key, shape (count, 1, queries or 1, keys); None where all see all.
        causal: Each query sees the keys up to its own instead.
        real: Which of the queries, flattened, do not only fill up; None for all.
    """

    count: int
    queries: slice | torch.Tensor
    keys: slice | torch.Tensor
    mask: torch.Tensor | None = None
    causal: bool = False
    real: torch.Tensor | None = None


def pieces_of(batch: Sequence[EncodedSequence], causal: bool) -> list[Piece]:
    """Return the pieces of a batch in the order of their rows.

    Neighbours that share equally many leading ids, and the same, get one prefix where each sees only what is before it;
    at least one token of each stays its own.
    """
    prefixes: list[Piece] = []
    pieces: list[Piece] = []
    for size, group in groups(batch) if causal else ((0, [place]) for place in range(len(batch))):
        if size:
            ids = batch[group[0]].ids[:size]
            pieces += [Piece(batch[place].ids[size:], 0, place, len(prefixes), size) for place in group]
            prefixes.append(Piece(ids, size))
        else:
            pieces += [Piece(batch[place].ids, batch[place].second, place) for place in group]
    return prefixes + sorted(pieces, key=lambda piece: (piece.prefix, len(piece.ids)))


def groups(batch: Sequence[EncodedSequence]) -> Iterator[tuple[int, list[int]]]:
    """Yield (leading ids that are computed with once, 0 for none; places) of neighbours that share the same ones."""
    found: list[list[int]] = []
    for place, one in enumerate(batch):
        if found and one.begins_as(batch[found[-1][0]]):
            found[-1].append(place)
        else:
            found.append([place])
    for group in found:
        own = min(len(batch[place].ids) for place in group) - 1
        yield min(batch[group[0]].shared, own) if len(group) > 1 else 0, group


class Packing:
    """The matrix of a batch.

    Args:
        batch: At least one sequence.
        causal: Each token sees those before it only.
        device: Where its tensors are.
    Attributes:
        ids, positions, types: Of each row.
        lengths, starts: Own rows of each piece, and the first of them.
    """

    def __init__(self, batch: Sequence[EncodedSequence], causal: bool, device: torch.device):
        self.batch, self.causal, self.device = batch, causal, device
        self.pieces = pieces_of(batch, causal)
        self.prefixes = sum(piece.place == NONE for piece in self.pieces)
        sizes = [len(piece.ids) for piece in self.pieces]
        self._starts = [0, *accumulate(sizes)]
        self.ids = self._tensor(list(chain.from_iterable(piece.ids for piece in self.pieces)))
        self.lengths, self.starts = self._tensor(sizes), self._tensor(self._starts[:-1])
        self.before = self._tensor([piece.before for piece in self.pieces])
        self.prefix_starts = self._tensor([self._starts[max(piece.prefix, 0)] for piece in self.pieces])
        self.rows = len(self.ids)
        shift = (self.starts - self.before).repeat_interleave(self.lengths, output_size=self.rows)
        self.positions = torch.arange(self.rows, device=device) - shift
        second = self._tensor([piece.second for piece in self.pieces])
        self.types = (self.positions >= second.repeat_interleave(self.lengths, output_size=self.rows)).long()
        placed = zip(self._starts, self.pieces, strict=False)
        own = [(start + at, kind) for start, one in placed if one.place != NONE for at, kind in batch[one.place].types]
        if own:
            places, kinds = self._tensor(own).unbind(1)
            self.types[places] = kinds

    def _tensor(self, values: list) -> torch.Tensor:
        return torch.tensor(values, device=self.device)

    def _rows(self, positions: torch.Tensor, pieces: slice) -> torch.Tensor:
        """Return the rows of positions, which count from the start of the prefix, of pieces; shape (pieces, positions)."""
        before, starts, prefixes = (x[pieces, None] for x in (self.before, self.starts, self.prefix_starts))
        return torch.where(positions < before, prefixes + positions, starts + positions - before)

    # -- attention -----------------------------------------------------------------------------------------------
    def blocks(self, gather: bool, wanted: torch.Tensor | None = None) -> list[Block]:
        """Return how attention is computed; the blocks' queries follow each other as the rows do.

        Args:
            gather: In as few blocks as can be, with padding inside; else a block for each run of equal lengths, and for
                what follows a prefix.
            wanted: See `wanted`; queries are theirs alone. None: all rows are.
        """
        own: Counter = Counter()
        for piece in self.pieces:
            own[piece.prefix] += len(piece.ids)

        def alike(number: int) -> tuple:
            piece = self.pieces[number]
            if gather:
                return False, piece.place == NONE, piece.prefix == NONE
            if piece.prefix != NONE and own[piece.prefix] <= TOGETHER:
                return True, piece.prefix, 0
            return False, (piece.place == NONE, piece.prefix), len(piece.ids)

        made = []
        for (together, *_), run in groupby(range(0 if wanted is None else self.prefixes, len(self.pieces)), alike):
            numbers = list(run)
            make = self._together if together else self._block
            made.append(make(slice(numbers[0], numbers[-1] + 1), wanted))
        return made

    def _together(self, run: slice, wanted: torch.Tensor | None) -> Block:
        """Return all that follows one prefix as one piece, whose parts see the prefix and themselves."""
        prefix, count = self.pieces[run.start].prefix, run.stop - run.start
        own = slice(self._starts[run.start], self._starts[run.stop])
        spans = (self._starts[prefix], self._starts[prefix + 1]), (own.start, own.stop)
        keys = torch.cat([torch.arange(*span, device=self.device) for span in spans])
        parts = torch.arange(run.start, run.stop, device=self.device)
        part = parts.repeat_interleave(self.lengths[run])
        queries, asking, seeing = own, part, self.positions[own]
        if wanted is not None:
            first, width = run.start - self.prefixes, wanted.shape[1]
            queries = slice(first * width, (first + count) * width)
            asking, seeing = parts.repeat_interleave(width), wanted[first : first + count].flatten()
        whose = torch.cat([part.new_full((len(keys) - len(part),), prefix), part])
        inside = (whose == prefix) | (whose == asking[:, None])
        return Block(1, queries, keys[None], (inside & (self.positions[keys] <= seeing[:, None]))[None, None])

    def _block(self, run: slice, wanted: torch.Tensor | None) -> Block:
        pieces = self.pieces[run]
        count, longest = len(pieces), max(len(piece.ids) for piece in pieces)
        totals = {piece.before + len(piece.ids) for piece in pieces}
        equal = len({(piece.before, len(piece.ids)) for piece in pieces}) == 1
        whole = slice(self._starts[run.start], self._starts[run.stop])
        places = torch.arange(max(totals), device=self.device)
        inside = places < (self.before + self.lengths)[run, None]  # (pieces, keys): not only filling up
        keys: slice | torch.Tensor = whole
        if not equal or pieces[0].before:
            keys = torch.where(inside, self._rows(places, run), self.starts[run, None])
        real = None
        if wanted is not None:
            width, first = wanted.shape[1], run.start - self.prefixes
            queries: slice | torch.Tensor = slice(first * width, (first + count) * width)
            seeing = wanted[first : first + count]
        else:
            own = torch.arange(longest, device=self.device)
            queries, seeing = whole, self.before[run, None] + own
            if not equal:
                own_rows = own < self.lengths[run, None]
                queries = torch.where(own_rows, self.starts[run, None] + own, self.starts[run, None])
                real = own_rows.flatten().nonzero()[:, 0]
            elif self.causal and not pieces[0].before:
                return Block(count, queries, keys, causal=longest > 1)
        if self.causal:
            seen = places <= seeing[:, :, None]
            return Block(count, queries, keys, (seen & inside[:, None])[:, None], real=real)
        return Block(count, queries, keys, None if len(totals) == 1 else inside[:, None, None], real=real)

    # -- pooling -------------------------------------------------------------------------------------------------
    def wanted(self, pooling: str) -> torch.Tensor | None:
        """Return the positions that are pooled, shape (sequences in the order of their pieces, most of one sequence).

        The one that stands for the sequence, then its spans' one after another, filled up with the first. None where
        that would save nothing.
        """
        if pooling not in ("first", "last"):
            return None
        lists = [list(chain.from_iterable(self._pooled(piece, pooling))) for piece in self.pieces[self.prefixes :]]
        width = max(map(len, lists))
        if width * len(lists) >= self.rows:
            return None
        return self._tensor([one + one[:1] * (width - len(one)) for one in lists])

    def _pooled(self, piece: Piece, pooling: str) -> list[range]:
        """Return the positions that are pooled for a piece's sequence, then those of each of its spans."""
        one = self.batch[piece.place]
        size = len(one.ids)
        whole = {"first": range(1), "last": range(size - 1, size)}.get(pooling, range(size))
        return [whole, *(range(*span) for span in one.spans)]

    def rows_of(self, wanted: torch.Tensor) -> torch.Tensor:
        """Return the rows of wanted positions, flattened."""
        return self._rows(wanted, slice(self.prefixes, None)).flatten()

    def pool(self, rows: torch.Tensor, pooling: str, wanted: torch.Tensor | None) -> torch.Tensor:
        """Return features, shape (sequences, (1 + spans) x hidden), in the order of the batch.

        Args:
            rows: All of the matrix, or those of `rows_of(wanted)`.
        """
        bags: list[list[Sequence[int]]] = [[] for _ in self.batch]  # rows of each sequence, then of each of its spans
        for number, piece in enumerate(self.pieces[self.prefixes :]):
            pooled = self._pooled(piece, pooling)
            if wanted is None:
                bags[piece.place] = [self._piece_rows(self.prefixes + number, positions) for positions in pooled]
            else:  # they lie one after another
                ends = [*accumulate(map(len, pooled), initial=number * wanted.shape[1])]
                bags[piece.place] = list(map(range, ends, ends[1:]))
        spans = [bag for some in bags for bag in some[1:]]
        pooled = bag_rows(rows, [some[0] for some in bags], "max" if pooling == "max" else "mean")
        if not spans:
            return pooled
        return torch.cat([pooled, bag_rows(rows, spans, "mean").view(len(bags), -1)], 1)

    def _piece_rows(self, number: int, positions: range) -> list[int]:
        """Return the rows of positions of one piece, its prefix included."""
        piece, start = self.pieces[number], self._starts[number]
        prefix = self._starts[max(piece.prefix, 0)]
        return [prefix + k if k < piece.before else start + k - piece.before for k in positions]


def bag_rows(rows: torch.Tensor, bags: Sequence[Sequence[int]], mode: str) -> torch.Tensor:
    """Return the mean or the maximum of each bag of rows, shape (bags, hidden)."""
    places = torch.tensor(list(chain.from_iterable(bags)), device=rows.device)
    starts = torch.tensor([0, *accumulate(map(len, bags))][:-1], device=rows.device)
    return functional.embedding_bag(places, rows, starts, mode=mode)
