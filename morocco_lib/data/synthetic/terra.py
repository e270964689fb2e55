"""Synthetic TERRa records: short news in Russian, and hypotheses that follow from them or do not.

A scene of terra.json is one piece of news: premises (each tells all its facts) and, by label, pairs of a kind and a
hypothesis. Russian inflects, so tables hold ready word forms and templates ask for the form by name: {city.loc} is
"в Казани", {thing.acc} "скрипку", {person.a} the ending of a past tense; {city2} is another city than {city}. Asides
repeat signal words of false hypotheses ("не", "никто", "отказались"), so that no single word decides.
"""

import random
from types import SimpleNamespace

from morocco_lib.data.synthetic._templates import AGREEMENT, NUMBERS, draw_flipped, draw_new, fill, load

SIZES = {"train": 1500, "val": 300, "test": 300}
LABELS = ("entailment", "not_entailment")
ENTAILMENT_SHARE = {"train": 0.52, "val": 0.5, "test": 0.5}  # TERRa's train split leans the same way


class Row(SimpleNamespace):
    """One row of a table: a word form for each column; the first column stands for the row itself."""

    def __str__(self) -> str:
        return next(iter(vars(self).values()))


def _rows(columns: list[str], rows: list[list[str]]) -> list[Row]:
    cells = [dict(zip(columns, row, strict=True)) for row in rows]
    return [Row(**forms, **AGREEMENT.get(forms.get("g", ""), {})) for forms in cells]  # column g is the gender


_DATA = load("terra")
TABLES = {name: _rows(**table) for name, table in _DATA["tables"].items()}
SCENES = _DATA["scenes"]


def draw_slots(rng: random.Random) -> dict[str, object]:
    """Return a filling for every slot: two different rows of each table, people, numbers.

    {n} is the true number, {low} is below it, {m} is another one.
    """
    slots = {}
    for name, rows in TABLES.items():
        slots[name], slots[name + "2"] = rng.sample(rows, 2)
    for name, first, last in (("person", slots["first"], slots["last"]), ("speaker", slots["first2"], slots["last2"])):
        slots[name] = Row(**{**vars(first), "nom": f"{first} {last}{first.a}"})
    at = rng.randrange(3, len(NUMBERS))
    slots.update(n=NUMBERS[at], low=NUMBERS[rng.randrange(at)], m=rng.choice(NUMBERS[:at] + NUMBERS[at + 1 :]))
    return {**slots, "part": rng.choice(("", "", " утром", " днем", " вечером"))}


def _csv_field(text: str) -> str:
    """Quote as the official files do, which were exported from CSV without undoing its quoting."""
    return '"' + text.replace('"', '""') + '"' if '"' in text else text


def _draw(rng: random.Random, true_label: str) -> tuple[str, str]:
    scene, slots, form = rng.choice(SCENES), draw_slots(rng), rng.random()
    premise = fill(rng.choice(scene["premises"]), slots)
    if form < 0.15 and '"' not in premise:
        premise = f'"{premise[:-1]}", - ' + "{said}{speaker.a} {post} {speaker}.".format(**slots)
    elif form < 0.5:
        premise += " " + fill(rng.choice(_DATA["asides"]), slots)
    hypothesis = fill(rng.choice(scene[true_label])[1], slots)
    return _csv_field(premise), _csv_field(hypothesis)


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, str]]:
    """Return records with their true labels; pairs of premise and hypothesis are distinct within the split.

    Limits: a tenth of the labels is wrong, so no honest classifier passes about 0.90 accuracy. The sentences come from
        a few templates whose wording reveals the label.
    """
    rng = random.Random(f"terra/{split}/{seed}")
    entailed = round(size * ENTAILMENT_SHARE[split])
    truth = [LABELS[0]] * entailed + [LABELS[1]] * (size - entailed)
    rng.shuffle(truth)
    flipped = draw_flipped(rng, truth, LABELS)
    records, seen = [], set()
    for idx, true_label in enumerate(truth):
        premise, hypothesis = draw_new(lambda label=true_label: _draw(rng, label), seen)
        label = LABELS[1 - LABELS.index(true_label)] if idx in flipped else true_label
        labelled = {} if split == "test" else {"label": label}
        records.append(({"premise": premise, "hypothesis": hypothesis, **labelled, "idx": idx}, true_label))
    return records
