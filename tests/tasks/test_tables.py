"""Tasks whose official files are tables: reading them, and submissions in and out."""

import csv
import gzip
import json

import pytest

from morocco_lib.errors import UsageError
from morocco_lib.tasks import get_task
from morocco_lib.tasks.checking import check_file, submission_text
from morocco_lib.tasks.tables import Submission, Table

RUCOLA = get_task("rucola")
HEADER = "id,sentence,acceptable,error_type,detailed_source"
WORDS = Table(columns={"word": "word", "mark": "mark"}, headless=("source", "mark", "word"))


def write(path, text: str):
    path.write_bytes(text.encode())
    return path


def rows(table: Table, path) -> list[tuple]:
    return [(number, *row.values()) for number, row in table.rows(path)]


# -- reading -------------------------------------------------------------------------------------------------------
def test_quotation_marks_are_text_where_a_table_is_not_quoted(tmp_path):
    path = write(tmp_path / "a.tsv", 'word\tmark\n"a ""b\t1\nc"\t2\n')
    assert rows(Table(columns={}), path) == [(2, '"a ""b', "1"), (3, 'c"', "2")]


def test_quoted_cells_hold_delimiters_and_line_feeds(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text\r\n0,"a, ""b""\nc"\r\n1,d\r\n')
    assert rows(Table(",", quoted=True, columns={}), path) == [(2, "0", 'a, "b"\nc'), (4, "1", "d")]


def test_no_other_sign_than_a_line_feed_ends_a_row(tmp_path):
    assert rows(Table(columns={}), write(tmp_path / "a.tsv", "word\na\u2028b\x0bc\rd\n")) == [(2, "a\u2028b\x0bc\rd")]


def test_a_file_without_header_has_the_columns_of_the_task(tmp_path):
    assert rows(WORDS, write(tmp_path / "a.tsv", "s\t1\tw\n")) == [(1, "s", "1", "w")]
    assert rows(WORDS, write(tmp_path / "b.tsv", "index\tword\n7\tw\n")) == [(2, "7", "w")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,sentence\n0,a,b\n", "line 2: 3 cells; the columns are id, sentence"),
        ('id,sentence\n0,"a\n', "line 2: broken quoting"),
        ("id,sentence\nx,a\n", "line 2: 'id' is 'x'; it is a whole number"),
        ("id,sentence\n0,a\n0,b\n", "line 3: idx 0 stood in line 2 already"),
        ("id,text\n0,a\n", "'sentence' is absent"),
        (f"{HEADER}\n0,a,2,0,x\n", """'label' is "2" (str); labels: 0, 1"""),
        (f"{HEADER}\n", "holds no record"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path, content, message):
    with pytest.raises(UsageError) as caught:
        RUCOLA.read(write(tmp_path / "a.csv", content))
    assert message in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,sentence\n0,\xff\n")
    with pytest.raises(UsageError, match="line 2: not UTF-8"):
        RUCOLA.read(tmp_path / "a.csv")


def test_a_packed_table_and_json_lines_hold_the_same_records(tmp_path):
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(f"{HEADER}\n3,Так.,1,0,x\n5,Нет,0,Syntax,y\n".encode()))
    records = RUCOLA.read(packed)
    assert records[0] == {"idx": 3, "sentence": "Так.", "label": 1, "error_type": "0"}
    lines = write(tmp_path / "a.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    assert RUCOLA.read(lines) == records
    assert RUCOLA.strip_labels(records[1]) == {"idx": 5, "sentence": "Нет"}


# -- submissions ---------------------------------------------------------------------------------------------------
RECORDS = [{"idx": idx, "sentence": "а", "label": 1, "error_type": "0"} for idx in (2, 5, 9)]


def checked(tmp_path, text: str):
    return check_file(RUCOLA, write(tmp_path / "preds", text), RECORDS)


def labels(found) -> dict:
    return {idx: prediction["label"] for idx, prediction in found.predictions.items()}


@pytest.mark.parametrize(
    "text",
    [
        "id,acceptable\n2,1\n5,0\n9,1\n",
        'id,acceptable\n"2","1"\n5,0\n9,1\n',
        "acceptable,id\r\n1,9\r\n0,5\r\n1,2\r\n",
        '{"idx": 2, "label": 1}\n{"idx": 9, "label": 1}\n{"idx": 5, "label": 0}\n',
    ],
)
def test_a_submission_is_a_table_or_json_lines_in_any_order(tmp_path, text):
    found = checked(tmp_path, text)
    assert found.ok and labels(found) == {2: 1, 5: 0, 9: 1} and found.noncanonical.total() == 0


def test_rows_may_be_numbered_as_leaderboards_do(tmp_path):
    found = checked(tmp_path, "id,acceptable\n0,1\n1,0\n2,1\n")
    assert found.ok and labels(found) == {2: 1, 5: 0, 9: 1} and found.noncanonical["row number for idx"] == 3
    assert not checked(tmp_path, "id,acceptable\n0,1\n1,0\n").ok


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("id,label\n2,1\n", {"broken-table": 1}),
        ("id,acceptable\n2,1\n5\n9,1\n", {"broken-table": 1, "missing-idx": 1}),
        ("id,acceptable\n2,1\n2,1\n9,1\n", {"duplicate-idx": 1, "missing-idx": 1}),
        ("id,acceptable\n2,yes\n5,1\n9,1\n", {"label": 1}),
        ("id,acceptable\n2,1\nx,1\n9,1\n", {"idx": 1, "missing-idx": 1}),
        ("", {"missing-idx": 3}),
    ],
)
def test_wrong_rows_are_named(tmp_path, text, rules):
    found = checked(tmp_path, text)
    assert dict(found.counts) == rules and str(tmp_path / "preds") in str(found.error())


