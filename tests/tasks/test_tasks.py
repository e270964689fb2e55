"""Tasks: reading official files, answers in submission form, and what `check` says of wrong ones."""

import gzip
import json
import random
import re
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morocco_lib import data
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.tasks import base, get_task, metrics, task_names
from morocco_lib.tasks.base import RULES, SHOWN_PROBLEMS, check_file, task_value

TERRA = get_task("terra")
LABELS = TERRA.labels
texts = st.text(max_size=40)


@st.composite
def terra_records(draw, min_size=1, max_size=12, labelled=True):
    """Distinct idx in any order, any text; every record has a label or none has."""
    places = draw(st.lists(st.integers(0, 10**9), min_size=min_size, max_size=max_size, unique=True))
    records = []
    for idx in places:
        record = {"premise": draw(texts), "hypothesis": draw(texts), "idx": idx}
        if labelled:
            record["label"] = draw(st.sampled_from(LABELS))
        records.append(record)
    return records


def record(idx=0, **changes) -> dict:
    return {"premise": "Дождь шёл весь день.", "hypothesis": "Было сухо.", "label": LABELS[1], "idx": idx, **changes}


def line_of(value) -> str:
    return json.dumps(value, ensure_ascii=False)


def write(path, *lines: str | bytes):
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def damage(zipped: bytes) -> bytes:
    """Return a gzip file whose packed part is no deflate stream."""
    damaged = zipped[:10] + b"\xff" * 20 + zipped[30:]
    with pytest.raises(zlib.error):
        gzip.decompress(damaged)
    return damaged


def by_idx(records) -> dict:
    return {r["idx"]: r for r in records}


def check(lines: list[bytes], records):
    return TERRA.check([line + b"\n" for line in lines], by_idx(records), "preds.jsonl")


def answer(idx, label=LABELS[0]) -> bytes:
    return TERRA.format({"idx": idx, "label": label}).encode()


# -- the registry --------------------------------------------------------------------------------------------------
def test_every_task_has_its_module_name_and_what_it_scores():
    assert "terra" in task_names()
    for name in task_names():
        task = get_task(name)
        assert task.name == name and task.title and task.metric_names


def test_an_unknown_task_is_refused_and_the_nearest_is_named():
    with pytest.raises(UsageError, match=r"no task 'tera'.*terra.*did you mean 'terra'\?"):
        get_task("tera")
    with pytest.raises(UsageError, match=r"no task 'base'"):
        get_task("base")


# -- reading -------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    records=terra_records(),
    bom=st.booleans(),
    end=st.sampled_from([b"\n", b"\r\n"]),
    last_end=st.booleans(),
    blanks=st.lists(st.sampled_from([b"", b"  ", b"\t"]), max_size=3),
    zipped=st.booleans(),
    ascii_only=st.booleans(),
)
def test_any_layout_of_the_same_records_reads_the_same(
    tmp_path_factory, records, bom, end, last_end, blanks, zipped, ascii_only
):
    lines = [json.dumps(r, ensure_ascii=ascii_only).encode() for r in records]
    for place, blank in enumerate(blanks):
        lines.insert(min(2 * place, len(lines)), blank)
    raw = (b"\xef\xbb\xbf" if bom else b"") + end.join(lines) + (end if last_end else b"")
    path = tmp_path_factory.getbasetemp() / f"layout.jsonl{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(raw, compresslevel=1) if zipped else raw)
    assert TERRA.read(path) == records


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\ufeff", "🙂"])
def test_only_a_line_feed_ends_a_line(tmp_path, odd):
    text = json.dumps(record(premise=f"до{odd}после"), ensure_ascii=False)
    assert [r["premise"] for r in TERRA.read(write(tmp_path / "a.jsonl", text, line_of(record(1))))] == [
        f"до{odd}после",
        record()["premise"],
    ]


@pytest.mark.parametrize(("split", "count"), [("train", 2087), ("val", 242), ("test", 2571)])
def test_official_files_are_read_whole(real_data, split, count):
    records = TERRA.read(real_data / "rsg" / "TERRa" / f"{split}.jsonl")
    assert len(records) == count
    assert [TERRA.gold(r) is None for r in records] == [split == "test"] * count
    assert all("\r" not in r["premise"] + r["hypothesis"] for r in records)


