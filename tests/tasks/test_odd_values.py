"""A record or an answer with any value anywhere is refused in words, or used by all that reads it."""

import json
from copy import deepcopy

import pytest

from morocco_lib.data import synthetic, workload
from morocco_lib.errors import UsageError
from morocco_lib.models import model_class
from morocco_lib.tasks import get_task, task_names

ODD = [None, 0, 1, -1, 1.5, 1e308, 10**20, True, False, "", "x", "0", "\0", [], [[]], [None], ["a"], {}, {"a": 1}]


def paths(value, path=()):
    """Every place in a JSON value; of a list the first two."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, one in inside:
        yield from paths(one, (*path, key))


def variants(value):
    """The value with each odd one in each place, and without each key."""
    for path in list(paths(value))[1:]:
        *outer, last = path
        for odd in [*ODD, ...]:
            changed = place = deepcopy(value)
            for key in outer:
                place = place[key]
            if odd is not ...:
                place[last] = odd
            elif isinstance(place, dict):
                del place[last]
            yield changed


def use(task, records):
    """Whatever reads records reads these."""
    gold = [task.gold(record) for record in records]
    for record in records:
        task.parts(record)
    task.unaligned(records), list(workload.build(task, records, 20, 1).lines())
    if None not in gold:
        [task.targets(record) for record in records]
        for kind in ("majority", "tfidf"):
            answers = model_class(kind).fit(task, records, 1).answer([task.strip_labels(record) for record in records])
            task.score(gold, answers)


@pytest.fixture(params=task_names())
def few(request):
    """A task and six of its records."""
    task = get_task(request.param)
    return task, synthetic.records(task.name, next(iter(synthetic.generator(task.name).SIZES)), 6, 1)


def test_records(few, tmp_path):
    task, (first, *others) = few
    path, refused = tmp_path / "records.jsonl", 0
    for changed in variants(first):
        path.write_text("".join(json.dumps(record) + "\n" for record in (changed, *others)))
        try:
            records = task.read(path)
        except UsageError as error:
            assert "line 1: " in str(error) or "line 2: idx" in str(error)
            refused += 1
        else:
            use(task, records)
    assert refused > 20


def test_answers(few):
    task, records = few
    first, *others = model_class("majority").fit(task, records, 1).answer(records)
    by_idx, gold = {task.key(record): record for record in records}, [task.gold(record) for record in records]
    refused = 0
    for changed in variants(first):
        lines = [json.dumps(answer).encode() + b"\n" for answer in (changed, *others)]
        checked = task.check(lines, by_idx, "answers")
        if checked.ok:
            task.score(gold, [checked.predictions[task.key(record)] for record in records])
        else:
            assert checked.problems
            refused += 1
    assert refused > 20
