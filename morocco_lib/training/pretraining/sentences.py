"""Two neighbouring texts a sequence, for a model that is to tell whether they are swapped (sentence order, Lan et al., 2020)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

END = re.compile(r"(?<=[.!?…])[\"»”)]*\s+(?=[\"«„“(—–-]*\s*[A-ZА-ЯЁ0-9])")


def split(text: str) -> list[str]:
    """Return a text's sentences: each ends with a stop, a question or exclamation mark before a capital or a digit."""
    parts, begin = [], 0
    for found in END.finditer(text):
        parts.append(text[begin : found.end()].strip())
        begin = found.end()
    return [part for part in (*parts, text[begin:].strip()) if part]


def pairs(
    documents: Iterable[Sequence[list[int]]], room: int, seed: int = 0
) -> Iterator[tuple[list[int], list[int], bool]]:
    """Yield pairs of texts as (first, second, whether they are swapped).

    Sentences of a document are gathered until they fill a sequence, cut between two of them at random, and swapped with
    probability 1/2; one that stands alone is dropped. Of a pair that is too long the longer text is truncated at its end.

    Args:
        documents: The token ids of each sentence of each document.
        room: Tokens that fit beside the special ones.
    """
    rng = np.random.default_rng(seed)
    for sentences in documents:
        held: list[list[int]] = []
        for place, sentence in enumerate(sentences):
            held.append(sentence)
            if sum(map(len, held)) < room and place + 1 < len(sentences):
                continue
            if len(held) > 1:
                cut, swapped = int(rng.integers(1, len(held))), bool(rng.random() < 0.5)
                first, second = (list(chain(*some)) for some in (held[:cut], held[cut:]))
                if swapped:
                    first, second = second, first
                while len(first) + len(second) > room:
                    (first if len(first) > len(second) else second).pop()
                yield first, second, swapped
            held = []