BROKEN_LINES = {
    "broken JSON": (b'{"premise": "a", "hypothesis"', r"broken JSON"),
    "an empty object": (b"{}", r"'premise' is absent"),
    "an array": (b'["a", "b"]', r"a JSON list, not an object"),
    "a number": (b"17", r"a JSON int, not an object"),
    "null": (b"null", r"a JSON NoneType, not an object"),
    "NaN": (b'{"premise": "a", "hypothesis": "b", "idx": NaN}', r"NaN is not JSON"),
    "Infinity": (b'{"premise": "a", "hypothesis": "b", "idx": -Infinity}', r"-Infinity is not JSON"),
    "another task's record": (line_of({"question": "Да?", "passage": "Нет.", "idx": 0}).encode(), r"'premise' is abs"),
    "a text that is no string": (line_of(record(7, hypothesis=["a"])).encode(), r"'hypothesis' is \[\"a\"\] \(list\)"),
    "a bool as idx": (line_of(record(True)).encode(), r"'idx' is true \(bool\)"),
    "a string as idx": (line_of(record("7")).encode(), r"'idx' is \"7\" \(str\)"),
    "a float as idx": (line_of(record(7.0)).encode(), r"'idx' is 7.0 \(float\)"),
    "no idx": (b'{"premise": "a", "hypothesis": "b"}', r"'idx' is absent"),
    "a wrong label": (line_of(record(7, label="Entailment")).encode(), r"'label' is \"Entailment\" \(str\)"),
    "a label that is null": (line_of(record(7, label=None)).encode(), r"'label' is null"),
    "a label that is a list": (line_of(record(7, label=[LABELS[0]])).encode(), r"'label' is \["),
    "a duplicate idx": (line_of(record(1)).encode(), r"idx 1 stood in line 1 already"),
    "bytes that are no UTF-8": ('{"premise": "Да"}'.encode("cp1251"), r"not UTF-8 \(byte 0xc4 at 13\)"),
    "half a character": (b'{"premise": "\\ud83d", "hypothesis": "b", "idx": 7}', r"half a character"),
    "nesting without end": (b'{"premise": ' + b"[" * 100_000, r"broken JSON"),
    "a number of 5,000 digits": (b'{"idx": ' + b"9" * 5000 + b"}", r"broken JSON"),
}


@pytest.mark.parametrize("kind", BROKEN_LINES)
def test_a_bad_record_is_refused_with_file_line_and_remedy(tmp_path, kind):
    raw, message = BROKEN_LINES[kind]
    path = write(tmp_path / "bad.jsonl", line_of(record(1)), "", line_of(record(2)), raw, line_of(record(3)))
    with pytest.raises(UsageError, match=rf"bad\.jsonl, line 4: .*{message}") as caught:
        TERRA.read(path)
    assert caught.value.rule or caught.value.remedy


WITHIN = [
    ("muserc", ("passage",), {"text": "a"}, "a MuSeRC passage has text (str) and questions (list)"),
    ("muserc", ("passage", "questions", 0, "answers"), None, "a MuSeRC question has question (str), answers (list)"),
    ("muserc", ("passage", "questions", 0, "answers", 0, "idx"), "0", "question and answer has an integer idx"),
    ("muserc", ("passage", "questions", 0, "answers", 0, "text"), 7, "an answer's 'text' is 7 (int); it is str"),
    ("muserc", ("passage", "questions", 0, "answers", 0, "label"), 2, "an answer's 'label' is 2 (int); it is 0 or 1"),
    ("parus", ("question",), "why", "'question' is \"why\" (str); it is cause or effect"),
    ("rucos", ("passage",), {"text": "a"}, "a RuCoS passage has text (str) and entities (list)"),
    ("rucos", ("passage", "entities"), [], "the passage has no entity to choose from"),
    ("rucos", ("passage", "entities", 0, "end"), 10**6, "does not lie in the text"),
    ("rucos", ("qas",), [], "a RuCoS record has one query (str) in qas"),
    ("rucos", ("qas", 0, "idx"), "0", "the query's 'idx' is \"0\" (str); it is int"),
    ("rucos", ("qas", 0, "answers"), {}, "the query's 'answers' is {} (dict); it is list"),
    ("rwsd", ("target", "span1_index"), "3", "target's 'span1_index' is \"3\" (str); it is int"),
]


@pytest.mark.parametrize(("name", "place", "value", "message"), WITHIN)
def test_what_is_wrong_within_a_record_is_named(synthetic_data, name, place, value, message):
    task = get_task(name)
    record = data.read_split(synthetic_data, task, "val")[1][0]
    task.validate(record)
    *path, last = place
    part = record
    for key in path:
        part = part[key]
    part[last] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        task.validate(record)


