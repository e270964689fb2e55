"""The input that tells whether a program caches: two kinds, equal but for this; and two real programs, probed."""

import json

import pytest
from cache_probe_runs import probe
from run_folders import TERRA

from morocco_lib import data
from morocco_lib.analysis import caching
from morocco_lib.analysis.predictions import read_answers
from morocco_lib.analysis.run_files import read_run
from morocco_lib.benchmark import cache_probe
from morocco_lib.data import synthetic
from morocco_lib.errors import UsageError
from morocco_lib.tasks import get_task, task_names

NONCE = "а б в"
TEXTS = {  # where each task's records have free text; (*, ...) stands for the place in a list
    "danetqa": {("question",), ("passage",)},
    "lidirus": {("sentence1",), ("sentence2",)},
    "muserc": {
        ("passage", "text"),
        ("passage", "questions", "*", "question"),
        ("passage", "questions", "*", "answers", "*", "text"),
    },
    "parus": {("premise",), ("choice1",), ("choice2",)},
    "rcb": {("premise",), ("hypothesis",)},
    "rucos": {("passage", "text"), ("qas", "*", "query")},
    "russe": {("sentence1",), ("sentence2",)},
    "rwsd": {("text",)},
    "terra": {("premise",), ("hypothesis",)},
}
every_task = pytest.mark.parametrize("name", task_names("Russian SuperGLUE"))


@pytest.fixture
def records(name, synthetic_data):
    """Labelled records of a task."""
    return data.read_split(synthetic_data, get_task(name), "val")[1]


@pytest.fixture
def official(name, real_data):
    root, task = real_data / "rsg", get_task(name)
    return task.read(root / "RuCoS/train_sample.jsonl" if name == "rucos" else data.find_split(root, task, "val"))


