"""The probe for kept answers: two equal kinds of input, programs that remember and programs that do not."""

import json
import math
import random
from pathlib import Path

import pytest
from scipy import stats
from servers import server

from morocco_lib import data
from morocco_lib.analysis import caching
from morocco_lib.analysis.predictions import read_answers
from morocco_lib.analysis.validity import cached_reasons
from morocco_lib.benchmark import cache_probe
from morocco_lib.benchmark.run import RunSeries
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.data import synthetic
from morocco_lib.errors import UsageError
from morocco_lib.reasons import Reason, verdict
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.process import ProcessRunner
from morocco_lib.tasks import get_task, task_names

TERRA = get_task("terra")
TAG = "а б в"
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


@pytest.fixture(params=["synthetic", "real"])
def records(request, name):
    """Labelled records of a task."""
    task = get_task(name)
    if request.param == "synthetic":
        return data.read_split(request.getfixturevalue("synthetic_data"), task, "val")[1]
    root = request.getfixturevalue("real_data") / "rsg"
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


# -- tags ----------------------------------------------------------------------------------------------------------
@every_task
def test_a_tagged_record_says_the_same_of_the_same_words(name, records):
    task = get_task(name)
    tagged = [task.with_nonce(record, TAG) for record in records]
    assert [task.gold(record) for record in tagged] == [task.gold(record) for record in records]
    assert task.unaligned(tagged) == task.unaligned(records)
    for before, after in zip(records, tagged, strict=True):
        task.validate(after)
        assert texts_of(name, after) == [f"{TAG} {text}" for text in texts_of(name, before)]
        for (path, old), (same_path, new) in zip(leaves(before), leaves(after), strict=True):
            assert path == same_path and type(new) is type(old)
            assert new == old or path in TEXTS[name] or type(old) is int, path
        if name == "rucos":
            assert task.entities(after) == task.entities(before)
        if name in ("russe", "rwsd"):
            fields = ("sentence1", "sentence2") if name == "russe" else ("text", "text")
            for field, old, new in zip(fields, task.word_spans(before), task.word_spans(after), strict=True):
                assert new == (old and tuple(place + len(TAG) + 1 for place in old))
                assert old is None or after[field][new.start : new.end] == before[field][old.start : old.end]


# -- what is fed ---------------------------------------------------------------------------------------------------
@every_task
def test_both_kinds_are_equal_but_for_their_tags(name, records, tmp_path):
    task, size = get_task(name), 80
    unique, repeated = cache_probe.workloads(task, records, size, seed=1)
    lines = [[line.decode() for line in load.lines()] for load in (unique, repeated)]
    assert [len(kind) for kind in lines] == [size, size]
    for ours, theirs in zip(*lines, strict=True):
        assert len(ours) == len(theirs) and len(ours.encode()) == len(theirs.encode())
        old, new = (texts_of(name, json.loads(line))[0][: 2 * cache_probe.TAG_LETTERS] for line in (ours, theirs))
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
    unique, repeated = (
        [set(texts_of(name, r)) for r in fed(load)] for load in cache_probe.workloads(task, records, size, 1)
    )
    assert len(set().union(*unique)) == sum(map(len, unique))
    assert len({frozenset(texts) for texts in repeated}) == cache_probe.DISTINCT
    assert set().union(*unique).isdisjoint(set().union(*repeated))


def test_batches_of_four_hold_a_repeated_text_twice():
    _, repeated = cache_probe.workloads(TERRA, synthetic.records("terra", "val", 60, 1), 400, 1)
    twice = [len(set(repeated.order[k : k + 4])) < 4 for k in range(0, 400, 4)]
    assert sum(twice) > 80


def test_the_same_seed_and_pair_give_the_same_bytes():
    def lines(seed, pair):
        loads = cache_probe.workloads(TERRA, synthetic.records("terra", "val", 60, 1), 50, seed, pair)
        return [list(load.lines()) for load in loads]

    first, second, other = lines(1, 1), lines(1, 2), lines(2, 1)
    assert first == lines(1, 1)
    assert set(first[0]).isdisjoint(second[0]) and first[1] == second[1]
    assert [len(line) for line in first[0]] == [len(line) for line in second[0]]
    assert set(first[0]).isdisjoint(other[0]) and set(first[1]).isdisjoint(other[1])


def test_no_tag_is_in_two_pairs():
    tags = [cache_probe._tags(1, pair, 5000) for pair in range(len(cache_probe.LETTERS))]
    assert len({tag for pair in tags for tag in pair}) == 5000 * len(cache_probe.LETTERS)
    assert {len(tag) for pair in tags for tag in pair} == {2 * cache_probe.TAG_LETTERS - 1}