MOVED = [
    ("russe", ("start1",), 10**6),
    ("rwsd", ("target", "span1_index"), 10**6),
    ("rwsd", ("target", "span2_text"), "нет такого слова"),
    ("rucos", ("passage", "entities", 0), {"start": 0, "end": 1}),
]


@pytest.mark.parametrize(("name", "place", "value"), MOVED)
def test_a_span_that_is_not_where_the_record_says_is_counted(synthetic_data, name, place, value):
    task = get_task(name)
    records = data.read_split(synthetic_data, task, "val")[1][:20]
    assert task.unaligned(records[3:4]) == 0
    before = task.unaligned(records)  # some are not, as in the official files
    *path, last = place
    part = records[3]
    for key in path:
        part = part[key]
    part[last] = value
    if name == "rucos":
        records[3]["passage"]["text"] = " " + records[3]["passage"]["text"][1:]
    assert task.unaligned(records) == before + 1


def test_escaped_surrogate_pairs_are_whole_characters(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps(record(premise="🙂"), ensure_ascii=True))
    assert TERRA.read(path)[0]["premise"] == "🙂"


def test_what_is_no_readable_file_is_refused_by_name(tmp_path):
    whole = gzip.compress(b"".join(line_of(record(i)).encode() + b"\n" for i in range(2000)))
    files = {
        "missing.jsonl": None,
        "binary.jsonl": bytes(range(256)) * 20,
        "utf16.jsonl": line_of(record()).encode("utf-16"),
        "empty.jsonl": b"",
        "blank.jsonl": b"\n\r\n  \n",
        "cut.jsonl.gz": whole[: len(whole) // 2],
        "damaged.jsonl.gz": damage(whole),
        "plain.jsonl.gz": line_of(record()).encode(),
    }
    for name, raw in files.items():
        if raw is not None:
            (tmp_path / name).write_bytes(raw)
        with pytest.raises(UsageError, match=name.replace(".", r"\.")) as caught:
            TERRA.read(tmp_path / name)
        assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="directory"):
        TERRA.read(tmp_path)


# -- one record's way there and back -------------------------------------------------------------------------------
@given(terra_records())
def test_stripped_records_hold_no_label_and_nothing_else_is_lost(records):
    for r in records:
        stripped = TERRA.strip_labels(r)
        assert "label" not in stripped
        assert {**stripped, "label": r["label"]} == r
        assert TERRA.gold(stripped) is None


@given(terra_records())
def test_stripping_reindexing_and_restoring_leave_the_original_alone(records):
    before = json.dumps(records)
    for position, r in enumerate(records):
        fed = TERRA.reindex(TERRA.strip_labels(r), position)
        assert fed["idx"] == position
        TERRA.validate(fed)
        assert TERRA.restore({"idx": position, "label": r["label"]}, r) == TERRA.gold(r)
    assert json.dumps(records) == before


@given(st.integers(-(10**12), 10**12), st.sampled_from(LABELS))
def test_format_and_parse_are_inverse(idx, label):
    prediction = {"idx": idx, "label": label}
    line = TERRA.format(prediction)
    assert TERRA.parse(line.encode()) == prediction
    assert "\n" not in line and list(json.loads(line)) == ["idx", "label"]


# -- scoring -------------------------------------------------------------------------------------------------------
@given(terra_records())
def test_gold_scores_1_against_itself(records):
    gold = [TERRA.gold(r) for r in records]
    scores = TERRA.score(gold, gold)
    assert tuple(scores) == TERRA.metric_names
    assert scores == {"accuracy": 1.0} and task_value(TERRA, scores) == 1.0


@given(terra_records(min_size=2), st.randoms(use_true_random=False))
def test_the_order_of_lines_changes_nothing(records, rng):
    predictions = [{"idx": r["idx"], "label": rng.choice(LABELS)} for r in records]
    gold = [TERRA.gold(r) for r in records]
    shuffled = rng.sample(predictions, len(predictions))
    checked = check([TERRA.format(p).encode() for p in shuffled], records)
    assert checked.ok and checked.predictions == by_idx(predictions)
    assert TERRA.score(gold, [checked.predictions[g["idx"]] for g in gold]) == TERRA.score(gold, predictions)


@given(terra_records(), st.randoms(use_true_random=False))
def test_accuracy_is_the_share_of_equal_labels(records, rng):
    gold = [TERRA.gold(r) for r in records]
    wrong = {g["idx"] for g in gold if rng.random() < 0.5}
    other = dict(zip(LABELS, reversed(LABELS), strict=True))
    predictions = [{**g, "label": other[g["label"]]} if g["idx"] in wrong else g for g in gold]
    assert TERRA.score(gold, predictions)["accuracy"] == pytest.approx(1 - len(wrong) / len(gold))