def test_cells_are_quoted_only_where_the_table_is_csv():
    row = {"id": 'a"b', "text": "c,d"}
    assert Submission("a.csv", ("id", "text"), ",").text([row]) == 'id,text\n"a""b","c,d"\n'
    assert Submission("a.tsv", ("id", "text")).text([{"id": 1, "text": 'c "d"'}]) == 'id\ttext\n1\tc "d"\n'


# -- RuCoLA --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def rucola(real_data):
    return real_data / "rucola"


@pytest.mark.parametrize(
    ("name", "rows", "labelled"),
    [("in_domain_train", 6252, True), ("in_domain_dev", 786, True), ("out_of_domain_dev", 1445, True), ("test", 2201, False)],
)  # fmt: skip
def test_every_file_of_rucola_is_read_as_csv_reads_it(rucola, name, rows, labelled):
    path = rucola / f"{name}.csv"
    records, table = RUCOLA.read(path), list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    assert len(records) == rows < RUCOLA.sizes[name]
    assert [(str(r["idx"]), r["sentence"]) for r in records] == [(row["id"], row["sentence"]) for row in table]
    assert all((RUCOLA.gold(record) is not None) == labelled for record in records)


def test_scores_are_those_of_scikit_learn_and_recall_by_kind(rucola):
    from sklearn.metrics import accuracy_score, matthews_corrcoef

    records = get_task("rucola_ood").read(rucola / "out_of_domain_dev.csv")
    gold = [RUCOLA.gold(record) for record in records]
    given = [len(record["sentence"]) % 3 > 0 for record in records]
    right = [record["label"] for record in records]
    scores = RUCOLA.score(gold, [{"idx": g["idx"], "label": int(label)} for g, label in zip(gold, given, strict=True)])
    assert scores.pop("accuracy") == pytest.approx(accuracy_score(right, given), abs=1e-12)
    assert scores.pop("mcc") == pytest.approx(matthews_corrcoef(right, given), abs=1e-12)
    for kind in ("Hallucination", "Morphology", "Semantics", "Syntax"):
        found = [not label for record, label in zip(records, given, strict=True) if record["error_type"] == kind]
        assert scores.pop(f"error_type__{kind}") == sum(found) / len(found)
    assert scores == {}


def test_the_published_sample_is_taken_and_written_again_byte_for_byte(rucola):
    records = RUCOLA.read(rucola / "test.csv")
    sample = rucola / "sample_submission.csv"
    found = check_file(RUCOLA, sample, records)
    assert found.ok and found.noncanonical.total() == 0
    assert submission_text(RUCOLA, found.predictions.values()).encode() == sample.read_bytes()