def leaves(value, path: tuple = ()):
    """Yield (path, value) of everything in a JSON value that is neither object nor array."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part, (*path, "*"))
    else:
        yield path, value


def texts_of(name: str, record: dict) -> list[str]:
    return [value for path, value in leaves(record) if path in TEXTS[name]]


def fed(load) -> list[dict]:
    return [json.loads(line) for line in load.lines()]


def kinds(task, records, size, seed=1, pair=1):
    """Return the streams of unique and of repeated texts."""
    loads = cache_probe.workloads(task, records, size, seed, pair)
    return loads["unique"], loads["repeated"]


# -- nonces --------------------------------------------------------------------------------------------------------
@every_task
def test_a_record_with_a_nonce_says_the_same_of_the_same_words(name, records, official):
    task = get_task(name)
    records = [*records[:100], *official[:200]]
    changed = [task.with_nonce(record, NONCE) for record in records]
    assert [task.gold(record) for record in changed] == [task.gold(record) for record in records]
    assert task.unaligned(changed) == task.unaligned(records)
    for before, after in zip(records, changed, strict=True):
        task.validate(after)
        assert texts_of(name, after) == [f"{NONCE} {text}" for text in texts_of(name, before)]
        for (path, old), (same_path, new) in zip(leaves(before), leaves(after), strict=True):
            assert path == same_path and type(new) is type(old)
            assert new == old or path in TEXTS[name] or type(old) is int, path
        if name == "rucos":
            assert task.entities(after) == task.entities(before)
        if name in ("russe", "rwsd"):
            fields = ("sentence1", "sentence2") if name == "russe" else ("text", "text")
            for field, old, new in zip(fields, task.word_spans(before), task.word_spans(after), strict=True):
                assert new == (old and tuple(place + len(NONCE) + 1 for place in old))
                assert old is None or after[field][new.start : new.end] == before[field][old.start : old.end]


# -- what is fed ---------------------------------------------------------------------------------------------------
@every_task
def test_both_kinds_are_equal_but_for_their_nonces(name, records, tmp_path):
    task, size = get_task(name), 80
    unique, repeated = kinds(task, records, size)
    lines = [[line.decode() for line in load.lines()] for load in (unique, repeated)]
    assert [len(kind) for kind in lines] == [size, size]
    for ours, theirs in zip(*lines, strict=True):
        assert len(ours) == len(theirs) and len(ours.encode()) == len(theirs.encode())
        old, new = (texts_of(name, json.loads(line))[0][: 2 * cache_probe.NONCE_LETTERS] for line in (ours, theirs))
        assert ours != theirs and ours.replace(old, new) == theirs
    for load in (unique, repeated):
        path = tmp_path / "records.jsonl"
        path.write_bytes(b"".join(load.lines()))
        read = task.read(path)
        assert [task.key(record) for record in read] == list(load)
        assert all(task.gold(record) is None for record in read)
        assert [task.strip_labels(record) for record in read] == read
        assert load.describe()["gold"] is None


@every_task
def test_unique_texts_never_come_twice_and_repeated_ones_do(name, records):
    task, size = get_task(name), 80
    unique, repeated = ([set(texts_of(name, r)) for r in fed(load)] for load in kinds(task, records, size))
    assert len(set().union(*unique)) == sum(map(len, unique))
    assert len({frozenset(texts) for texts in repeated}) == cache_probe.DISTINCT
    assert set().union(*unique).isdisjoint(set().union(*repeated))


def test_batches_of_four_hold_a_repeated_text_twice():
    _, repeated = kinds(TERRA, synthetic.records("terra", "val", 60, 1), 400)
    twice = [len(set(repeated.order[k : k + 4])) < 4 for k in range(0, 400, 4)]
    assert sum(twice) > 80


def test_the_same_seed_and_pair_give_the_same_bytes():
    def lines(seed, pair):
        return [list(load.lines()) for load in kinds(TERRA, synthetic.records("terra", "val", 60, 1), 50, seed, pair)]

    first, second, other = lines(1, 1), lines(1, 2), lines(2, 1)
    assert first == lines(1, 1)
    assert set(first[0]).isdisjoint(second[0]) and first[1] == second[1]
    assert [len(line) for line in first[0]] == [len(line) for line in second[0]]
    assert set(first[0]).isdisjoint(other[0]) and set(first[1]).isdisjoint(other[1])


def test_no_nonce_is_in_two_pairs():
    nonces = [cache_probe._nonces(1, pair, 400) for pair in range(len(cache_probe.LETTERS))]
    assert len({nonce for pair in nonces for nonce in pair}) == 400 * len(cache_probe.LETTERS)
    assert {len(nonce) for pair in nonces for nonce in pair} == {2 * cache_probe.NONCE_LETTERS - 1}


def test_the_records_taken_are_short_and_long():
    records = [{"premise": "а" * n, "hypothesis": "б", "idx": n} for n in range(1, 101)]
    unique, _ = kinds(TERRA, records, 200)
    found = {(record["premise"].count("а") - 1) // 25 for record in fed(unique)}
    assert len(found) == cache_probe.DISTINCT


def test_one_record_alone_can_be_fed():
    unique, repeated = kinds(TERRA, synthetic.records("terra", "val", 1, 1), 9)
    assert len({r["premise"] for r in fed(unique)}) == 9 and len({r["premise"] for r in fed(repeated)}) == 1


@pytest.mark.parametrize(("size", "pair"), [(0, 1), (5, 0), (5, len(cache_probe.LETTERS))])
def test_sizes_and_pairs_that_there_are_not_are_refused(size, pair):
    with pytest.raises(UsageError, match="at least one record is fed"):
        cache_probe.workloads(TERRA, synthetic.records("terra", "val", 5, 1), size, 1, pair)


@pytest.mark.parametrize(
    ("per_s", "batch_size", "most", "size"),
    [(800.4, 8, 2000, 801), (30.0, 8, 2000, 80), (9e5, 32, 2000, 2000), (1.0, 32, 100, 100), (None, 8, 2000, 2000)],
)
def test_a_run_has_a_seconds_work_ten_batches_or_all(per_s, batch_size, most, size):
    assert cache_probe.size_for(per_s, batch_size, most) == size


def test_where_only_whole_runs_tell_the_work_is_longer_than_the_first_use():
    assert cache_probe.size_for(100.0, 8, 5000, first_use_s=3.0) == 600
    assert cache_probe.size_for(100.0, 8, 5000, first_use_s=0.1) == 100


def test_every_second_pair_is_run_in_the_other_order():
    records = synthetic.records("terra", "val", 5, 1)
    orders = [list(cache_probe.workloads(TERRA, records, 8, 1, pair)) for pair in (1, 2, 3)]
    assert orders == [["unique", "repeated"], ["repeated", "unique"], ["unique", "repeated"]]


# -- real programs -------------------------------------------------------------------------------------------------
def test_an_honest_program_is_not_accused(tmp_path):
    unique, repeated = probe(tmp_path, "--sort", "--rounds", 3, size=120)
    assert not caching.judge(unique, repeated)["fires"]
    for folder in (*unique, *repeated):
        answers = read_answers(read_run(folder))
        assert answers.checked.ok and len(answers.load) == 120
        assert answers.repeated == (0 if folder in unique else 120 - cache_probe.DISTINCT)


def test_a_program_that_keeps_answers_is_found(tmp_path):
    result = caching.judge(*probe(tmp_path, "--keep", "text", "--rounds", 40, size=80))
    assert result["fires"] is True and result["value"] > 1.5  # CACHED_ANSWERS