def test_majority_is_the_most_frequent_label_and_ties_go_to_the_first():
    gold = [{"idx": i, "label": label} for i, label in enumerate([LABELS[1], LABELS[1], LABELS[0]])]
    assert TERRA.majority(gold) == {"label": LABELS[1]}
    assert TERRA.majority(gold[1:]) == {"label": LABELS[0]}


def test_a_score_of_no_records_is_refused():
    with pytest.raises(ValueError, match="no records"):
        TERRA.score([], [])


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # n = 1 by hand: with z^2 = 3.8415 all of it is z^2 / (1 + z^2)
        (0, 1, 0.0000, 0.7935),
        (1, 1, 0.2065, 1.0000),
        # p = 1/2 by hand: 0.5 -+ z / (2 sqrt(n + z^2))
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_wilson_interval_has_the_published_values(successes, n, low, high):
    interval = metrics.wilson_interval(successes, n)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_mirrors(case):
    successes, n = case
    low, high, _ = metrics.wilson_interval(successes, n)
    assert 0 <= low <= successes / n + 1e-12 and successes / n - 1e-12 <= high <= 1
    mirrored = metrics.wilson_interval(n - successes, n)
    assert (low, high) == (pytest.approx(1 - mirrored.high), pytest.approx(1 - mirrored.low))


def test_wilson_interval_covers_95_percent():
    rng, shares, covered, trials = random.Random(0), (0.55, 0.8), 0, 2000
    for trial in range(trials):
        share = shares[trial % 2]
        low, high, _ = metrics.wilson_interval(sum(rng.random() < share for _ in range(242)), 242)
        covered += low <= share <= high
    assert 0.935 <= covered / trials <= 0.965


def test_the_interval_of_a_task_is_that_of_its_accuracy():
    gold = [{"idx": i, "label": LABELS[0]} for i in range(100)]
    predictions = [{"idx": i, "label": LABELS[i % 2]} for i in range(100)]
    assert TERRA.interval(gold, predictions) == metrics.wilson_interval(50, 100)


# -- checking ------------------------------------------------------------------------------------------------------
def faulty(kind: str, idx: int) -> tuple[list[bytes], list[tuple[int, str, bool]]]:
    """Return the lines a fault leaves for a record, and what is to be found: (place among them, rule, idx is named)."""
    good = answer(idx)
    return {
        "none": ([good], []),
        "missing": ([], []),
        "duplicate": ([good, good], [(1, "duplicate-idx", True)]),
        "unknown": ([good, answer(idx + 10**9)], []),  # found by its own idx, see below
        "string idx": ([line_of({"idx": str(idx), "label": LABELS[0]}).encode()], [(0, "idx", False)]),
        "bool idx": ([line_of({"idx": bool(idx % 2), "label": LABELS[0]}).encode()], [(0, "idx", False)]),
        "float idx": ([line_of({"idx": float(idx), "label": LABELS[0]}).encode()], [(0, "idx", False)]),
        "no idx": ([line_of({"label": LABELS[0]}).encode()], [(0, "idx", False)]),
        "wrong label": ([answer(idx, "neutral")], [(0, "label", True)]),
        "label of another type": ([line_of({"idx": idx, "label": True}).encode()], [(0, "label", True)]),
        "label in a list": ([line_of({"idx": idx, "label": [LABELS[0]]}).encode()], [(0, "label", True)]),
        "no label": ([line_of({"idx": idx}).encode()], [(0, "label", True)]),
        "broken line": ([good[:-3]], [(0, "broken-line", False)]),
        "two objects": ([good + b" " + good], [(0, "broken-line", False)]),
        "empty line": ([b"", good], [(0, "broken-line", False)]),
        "NaN": ([b'{"idx": %d, "label": NaN}' % idx], [(0, "broken-line", False)]),
        "not UTF-8": ([b'{"idx": %d, "label": "\xe4\xe0"}' % idx], [(0, "broken-line", False)]),
        "array": ([b"[%d]" % idx], [(0, "broken-line", False)]),
    }[kind]


UNANSWERED = {
    "missing", "string idx", "bool idx", "float idx", "no idx", "broken line", "two objects", "NaN", "not UTF-8",
    "array",
}  # fmt: skip
KINDS = [
    "none", "missing", "duplicate", "unknown", "string idx", "bool idx", "float idx", "no idx", "wrong label",
    "label of another type", "label in a list", "no label", "broken line", "two objects", "empty line", "NaN",
    "not UTF-8", "array",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=19), st.randoms(use_true_random=False))
