"""Workloads: which records are fed in which order, and the way back to the records they came from."""

import hashlib
import io
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morocco_lib.data import synthetic, workload
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


def bare(record: dict) -> str:
    return json.dumps({key: value for key, value in record.items() if key != "idx"}, ensure_ascii=False)


@settings(deadline=None)
@given(**sizes, true=st.integers(0, 12) | st.none())
def test_no_text_is_fed_twice_and_the_file_is_fed_once(count, size, seed, true):
    records = make_records(count)
    true = true if true is None else min(true, count)
    load = workload.build(TERRA, records, size, seed, true)
    of_file = [place for position, place in enumerate(load.order) if load.is_true(position)]
    assert len(load) == size and len(of_file) == len(set(of_file)) == min(size, count if true is None else true)
    for field in ("premise", "hypothesis"):
        made = [record[field] for position, record in enumerate(fed(load)) if not load.is_true(position)]
        assert len({*made, *(record[field] for record in records)}) == len(made) + len({r[field] for r in records})
    assert load.describe()["distinct"] == len(of_file)


@settings(deadline=None)
@given(**sizes)
def test_records_are_fed_with_fresh_idx_and_without_labels(count, size, seed):
    records = make_records(count)
    load = workload.build(TERRA, records, size, seed)
    stream = fed(load)
    assert [r["idx"] for r in stream] == list(range(size)) == list(load)
    for position, r in enumerate(stream):
        assert r == load[position] and r.keys() == {"premise", "hypothesis", "idx"}
        if load.is_true(position):
            assert r == {**TERRA.strip_labels(records[load.order[position]]), "idx": position}


@settings(deadline=None)
@given(**sizes)
def test_answers_map_back_to_the_records_they_came_from(count, size, seed):
    records = make_records(count)
    load = workload.build(TERRA, records, size, seed)
    for r in fed(load):
        restored = load.restore({"idx": r["idx"], "label": TERRA.labels[0]})
        if not load.is_true(r["idx"]):
            assert restored is None
            continue
        place, prediction = restored
        assert records[place]["premise"] == r["premise"]
        assert prediction == {"idx": records[place]["idx"], "label": TERRA.labels[0]}


def test_records_that_are_made_keep_parts_and_lengths_and_are_spread_over_the_stream():
    records = synthetic.records("terra", "val", 100, 1)
    load = workload.build(TERRA, records, 2000, 1)
    true, made = ([r for p, r in enumerate(fed(load)) if load.is_true(p) is kind] for kind in (True, False))
    for field in ("premise", "hypothesis"):
        lengths = [sum(len(r[field].encode()) for r in kind) / len(kind) for kind in (true, made)]
        assert lengths[1] == pytest.approx(lengths[0], rel=0.15)
        ends = {r[field].split()[-1] for r in records}
        assert {r[field].split()[-1] for r in made} == ends  # what they end with is the file's, too
        capitals = [
            sum(next(filter(str.isalpha, r[field])).isupper() for r in kind) / len(kind) for kind in (true, made)
        ]
        assert capitals[1] == pytest.approx(capitals[0], abs=0.03) and capitals[0] > 0.9
    uses = Counter(place for p, place in enumerate(load.order) if not load.is_true(p))
    assert set(uses.values()) == {19}
    pairs = {(load.order[p], load.others[p]) for p in range(2000) if not load.is_true(p)}
    assert len(pairs) > 1500
    first = [p for p in range(2000) if load.is_true(p)]
    assert 800 < sum(first) / len(first) < 1200


def test_a_task_that_has_no_way_to_recombine_cycles_its_records(monkeypatch):
    monkeypatch.setattr(type(TERRA), "spans", 1)  # offsets that nobody would move
    load = workload.build(TERRA, make_records(7), 17, 3)
    assert [sorted(load.order[k : k + 7]) for k in (0, 7)] == [[*range(7)]] * 2
    assert len(set(load.order[14:])) == 3 and load.order[:7] != load.order[7:14] and all(map(load.is_true, range(17)))
    assert workload.opening_words(TERRA, make_records(7)) == []


def test_records_without_two_words_cannot_be_recombined():
    records = [{"premise": "а", "hypothesis": "а", "idx": k} for k in range(3)]
    assert workload.opening_words(TERRA, records) == [] and len(workload.opening_words(TERRA, make_records(1))) > 1
    assert sorted(workload.build(TERRA, records, 6, 1).order) == [0, 0, 1, 1, 2, 2]


@settings(deadline=None)
@given(**sizes, true=st.integers(0, 12))
def test_a_stream_is_rebuilt_from_its_records_and_its_description(count, size, seed, true):
    records = make_records(count)
    description = json.loads(json.dumps(workload.build(TERRA, records, size, seed, min(true, count)).describe()))
    assert json.loads(json.dumps(workload.rebuilt(TERRA, records, description))) == description
    others = [{**record, "hypothesis": f"{record['hypothesis']}!"} for record in records]
    assert json.loads(json.dumps(workload.rebuilt(TERRA, others, description))) != description
    in_order = json.loads(json.dumps(workload.in_order(TERRA, records).describe()))
    assert json.loads(json.dumps(workload.rebuilt(TERRA, records, in_order))) == in_order


@settings(deadline=None)
@given(**sizes, labelled=st.booleans())
def test_a_description_maps_back_as_the_workload_did(count, size, seed, labelled):
    load = workload.build(TERRA, make_records(count, labelled), size, seed)
    description = json.loads(json.dumps(load.describe()))
    again = workload.from_description(TERRA, description)
    assert (again.order, again.others, again.seed, list(again)) == (load.order, load.others, seed, list(load))
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


def test_all_that_is_drawn_rests_on_the_seed():
    records = make_records(50)
    lines, again, other = (list(workload.build(TERRA, records, 150, seed).lines()) for seed in (1, 1, 2))
    assert lines == again
    made = [
        {bare(json.loads(line)) for line in lines} - set(map(bare, map(TERRA.strip_labels, records)))
        for lines in (lines, other)
    ]
    assert [len(texts) for texts in made] == [100, 100] and made[0].isdisjoint(made[1])
    few = [workload.build(TERRA, records, 20, seed).order for seed in (1, 2)]
    assert set(few[0]) != set(few[1])


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


@settings(deadline=None)
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
