"""First words for texts of records that are made of parts of others, so that a file of few gives a stream without repetition."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

COMMON, PLAIN = 200, 30  # words to draw from; fewer of lower-case letters alone are too few


@functools.cache
def _first_words(count: int) -> re.Pattern[str]:
    """Match (a word without letters, as a number; the `count` words after it), each with the space that follows."""
    return re.compile(rf"((?:\s*(?:(?=\S)[\W\d_])+\s+)?)((?:\s*\S+\s+){{0,{count}}})")


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Return the most common words of texts: those of lower-case letters, or all, in lower case, where these are few."""
    counts = Counter(word for text in texts for word in text.split())
    words = Counter({word: n for word, n in counts.items() if word.isalpha() and word.islower()})
    if len(words) < PLAIN:
        words.clear()
        for word, n in counts.items():
            words[word.lower()] += n
    return [word for word, _ in words.most_common(COMMON)]


class Opening:
    """What the texts of one record open with, given out text by text: other words for each.

    Args:
        words: The vocabulary.
        code: Number of the record, below `len(words) ** count`; no two records with other numbers open alike.
        count: Words that a text opens with.
    """

    def __init__(self, words: Sequence[str], code: int, count: int):
        self._words, self._places = words, [code // len(words) ** k % len(words) for k in range(count)]

    def __call__(self, text: str, before: int | None = None) -> tuple[str, int]:
        """Return (the text with other first words, by how many characters the rest of it has moved).

        As many words are dropped as come in, but not the last, and none from character `before` on. A number at the
        beginning, or what else has no letters, stays.
        """
        number, dropped = _first_words(len(self._places)).match(text[:before]).groups()
        rest = text[len(number) + len(dropped) :]
        head = " ".join([self._words[place] for place in self._places]) + " "
        self._places = [(place + 1) % len(self._words) for place in self._places]
        if next(filter(str.isalpha, dropped or rest), "").isupper():
            head = head[0].upper() + head[1:]
        return number + head + rest, len(head) - len(dropped)