def test_check_finds_exactly_the_planted_faults(kinds, rng):
    records = [record(idx) for idx in rng.sample(range(1000), len(kinds))]
    lines, expected = [], set()
    for kind, r in rng.sample(list(zip(kinds, records, strict=True)), len(kinds)):
        own, found = faulty(kind, r["idx"])
        first = len(lines) + 1
        lines += own
        expected |= {(rule, first + place, r["idx"] if named else None) for place, rule, named in found}
        if kind == "unknown":
            expected.add(("unknown-idx", first + 1, r["idx"] + 10**9))
        if kind in UNANSWERED:
            expected.add(("missing-idx", None, r["idx"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "SHOWN_PROBLEMS", len(kinds) * 2)  # show all
        checked = check(lines, records)
    assert {(p.rule, p.line, p.idx) for p in checked.problems} == expected
    assert checked.counts.total() == len(checked.problems) == len(expected)
    assert checked.ok == (not expected)
    assert (checked.read, checked.expected) == (len(lines), len(records))
    for problem in checked.problems:
        text = str(problem)
        assert text.startswith("preds.jsonl") and problem.remedy and problem.seen
        assert all(part in text for part in (problem.rule, problem.seen, RULES[problem.rule], problem.remedy))
        assert problem.line is None or f"line {problem.line}" in text
        assert problem.idx is None or f"idx {problem.idx}" in text
        assert text in str(checked.error())


@pytest.mark.parametrize("kind", KINDS[1:])
def test_each_kind_of_fault_alone_makes_predictions_invalid(kind):
    records = [record(idx) for idx in range(3)]
    lines = [answer(0), *faulty(kind, 1)[0], answer(2)]
    checked = check(lines, records)
    assert not checked.ok
    assert isinstance(checked.error(), InvalidResult) and checked.error().exit_code == 1


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_predictions_with_crlf_bom_or_no_last_line_end_are_fine(tmp_path, end, bom):
    records = [record(idx) for idx in (3, 1, 2)]
    raw = bom + (end or b"\n").join(answer(r["idx"]) for r in records) + end
    for path, content in ((tmp_path / "p.jsonl", raw), (tmp_path / "p.jsonl.gz", gzip.compress(raw))):
        path.write_bytes(content)
        checked = check_file(TERRA, path, records)
        assert checked.ok, checked.error()
        assert list(checked.predictions) == [3, 1, 2]


def test_further_keys_in_a_prediction_do_not_enter_it():
    checked = check([b'{"idx": 0, "label": "entailment", "probability": 0.7}'], [record(0)])
    assert checked.ok and checked.predictions == {0: {"idx": 0, "label": "entailment"}}


def test_predictions_that_cannot_be_read_are_refused_by_name(tmp_path):
    whole = gzip.compress(b"".join(answer(i) + b"\n" for i in range(20_000)))
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "damaged.gz").write_bytes(damage(whole))
    for name in ("missing.jsonl", "cut.gz", "damaged.gz", "."):
        with pytest.raises(UsageError, match="cannot read"):
            check_file(TERRA, tmp_path / name, [record(0)])


def test_100000_bad_lines_do_not_flood():
    size = 100_000
    records = {idx: record(idx) for idx in range(size)}
    lines = (line for idx in range(size // 2) for line in (b"oops\n", answer(idx, "maybe") + b"\n"))
    began = time.process_time()
    checked = TERRA.check(lines, records, "preds.jsonl")
    assert time.process_time() - began < 20
    assert checked.read == size
    assert checked.counts == {"broken-line": size // 2, "label": size // 2, "missing-idx": size // 2}
    for rule in checked.counts:
        assert sum(p.rule == rule for p in checked.problems) == SHOWN_PROBLEMS <= 20
    text = str(checked.error())
    assert len(text) < 20_000 and text.endswith(f"... and {3 * (size // 2 - SHOWN_PROBLEMS)} more")
    assert f"read {size} predictions for {size} records: {size // 2} x broken-line" in text


def test_a_very_long_line_is_cut_in_the_message():
    checked = check([b'{"idx": 0, "label": "' + b"x" * 10**6 + b'"}', b"y" * 10**6], [record(0)])
    assert checked.counts == {"label": 1, "broken-line": 1} and len(str(checked.error())) < 2000
