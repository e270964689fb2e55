"""Finding the words that annotations mean, where their offsets miss."""

import re
from itertools import takewhile
from typing import NamedTuple

WORD = re.compile(r"[\w\u0301]+")
COMPOUND = re.compile(r"[\w\u0301]+(?:[-’'][\w\u0301]+)*")
SOFT = re.compile(r"[аеёиоуыэюяйьъ\u0301]")  # come and go inside Russian stems: день, дня


class Span(NamedTuple):
    """Characters start..end (exclusive) of a text."""

    start: int
    end: int


def word_at(text: str, place: int, lemma: str) -> Span | None:
    """Return the word that covers a character, or the part of a compound that does, whichever may be a form of the lemma.

    A word that starts within three characters after the place serves too; None where no form of the lemma stands.
    """
    for pattern in (WORD, COMPOUND):
        for match in pattern.finditer(text):
            if match.end() > place:
                if match.start() <= place + 3 and is_form_of(match.group(), lemma):
                    return Span(match.start(), match.end())
                break
    return None


def is_form_of(form: str, lemma: str) -> bool:
    """Tell whether a Russian word may be a form of a lemma: they share a stem, as far as spelling shows.

    Limits: suppletive forms (человек, люди) are not recognised, short words may be taken for forms of another.
    """
    form, lemma = (word.lower().replace("ё", "е").replace("\u0301", "") for word in (form, lemma))
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(form, lemma, strict=False))))
    if shared >= min(len(lemma), max(2, len(lemma) - 3)) or shared >= len(form) - 3 >= 2:
        return True
    hard_form, hard_lemma = SOFT.sub("", form), SOFT.sub("", lemma)
    return len(hard_lemma) >= 2 and form[:1] == lemma[:1] and hard_form.startswith(hard_lemma)


def words_at(text: str, index: int, count: int) -> Span | None:
    """Return `count` whitespace-separated words from the index-th on; None beyond the text."""
    words = list(re.finditer(r"\S+", text))
    if not 0 <= index < len(words):
        return None
    return Span(words[index].start(), words[min(index + count, len(words)) - 1].end())


def bare(text: str) -> str:
    """Return the words of a text in lower case, without punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))
