"""From the parts of a record to the token sequences a transformer reads: one sequence a part, one rule of truncation.

Which texts, spans and options a record has, its task declares (`Task.parts`). What matters is never truncated away.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from morocco_lib.models.transformer.sequences import EncodedSequence
from morocco_lib.tasks.form import TextPair

LOOKAHEAD = 4  # tokens after a marked word that are pooled with it in a decoder, which knows what follows only there
Mark = Callable[[EncodedSequence], EncodedSequence]
SECOND_SHARE = 0.75  # of a sequence that the question and answer may take from their passage


# -- truncation ----------------------------------------------------------------------------------------------------
def truncate(texts: Sequence[tuple[int, Sequence[tuple[int, int]]]], room: int) -> list[range | list[int]]:
    """Choose the tokens that are kept of texts that share some room.

    The nearer a token is to one of its text's spans (to the text's start, where it has none), the longer it is kept; so
    of two texts without spans the longer one is truncated first, and both to the same length. So are spans that do not fit.

    Args:
        texts: (number of tokens, spans of tokens in it) of each.
    Returns:
        The places kept of each text, ascending.
    """
    if sum(size for size, _ in texts) <= room:
        return [range(size) for size, _ in texts]
    ranked = []
    for number, (size, spans) in enumerate(texts):
        for place in range(size):
            far = min((max(start - place, place - end + 1, 0) for start, end in spans), default=place)
            deep = min((place - start for start, end in spans if start <= place < end), default=place)
            ranked.append((far, deep, place, number))
    ranked.sort()
    kept: list[list[int]] = [[] for _ in texts]
    for _, _, place, number in ranked[: max(room, 0)]:
        kept[number].append(place)
    return [sorted(places) for places in kept]


@dataclass(frozen=True)
class Template:
    """The special tokens around the texts of a sequence: start, first text, middle, second text, end."""

    start: tuple[int, ...]
    middle: tuple[int, ...]
    end: tuple[int, ...]

    def __post_init__(self) -> None:
        if not (self.start or self.end):
            raise ValueError("no special token opens or closes a sequence: an empty text would have no tokens")

    @property
    def size(self) -> int:
        return len(self.start) + len(self.middle) + len(self.end)

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Template":
        return cls(*(tuple(values[name]) for name in ("start", "middle", "end")))


class Reader:
    """Turns parts into sequences.

    Args:
        max_length: Tokens of a sequence at most, special ones included.
        causal: For a decoder: the tokens after a marked word are pooled with it, and backends are told which leading
            tokens the sequences of a record have in common.
        mark: What a head makes of each sequence.
    Attributes:
        truncated: Sequences that were truncated so far.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: Template, max_length: int, causal: bool = False, mark: Mark | None = None
    ):
        if max_length < template.size + 8:
            raise ValueError(f"max_length {max_length} leaves no room for text")
        self.tokenizer, self.template, self.max_length, self.causal = tokenizer, template, max_length, causal
        self.truncated, self.mark = 0, mark or (lambda sequence: sequence)
        tokenizer.no_truncation(), tokenizer.no_padding()

    def __call__(self, records: Sequence[Sequence[TextPair]]) -> list[list[EncodedSequence]]:
        """Return the sequences of each record."""
        texts = {text: None for parts in records for part in parts for text in (part.first, part.second) if text}
        spans = any(part.marks or part.kept for parts in records for part in parts)
        encode = self.tokenizer.encode_batch if spans else self.tokenizer.encode_batch_fast
        encodings = dict(zip(texts, encode(list(texts), add_special_tokens=False), strict=True))
        return [self._record(parts, encodings) for parts in records]

    def _record(self, parts: Sequence[TextPair], encodings: dict[str, Any]) -> list[EncodedSequence]:
        room = self.max_length - self.template.size
        pairs = [self._encode(part, encodings) for part in parts]
        if len(parts) < 2 or len({part.first for part in parts}) > 1 or any(part.second is None for part in parts):
            return [self._sequence(*one, truncate([(len(ids), spans) for ids, spans in one[0]], room)) for one in pairs]
        # The common text is truncated once, so that it stays common; the seconds matter more.
        seconds = [truncate([(len(ids), spans)], int(room * SECOND_SHARE))[0] for (_, (ids, spans)), _ in pairs]
        spans = list(dict.fromkeys(span for ((_, marked), _), _ in pairs for span in marked))
        first = truncate([(len(pairs[0][0][0][0]), spans)], room - max(map(len, seconds)))[0]
        shared = len(self.template.start) + len(first) + len(self.template.middle) if self.causal else 0
        return [self._sequence(*one, [first, second], shared) for one, second in zip(pairs, seconds, strict=True)]

    def _encode(self, part: TextPair, encodings: dict[str, Any]) -> tuple:
        """Return ([(ids, spans that are kept) of both texts], [(text, token span) of each mark])."""
        texts = [part.first] if part.second is None else [part.first, part.second]
        encoded = [encodings[text] if text else None for text in texts]
        marks = [(text, _tokens_of(encoded[text], start, end)) for text, start, end in part.marks]
        kept = [(text, _tokens_of(encoded[text], start, end)) for text, start, end in part.kept]
        pair = [
            (one.ids if one else [], [span for text, span in marks + kept if text == number and span])
            for number, one in enumerate(encoded)
        ]
        return pair, marks

    def _sequence(self, texts: list, marks: list, places: list, shared: int = 0) -> EncodedSequence:
        self.truncated += any(len(kept) < len(ids) for kept, (ids, _) in zip(places, texts, strict=True))
        template = self.template
        first, *second = ([ids[place] for place in kept] for kept, (ids, _) in zip(places, texts, strict=True))
        before = len(template.start), len(template.start) + len(first) + len(template.middle)
        spans = []
        for text, span in marks:
            inside = [k for k, place in enumerate(places[text]) if span and span[0] <= place < span[1]]
            if not inside:  # its characters are none to the tokenizer: it is pooled as the sequence's first token
                spans.append((0, 1))
                continue
            end = min(inside[-1] + 1 + (LOOKAHEAD if self.causal else 0), len(places[text]))
            spans.append((before[text] + inside[0], before[text] + end))
        ids = [*template.start, *first]
        if second:
            ids += [*template.middle, *second[0]]
        ids += template.end
        return self.mark(EncodedSequence(ids, before[1] if second else len(ids), tuple(spans), shared))


def _tokens_of(encoded: Any, start: int, end: int) -> tuple[int, int] | None:
    """Return the tokens (first, exclusive last) that overlap characters of a text, None if there are none."""
    if encoded is None:
        return None
    inside = [k for k, (low, high) in enumerate(encoded.offsets) if low < end and high > start]
    return (inside[0], inside[-1] + 1) if inside else None
