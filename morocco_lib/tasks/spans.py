"""Finding the words that annotations mean, where their offsets miss."""

import re
from typing import NamedTuple

WORD = re.compile(r"\w+(?:[-’'\u0301]\w+)*")


class Span(NamedTuple):
    """Characters start..end (exclusive) of a text."""

    start: int
    end: int


def word_at(text: str, place: int) -> Span | None:
    """Return the word that covers a character, else the first word that starts within three characters after it."""
    for match in WORD.finditer(text):
        if match.end() > place:
            return Span(match.start(), match.end()) if match.start() <= place + 3 else None
    return None


def is_form_of(form: str, lemma: str) -> bool:
    """Tell whether a Russian word may be a form of a lemma: they share a stem, as far as spelling shows.

    Limits: suppletive forms (человек, люди) are not recognised.
    """
    form, lemma = (word.lower().replace("ё", "е").replace("\u0301", "") for word in (form, lemma))
    shared = len(_common_prefix(form, lemma))
    return shared >= min(len(lemma), max(2, len(lemma) - 3)) or shared >= len(form) - 3 >= 2


def _common_prefix(a: str, b: str) -> str:
    size = 0
    while size < min(len(a), len(b)) and a[size] == b[size]:
        size += 1
    return a[:size]


def words_at(text: str, index: int, count: int) -> Span | None:
    """Return `count` whitespace-separated words from the index-th on; None beyond the text."""
    words = list(re.finditer(r"\S+", text))
    if not 0 <= index < len(words):
        return None
    return Span(words[index].start(), words[min(index + count, len(words)) - 1].end())
