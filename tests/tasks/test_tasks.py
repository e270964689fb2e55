"""Tasks: reading official files, answers in submission form, and what `check` says of wrong ones."""

import gzip
import json
import re
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morocco_lib import data
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.tasks import get_task, metrics, task_names
from morocco_lib.tasks.checked import SHOWN_PROBLEMS
from morocco_lib.tasks.checking import check_file

TERRA = get_task("terra")
LABELS = TERRA.labels
texts = st.text(max_size=40)


terra_records = st.lists(
    st.builds(
        lambda idx, premise, hypothesis, label: {
            "premise": premise, "hypothesis": hypothesis, "idx": idx, "label": label
        },
        st.integers(0, 10**9), texts, texts, st.sampled_from(LABELS),
    ),
    min_size=1, max_size=12, unique_by=lambda record: record["idx"],
)  # fmt: skip


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
@settings(max_examples=25, deadline=None)
@given(
    records=terra_records,
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


BROKEN_LINES = {
    "broken JSON": (b'{"premise": "a", "hypothesis"', r"broken JSON"),
    "an array": (b'["a", "b"]', r"a JSON list, not an object"),
    "NaN": (b'{"premise": "a", "hypothesis": "b", "idx": NaN}', r"NaN is not JSON"),
    "a text that is no string": (line_of(record(7, hypothesis=["a"])).encode(), r"'hypothesis' is \[\"a\"\] \(list\)"),
    "a bool as idx": (line_of(record(True)).encode(), r"'idx' is true \(bool\)"),
    "a string as idx": (line_of(record("7")).encode(), r"'idx' is \"7\" \(str\)"),
    "a wrong label": (line_of(record(7, label="Entailment")).encode(), r"'label' is \"Entailment\" \(str\)"),
    "a label that is null": (line_of(record(7, label=None)).encode(), r"'label' is null"),
    "a duplicate idx": (line_of(record(1)).encode(), r"idx 1 stood in line 1 already"),
    "bytes that are no UTF-8": ('{"premise": "Да"}'.encode("cp1251"), r"not UTF-8 \(byte 0xc4 at 13\)"),
    "half a character": (b'{"premise": "\\ud83d", "hypothesis": "b", "idx": 7}', r"half a character"),
    "a duplicate key": (b'{"premise": "a", "hypothesis": "b", "idx": 7, "premise": "c"}', r"duplicate key 'premise'"),
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
    ("muserc", ("passage", "questions"), [], "the passage has no question to answer"),
    ("muserc", ("passage", "questions", 0, "answers"), [], "a question has no answer to label"),
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


# -- scoring -------------------------------------------------------------------------------------------------------
def test_majority_is_the_most_frequent_label_and_ties_go_to_the_first():
    gold = [{"idx": i, "label": label} for i, label in enumerate([LABELS[1], LABELS[1], LABELS[0]])]
    assert TERRA.majority(gold) == {"label": LABELS[1]}
    assert TERRA.majority(gold[1:]) == {"label": LABELS[0]}


def test_the_score_of_a_task_is_its_accuracy_with_wilsons_interval():
    gold = [{"idx": i, "label": LABELS[0]} for i in range(100)]
    predictions = [{"idx": i, "label": LABELS[i % 2]} for i in range(100)]
    assert TERRA.score(gold, predictions) == {"accuracy": 0.5}
    assert TERRA.interval(gold, predictions) == metrics.wilson_interval(50, 100)


# -- checking ------------------------------------------------------------------------------------------------------
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


def test_many_bad_lines_are_counted_and_the_first_of_each_rule_are_shown():
    size = 1000
    records = {idx: record(idx) for idx in range(size)}
    lines = [line for idx in range(size // 2) for line in (b"oops\n", answer(idx, "maybe") + b"\n")]
    checked = TERRA.check(lines, records, "preds.jsonl")
    assert checked.read == size
    assert checked.counts == {"broken-line": size // 2, "label": size // 2, "missing-idx": size // 2}
    for rule in checked.counts:
        assert sum(p.rule == rule for p in checked.problems) == SHOWN_PROBLEMS
    error = checked.error()
    assert isinstance(error, InvalidResult) and str(error).endswith(f"... and {3 * (size // 2 - SHOWN_PROBLEMS)} more")
    assert f"read {size} predictions for {size} records: {size // 2} x broken-line" in str(error)


def test_a_problem_says_where_it_is_which_rule_it_breaks_and_what_to_do():
    checked = check([answer(7, "neutral"), b"oops"], [record(7)])
    label, broken = map(str, checked.problems)
    assert label.startswith('preds.jsonl, line 1, idx 7: label: label is "neutral" (str); a label is one of')
    assert label.endswith('use one of "entailment", "not_entailment"')
    assert broken.startswith("preds.jsonl, line 2: broken-line: broken JSON")


def test_a_very_long_line_is_cut_in_the_message():
    checked = check([b'{"idx": 0, "label": "' + b"x" * 10**6 + b'"}', b"y" * 10**6], [record(0)])
    assert checked.counts == {"label": 1, "broken-line": 1} and len(str(checked.error())) < 2000
