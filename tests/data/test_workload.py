"""Workloads: which records are fed in which order, and the way back to the records they came from."""

import hashlib
import io
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morocco_lib.data import workload
from morocco_lib.errors import UsageError
from morocco_lib.tasks import get_task

TERRA = get_task("terra")


def make_records(count: int, labelled: bool = True) -> list[dict]:
    """Records whose own idx have gaps and are in no order, as in official files that were sampled."""
    records = []
    for place in range(count):
        texts = {"premise": f"Премисса {place} " + "а" * (place % 50), "hypothesis": "Гипотеза\u2028."}
        label = {"label": TERRA.labels[place % 2]} if labelled else {}
        records.append({**texts, **label, "idx": place * 7919 % 10007})
    return records


def fed(load) -> list[dict]:
    return [json.loads(line) for line in load.lines()]


sizes = {"count": st.integers(1, 12), "size": st.integers(1, 60), "seed": st.integers(0, 2**32)}


@given(**sizes)
def test_each_pass_is_a_permutation(count, size, seed):
    load = workload.build(TERRA, make_records(count), size, seed)
    for start in range(0, size, count):
        one_pass = load.order[start : start + count]
        assert len(set(one_pass)) == len(one_pass)
        assert set(one_pass) <= set(range(count))
        if len(one_pass) == count:
            assert sorted(one_pass) == list(range(count))
    counts = Counter(load.order)
    assert len(load) == size and max(counts.values()) - min(counts.get(p, 0) for p in range(count)) <= 1


@given(**sizes)
def test_records_are_fed_with_fresh_idx_and_without_labels(count, size, seed):
    records = make_records(count)
    load = workload.build(TERRA, records, size, seed)
    stream = fed(load)
    assert [r["idx"] for r in stream] == list(range(size)) == list(load)
    for position, r in enumerate(stream):
        assert r == {**TERRA.strip_labels(records[load.order[position]]), "idx": position} == load[position]


@given(**sizes)
def test_answers_map_back_to_the_records_they_came_from(count, size, seed):
    records = make_records(count)
    load = workload.build(TERRA, records, size, seed)
    for r in fed(load):
        place, prediction = load.restore({"idx": r["idx"], "label": TERRA.labels[0]})
        assert records[place]["premise"] == r["premise"]
        assert prediction == {"idx": records[place]["idx"], "label": TERRA.labels[0]}


@settings(deadline=None)
@given(**sizes, labelled=st.booleans())
def test_a_description_maps_back_as_the_workload_did(count, size, seed, labelled):
    load = workload.build(TERRA, make_records(count, labelled), size, seed)
    description = json.loads(json.dumps(load.describe()))
    again = workload.from_description(TERRA, description)
    assert (again.order, again.seed, len(again), list(again)) == (load.order, seed, size, list(load))
    for position in range(size):
        prediction = {"idx": position, "label": TERRA.labels[1]}
        assert again.restore(prediction) == load.restore(prediction)
    gold = [TERRA.gold(r) for r in load.records]
    assert again.gold == (gold if labelled else None)


def test_a_description_counts_what_is_fed():
    load = workload.build(TERRA, make_records(40), 100, 3)
    description, lines = load.describe(), list(load.lines())
    assert (description["size"], description["distinct"], description["seed"]) == (100, 40, 3)
    assert description["bytes"] == sum(map(len, lines))
    histogram = description["line_bytes_histogram"]
    assert sum(bin["lines"] for bin in histogram) == 100
    for bin in histogram:
        assert bin["lines"] == sum(bin["from"] <= len(line) - len(b"\n") < bin["below"] for line in lines)


def test_the_order_rests_on_seed_and_pass_and_a_larger_size_continues_a_smaller_one():
    records = make_records(50)
    order, again, other = (workload.build(TERRA, records, 150, seed).order for seed in (1, 1, 2))
    assert order == again != other
    assert len({order[start : start + 50] for start in (0, 50, 100)}) == 3
    assert workload.build(TERRA, records, 80, 1).order == order[:80]


def test_in_order_feeds_every_record_once_in_its_own_order():
    records = make_records(15)
    load = workload.in_order(TERRA, records)
    assert load.order == tuple(range(15)) and load.seed is None
    assert [r["premise"] for r in fed(load)] == [r["premise"] for r in records]


def test_a_size_below_1_is_refused():
    with pytest.raises(UsageError, match="input size 0"):
        workload.build(TERRA, make_records(3), 0, 0)


@pytest.mark.parametrize("idx", [-1, 10, True, None, "x", "03", 3.0, float("nan"), float("inf"), [3]])
def test_an_idx_that_was_not_fed_is_no_place_in_the_stream(idx):
    load = workload.build(TERRA, make_records(4), 10, 0)
    assert load.position(idx) is None
    with pytest.raises(KeyError):
        load[idx] if idx.__hash__ else load[str(idx)]
    assert load.position(3) == 3 and 3 in load


def test_check_holds_answers_against_the_stream():
    load = workload.build(TERRA, make_records(4), 10, 0)
    lines = [f"{TERRA.format({'idx': i, 'label': TERRA.labels[0]})}\n".encode() for i in (*range(9), 10)]
    checked = TERRA.check(lines, load, "answers.jsonl")
    assert checked.counts == {"unknown-idx": 1, "missing-idx": 1}
    assert {(p.rule, p.idx) for p in checked.problems} == {("unknown-idx", 10), ("missing-idx", 9)}


@given(count=st.integers(1, 9), size=st.integers(1, 400))
def test_describing_writes_the_stream(count, size):
    load, out = workload.build(TERRA, make_records(count), size, 0), io.BytesIO()
    description = load.describe(out)
    assert out.getvalue() == b"".join(load.lines())
    assert description == load.describe()
    assert description["sha256"] == hashlib.sha256(out.getvalue()).hexdigest()


def test_lines_are_json_lines_in_utf8_ended_by_line_feeds_alone():
    raw = b"".join(workload.build(TERRA, make_records(9), 20, 0).lines())
    lines = raw.split(b"\n")
    assert lines.pop() == b"" and len(lines) == 20
    assert b"\r" not in raw and "Премисса".encode() in raw and "\u2028".encode() in raw
