"""Synthetic RUSSE records: two sentences with a homonym marked in each, and whether both marks have the same sense.

Every sentence holds its homonym twice, once in each sense: "Утром сосед потерял ключ от почтового ящика, а вечером
набрал воды из холодного ключа". Each pair of sentences comes with both labels, depending on which mentions are marked,
so the words of the sentences tell nothing and only the surroundings of the marks do. russe.json has phrases for each of
two senses of a word, with the homonym between asterisks; both senses come in the same case forms, so that the form does
not reveal the sense.
"""

import random
import re
from typing import NamedTuple

from morocco_lib.data.synthetic._templates import AGREEMENT, capital, draw_flipped, load

SIZES = {"train": 2000, "val": 400, "test": 400}

_DATA = load("russe")
_SUBJECTS = [(subject, gender) for gender, names in _DATA["subjects"].items() for subject in names]


class Sentence(NamedTuple):
    """A sentence and where its homonym stands in sense 1 and in sense 2: (start, end), end exclusive."""

    text: str
    spans: dict[int, tuple[int, int]]


def _draw_phrases(rng: random.Random, word: str) -> list[tuple[int, str]]:
    return [(sense, rng.choice(phrases)) for sense, phrases in enumerate(_DATA["words"][word], 1)]


def _draw_sentence(rng: random.Random, word: str) -> Sentence:
    phrases = _draw_phrases(rng, word)
    while len({phrase.split("*")[1] for _, phrase in phrases}) == 1:  # each form is to occur only once
        phrases = _draw_phrases(rng, word)
    rng.shuffle(phrases)
    (subject, gender), (early, late) = rng.choice(_SUBJECTS), rng.choice(_DATA["times"])
    marked = f"{early} {subject} {phrases[0][1]}, а {late} {phrases[1][1]}".format(**AGREEMENT[gender])
    text, spans = "", {}
    for number, piece in enumerate(marked.split("*")):
        if number % 2:
            spans[phrases[number // 2][0]] = (len(text), len(text) + len(piece))
        text += piece
    return Sentence(capital(text), spans)


def _record(split: str, idx: int, word: str, sentences: tuple, senses: tuple[int, int], label: bool) -> dict:
    """Return a record in the layout of the split's official file, its odd offsets included."""
    texts = [sentence.text for sentence in sentences]
    (start1, end1), (start2, end2) = (s.spans[sense] for s, sense in zip(sentences, senses, strict=True))
    if split == "test":  # the end is inclusive here, and short words are tied to the next one by no-break spaces
        texts = [re.sub(r"\b([вксуо]) ", "\\1\u00a0", text, flags=re.IGNORECASE) + "." for text in texts]
        words = {"word": word, "sentence1": texts[0], "sentence2": texts[1], "idx": idx}
        return {**words, "start2": start2, "end2": end2 - 1, "start1": start1, "end1": end1 - 1}
    record = {"idx": idx, "word": word, "sentence1": texts[0], "sentence2": texts[1]}
    record.update(start1=start1, end1=end1 + 1, start2=start2, end2=end2 + 1)  # one too many, as published
    # The senses agree with the published label, as everywhere in the official file: a flipped label has a wrong sense.
    return {**record, "label": label, "gold_sense1": senses[0], "gold_sense2": senses[0] if label else 3 - senses[0]}


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, bool]]:
    """Return records with their true labels; every pair of sentences occurs with both. Test has no senses.

    Limits: a tenth of the labels is wrong, so no honest classifier passes about 0.90 accuracy. There are only twelve
        words with a few phrases each.
    """
    rng = random.Random(f"russe/{split}/{seed}")
    drawn, seen = [], set()
    while len(drawn) < size:
        word = rng.choice(list(_DATA["words"]))
        sentences = (_draw_sentence(rng, word), _draw_sentence(rng, word))
        texts = frozenset(sentence.text for sentence in sentences)
        if len(texts) == 2 and texts not in seen:
            seen.add(texts)
            same, first = rng.choice((1, 2)), rng.choice((1, 2))
            drawn += [(word, sentences, (same, same)), (word, sentences, (first, 3 - first))]
    drawn = drawn[:size]
    rng.shuffle(drawn)
    truth = [senses[0] == senses[1] for *_, senses in drawn]
    flipped = draw_flipped(rng, truth, (True, False))
    return [
        (_record(split, idx, *drawn[idx], label=label != (idx in flipped)), label) for idx, label in enumerate(truth)
    ]
