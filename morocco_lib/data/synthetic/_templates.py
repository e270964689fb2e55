"""What the generators share: data files, sentences from templates, distinct draws, labels of which a tenth is wrong."""

import json
import random
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

NOISE_SHARE = 0.1  # of the labels in labelled splits
# Numbers that take the genitive plural in Russian: not 21, 22, 31, 32, ... ("21 день", "22 дня").
NUMBERS = [n for n in range(5, 61) if n <= 20 or n % 10 not in (1, 2, 3, 4)]


def load(name: str) -> Any:
    """Return the content of a data file beside the generators: JSON, since YAML of this size takes 0.3 s to parse."""
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))


# Gender (m, f, n, and p for the plural) -> slot -> ending or word: {a} is the ending of a past tense, {he} a pronoun.
AGREEMENT: dict[str, dict[str, str]] = load("_agreement")


def capital(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[0].upper() + text[1:]


def fill(template: str, slots: Mapping[str, Any]) -> str:
    """Return the template with its slots filled and every sentence capitalised."""
    return re.sub(r'(?:^|[.!?] )"?[а-я]', lambda start: start.group().upper(), template.format(**slots))


def draw_new(draw: Callable[[], Hashable], seen: set) -> Any:
    """Call `draw` until it returns something that is not in `seen`; add that to `seen` and return it."""
    while (drawn := draw()) in seen:
        pass
    seen.add(drawn)
    return drawn


def draw_labels(rng: random.Random, counts: Mapping[Hashable, int]) -> list[tuple]:
    """Return shuffled pairs (true label, published label); wrong ones are spread evenly over the classes.

    Args:
        counts: True label -> number of records.
    """
    labels, pairs = list(counts), []
    wrong = round(sum(counts.values()) * NOISE_SHARE)
    for place, label in enumerate(labels):
        others = [other for other in labels if other != label]
        flips = wrong // len(labels) + (place < wrong % len(labels))
        pairs += [(label, rng.choice(others) if at < flips else label) for at in range(counts[label])]
    rng.shuffle(pairs)
    return pairs


def draw_flipped(rng: random.Random, truth: Sequence, labels: tuple[Any, Any]) -> set[int]:
    """Return the indices whose label of two is published wrong, half of them from each class to keep the balance."""
    flipped, flips = set(), round(len(truth) * NOISE_SHARE)
    for label, count in zip(labels, (flips // 2, flips - flips // 2), strict=True):
        flipped.update(rng.sample([idx for idx, true_label in enumerate(truth) if true_label == label], count))
    return flipped
