"""Synthetic RuCoS records: a piece of news with its entities marked, and a query from which one entity was removed.

Each country, person or city of a text has one sentence of its own, and further mentions in other case forms. The query
paraphrases one of those sentences, so the answer is the entity of the sentence that matches the query. A fact of
rucos.json is the sentence of an entity, its query, and things {x} that fill both; forms stand in the order of `cases`.
"""

import random
import re

from morocco_lib.data.synthetic._templates import NOISE_SHARE, capital, load

SIZES = {"train": 400, "val": 100, "test": 100}

_DATA = load("rucos")
_CASES = _DATA["cases"]


def _draw_entities(rng: random.Random, kind: str, count: int) -> list[dict[str, str]]:
    """Return the case forms of different entities of a kind."""
    if kind != "person":
        rows = rng.sample(_DATA["places"][kind], count)
    else:
        names = zip(rng.sample(_DATA["first_names"], count), rng.sample(_DATA["last_names"], count), strict=True)
        endings = _DATA["last_name_endings"]
        rows = [[f"{form} {last}{end}" for form, end in zip(first, endings, strict=True)] for first, last in names]
    return [dict(zip(_CASES, row, strict=True)) for row in rows]


def _mark(template: str, number: int, forms: dict[str, str], thing: str = "") -> str:
    """Fill a template and mark its entity with the entity's number: "<2:Перми>"."""
    return capital(template.format(x=thing, **{case: f"<{number}:{form}>" for case, form in forms.items()}))


def _unmark(marked: str) -> tuple[str, list[tuple[int, dict]]]:
    """Return the text without marks, and every mention as (entity number, span) in the order of the text."""
    text, mentions = "", []
    for position, piece in enumerate(re.split("<(.*?)>", marked)):
        if position % 2:
            number, piece = piece.split(":")
            mentions.append((int(number), {"start": len(text), "end": len(text) + len(piece)}))
        text += piece
    return text, mentions


def _mentions(rng: random.Random, entities: list[tuple[str, dict]], templates: dict[str, list[str]]) -> list[str]:
    """Mention two of the entities, each in another template."""
    left = {kind: iter(rng.sample(lines, len(lines))) for kind, lines in templates.items()}
    numbers = rng.sample(range(len(entities)), 2)
    return [_mark(next(left[entities[number][0]]), number, entities[number][1]) for number in numbers]


def _draw(rng: random.Random) -> tuple[str, str, int]:
    """Return a marked text, a query, and the number of the entity that answers it."""
    entities = []  # kind, forms; two kinds, at least two entities each, so that the kind alone does not tell the answer
    for kind, count in zip(rng.sample(sorted(_DATA["facts"]), 2), (2, rng.choice((2, 3))), strict=True):
        entities += [(kind, forms) for forms in _draw_entities(rng, kind, count)]
    facts = {kind: iter(rng.sample(rows, len(rows))) for kind, rows in _DATA["facts"].items()}
    sentences, queries = [], []
    for number, (kind, forms) in enumerate(entities):
        sentence, query, things = next(facts[kind])
        thing = rng.choice(things)
        sentences.append(_mark(sentence, number, forms, thing) + ".")
        queries.append(query.format(x=thing) + ".")
    sentences += [line + "." for line in _mentions(rng, entities, _DATA["mentions"])]
    rng.shuffle(sentences)
    lines = [" ".join(sentences), *_mentions(rng, entities, _DATA["highlights"])]
    asked = rng.randrange(len(entities))
    return "\n@highlight\n".join(lines), queries[asked], asked


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, list[dict]]]:
    """Return passages with one query each, and the true answers (published ones may be mentions of a wrong entity).

    Limits: a tenth of the answers is a wrong entity. Finding one sentence is enough for every query, and the texts come
        from a few templates.
    """
    rng = random.Random(f"rucos/{split}/{seed}")
    flipped = set(rng.sample(range(size), round(size * NOISE_SHARE)))
    pairs = []
    for idx in range(size):
        marked, query, asked = _draw(rng)
        text, mentions = _unmark(marked)
        wrong = rng.choice(sorted({number for number, _ in mentions} - {asked}))
        truth, others = (
            [{**span, "text": text[span["start"] : span["end"]]} for number, span in mentions if number == entity]
            for entity in (asked, wrong)
        )
        answers = {} if split == "test" else {"answers": others if idx in flipped else truth}
        passage = {"text": text, "entities": [span for _, span in mentions]}
        qas = [{"query": query, **answers, "idx": idx}]
        pairs.append(({"idx": idx, "source": "Lenta", "passage": passage, "qas": qas}, truth))
    return pairs