def test_the_records_taken_are_short_and_long():
    records = [{"premise": "а" * n, "hypothesis": "б", "idx": n} for n in range(1, 101)]
    unique, _ = cache_probe.workloads(TERRA, records, 200, 1)
    found = {(record["premise"].count("а") - 1) // 25 for record in fed(unique)}
    assert len(found) == cache_probe.DISTINCT


def test_one_record_alone_can_be_fed():
    unique, repeated = cache_probe.workloads(TERRA, synthetic.records("terra", "val", 1, 1), 9, 1)
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


def test_where_only_whole_runs_tell_the_work_is_longer_than_the_start_up():
    assert cache_probe.size_for(100.0, 8, 5000, init_s=3.0) == 600
    assert cache_probe.size_for(100.0, 8, 5000, init_s=0.1) == 100


def test_runs_come_in_turns():
    assert list(cache_probe.sequence()) == [
        *((1, "unique"), (1, "repeated"), (2, "repeated"), (2, "unique"), (3, "unique"), (3, "repeated"))
    ]


# -- the verdict ---------------------------------------------------------------------------------------------------
def test_the_ratio_has_students_interval_of_the_logs():
    unique, repeated = [100, 90, 110, 95], [120, 126, 115, 133]
    found = caching.compare(unique, repeated)
    logs = [math.log(r / u) for u, r in zip(unique, repeated, strict=True)]
    low, high = stats.t.interval(0.95, 3, loc=sum(logs) / 4, scale=stats.sem(logs))
    assert [math.log(found[k]) for k in ("value", "low", "high")] == pytest.approx([sum(logs) / 4, low, high])
    assert found["pairs"] == pytest.approx([1.2, 1.4, 115 / 110, 1.4])


def experiment(rng: random.Random, noise: float, drift: float, gain: float, held_up: float = 0.0) -> bool:
    """Return whether the probe fires on runs that vary by `noise`, on a machine that drifts by up to `drift` in all.

    A share `held_up` of the runs is half as fast.
    """
    slope, speeds = rng.uniform(-drift, drift), {"unique": [], "repeated": []}
    for place, (_, kind) in enumerate(cache_probe.sequence()):
        true = gain if kind == "repeated" else 1.0
        true *= 0.5 if rng.random() < held_up else 1.0
        speeds[kind].append(true * math.exp(slope * place / 5 + rng.gauss(0, noise)))
    return caching.compare(**{f"{kind}_per_s": of_kind for kind, of_kind in speeds.items()})["fires"]


@pytest.mark.parametrize("drift", [0.0, 0.1])
@pytest.mark.parametrize(("noise", "held_up"), [(0.01, 0.0), (0.03, 0.0), (0.05, 0.0), (0.15, 0.0), (0.03, 0.2)])
def test_honest_programs_are_accused_less_than_once_in_a_hundred(noise, held_up, drift):
    rng = random.Random(f"{noise}/{held_up}/{drift}")
    assert sum(experiment(rng, noise, drift, 1.0, held_up) for _ in range(2000)) <= 20


@pytest.mark.parametrize(("noise", "held_up"), [(0.01, 0.0), (0.03, 0.0), (0.05, 0.0), (0.15, 0.0), (0.03, 0.2)])
def test_a_cache_before_nine_tenths_of_the_work_is_found_in_99_of_100(noise, held_up):
    rng = random.Random(f"{noise}/{held_up}")
    gain = 1 / (0.1 + 0.9 * cache_probe.DISTINCT / 80)  # of 80 records only the first of each text is worked on
    assert sum(experiment(rng, noise, 0.1, gain, held_up) for _ in range(500)) >= 495


def test_one_run_that_was_held_up_does_not_hide_a_cache():
    found = caching.compare([1, 1, 1], [3, 16, 17])
    assert found["low"] < 1 and found["fires"] is True
    assert caching.compare([1, 1, 1], [1.2, 16, 17])["fires"] is False


def test_runs_must_come_in_three_pairs(tmp_path):
    with pytest.raises(UsageError, match="in pairs, at least 3"):
        caching.judge([tmp_path] * 3, [tmp_path] * 2)
    with pytest.raises(UsageError, match="in pairs, at least 3"):
        caching.judge([tmp_path] * 2, [tmp_path] * 2)


# -- real programs -------------------------------------------------------------------------------------------------
@pytest.fixture
def probe(synthetic_data, tmp_path, monkeypatch):
    """Run a program on three pairs and return the folders of the runs on unique and on repeated texts."""
    source, records = data.read_split(synthetic_data, TERRA, "val")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def measure(program, load, folder: Path) -> Path:
        folder.mkdir()
        with RunSeries(
            Target(program, ProcessRunner(), Limits(timeout_s=60)), load, source, folder, batch_size=8
        ) as measurement:
            return measurement.run(folder, "cached")

    def run(*options, size=400, pilot=False) -> tuple[list[Path], list[Path]]:
        program, made = Program(server("cached", *options), "cached"), {"unique": [], "repeated": []}
        if pilot:
            measure(program, cache_probe.workloads(TERRA, records, 40, 7)[1], tmp_path / "pilot")
        for pair, kind in cache_probe.sequence():
            load = dict(zip(made, cache_probe.workloads(TERRA, records, size, 7, pair), strict=True))[kind]
            made[kind].append(measure(program, load, tmp_path / f"{kind}-{pair}"))
        return made["unique"], made["repeated"]

    return run


HONEST = {
    "plain": ([], "stream"),
    "ready": (["--ready"], "stream"),
    "sorted": (["--sort"], "stream"),
    "one-by-one": (["--one-by-one"], "stream"),
    "unflushed": (["--unflushed"], "total"),
    "unflushed-ready": (["--unflushed", "--ready"], "ready"),
    "held-back": (["--held-back"], "total"),
    "held-back-ready": (["--held-back", "--ready"], "ready"),
}
KEEPING = {
    "text": (["--keep", "text", "--own-rounds", 200], "stream"),
    "text-ready": (["--keep", "text", "--ready"], None),
    "premise": (["--keep", "premise"], "stream"),
    "batch": (["--keep", "batch"], "stream"),
    "file": (["--keep", "file"], "stream"),
    "unflushed": (["--keep", "text", "--unflushed"], "total"),
    "held-back": (["--keep", "text", "--held-back"], "total"),
    "held-back-ready": (["--keep", "text", "--held-back", "--ready"], "ready"),
}


LONG = ("--rounds", 40)  # what is saved must be worth 50 ms a run on a fast machine too


def some_slow(cases: dict, quick: set[str]) -> list:
    return [
        pytest.param(*case, id=name, marks=() if name in quick else pytest.mark.slow) for name, case in cases.items()
    ]


@pytest.mark.parametrize(("options", "method"), some_slow(HONEST, {"plain", "held-back"}))
def test_an_honest_program_is_not_accused(probe, options, method):
    unique, repeated = probe(*options)
    found = caching.judge(unique, repeated)
    assert not found["fires"] and cached_reasons(found) == []
    if found.get("reason") == Reason.BUSY_MACHINE:
        pytest.skip("the machine was too busy to tell")
    if method == "total":
        assert found == {"value": None, "reason": Reason.NO_READINESS, "fires": None}
        known = caching.judge(unique, repeated, init_s=0.02)
        assert known["fires"] is False and known["method"] == "total"
        assert caching.judge(unique, repeated, init_s=60.0)["reason"] == Reason.NO_STREAM
    else:
        assert found["fires"] is False and found["method"] == method
        assert found["low"] <= found["value"] <= found["high"] and 0.5 < found["value"] < 2
    for folder in (*unique, *repeated):
        _, load, answers = read_answers(folder)
        assert answers.checked.ok and len(load) == 400
        assert answers.repeated == (0 if folder in unique else 400 - cache_probe.DISTINCT)


@pytest.mark.parametrize(("options", "method"), some_slow(KEEPING, {"text", "held-back"}))
def test_a_program_that_keeps_answers_is_found(probe, options, method):
    found = caching.judge(*probe(*LONG, *options))
    assert found["fires"] is True and found["value"] > 1.5
    assert method in (None, found["method"])
    assert cached_reasons(found) == [Reason.CACHED_ANSWERS] and verdict(cached_reasons(found)) == "INVALID"


@pytest.mark.slow
def test_answers_kept_for_later_runs_are_found_when_repeated_texts_were_fed_before(probe):
    assert caching.judge(*probe(*LONG, "--keep", "later", pilot=True))["fires"] is True


@pytest.mark.slow
def test_work_that_was_done_before_readiness_shows_in_whole_runs(probe):
    folders = probe(*LONG, "--keep", "text", "--late-ready")
    found = caching.judge(*folders, whole=True)
    assert found["fires"] is True and found["method"] == "total"
    assert caching.judge(*folders)["method"] != "total"


def test_on_a_busy_machine_cpu_time_must_bear_it_out(probe):
    unique, repeated = probe(*LONG, "--keep", "text", size=200)

    def tell(folders, **facts):
        for folder in folders:
            path = folder / "run.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | facts))

    others = json.loads((unique[0] / "run.json").read_text())["others"]
    tell([*unique, *repeated], others={**others, "cores": 0.5 * others["of_cores"]})
    assert caching.judge(unique, repeated)["fires"] is True
    tell([*unique, *repeated], cpu_s=1.0)
    assert caching.judge(unique, repeated) == {"value": None, "reason": Reason.BUSY_MACHINE, "fires": None}
    tell([*unique, *repeated], others={**others, "cores": 0.1 * others["of_cores"]})
    assert caching.judge(unique, repeated)["fires"] is True


@pytest.mark.real_load
def test_runs_of_few_records_accuse_nobody(probe):
    found = caching.judge(*probe("--keep", "text", "--ready", size=24))  # a hold-up is as long as their work
    assert not found["fires"] and found.get("reason") in (Reason.NO_STREAM, Reason.BUSY_MACHINE, None)


def test_invalid_runs_tell_nothing(probe):
    found = caching.judge(*probe("--keep", "text", "--break-answers", size=40))
    assert found == {"value": None, "reason": Reason.NO_VALID_RUN, "fires": None}
