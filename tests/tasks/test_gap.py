"""GAP: official files, both kinds of submissions, and the figures that the reference gives of trivial predictors."""

import csv
import io
import json
import math

import numpy as np
import pytest

from morocco_lib import data
from morocco_lib.benchmark.evaluate import answers_table, facets_table
from morocco_lib.data import synthetic
from morocco_lib.errors import UsageError
from morocco_lib.models import model_class
from morocco_lib.tasks import get_task
from morocco_lib.tasks.checking import check_file
from morocco_lib.tasks.recombine import Opening

GAP = get_task("gap")
SPLITS = {"development": "train", "validation": "val"}
HEADER = "ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\tURL"
ROW = 'x-1\tAnn met "Bo". She left.\tShe\t14\tAnn\t0\tTRUE\tBo\t9\tFALSE\thttp://a/Ann'


@pytest.fixture(scope="module")
def official(real_data):
    """name -> (path, records) of both official files."""
    return {name: data.read_split(real_data / "gap", GAP, split) for name, split in SPLITS.items()}


def nearer(record):
    far = {name: abs(record["Pronoun-offset"] - record[f"{name}-offset"]) for name in "AB"}
    return far["A"] < far["B"], far["B"] <= far["A"]


PREDICTORS = {
    "always A": lambda r: (True, False),
    "always B": lambda r: (False, True),
    "nearer": nearer,
    "both": lambda r: (True, True),
}
# Recomputed for the reference with the official scorer's rules: overall, masculine, feminine, bias.
PUBLISHED = {
    ("always A", "development"): (46.0, 46.2, 45.8, 0.99), ("always A", "validation"): (44.2, 42.9, 45.5, 1.06),
    ("always B", "development"): (48.7, 48.4, 49.0, 1.01), ("always B", "validation"): (48.5, 47.7, 49.2, 1.03),
    ("nearer", "development"): (49.4, 51.4, 47.4, 0.92), ("nearer", "validation"): (52.5, 51.6, 53.4, 1.03),
    ("both", "development"): (62.0, 61.9, 62.2, 1.00), ("both", "validation"): (60.3, 58.6, 62.0, 1.06),
}  # fmt: skip


def write_tsv(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def evaluated(main, predictions, gold, *options):
    done = main("eval", "gap", predictions, gold, *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


# -- official files ------------------------------------------------------------------------------------------------
def test_official_files_are_read_whole_and_every_mention_is_where_it_says(official):
    counts = {
        name: [sum(r["label"] == label for r in records) for label in ["A", "B", "NEITHER"]]
        for name, (_, records) in official.items()
    }
    assert counts == {"development": [874, 925, 201], "validation": [187, 205, 62]}
    for path, records in official.values():
        assert GAP.unaligned(records) == 0
        assert data.splits.describe(path, GAP, records)["sample"] is False
    moved = {**official["validation"][1][0]}
    moved["B-offset"] += 1
    assert GAP.unaligned([moved]) == 1


def test_what_is_fed_holds_neither_label_nor_address(official):
    fed = GAP.strip_labels(official["validation"][1][0] | {"URL": "http://a", "A-coref": True, "B-coref": False})
    assert set(fed) == {"idx", *GAP.fields}


def test_a_quotation_mark_is_text_and_a_kaggle_file_has_no_labels(tmp_path):
    labelled, bare = tmp_path / "a.tsv", tmp_path / "test_stage_2.tsv"
    labelled.write_text(f"{HEADER}\n{ROW}\n")
    cells = [line.split("\t") for line in (HEADER, ROW)]
    write_tsv(bare, [[c for k, c in enumerate(row) if k not in (6, 9)] for row in cells])
    (record,), (other,) = GAP.read(labelled), GAP.read(bare)
    assert record["Text"] == 'Ann met "Bo". She left.' and GAP.unaligned([record, other]) == 0
    assert GAP.gold(record)["label"] == "A" and GAP.gold(other) is None and GAP.strip_labels(record) == other


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\t14\t", "\t1.4\t", "line 2: 'Pronoun-offset' is '1.4'; it is a whole number"),
        ("FALSE", "TRUE", "line 2: A-coref and B-coref are both true"),
        ("FALSE", "0", "line 2: '0' is neither TRUE nor FALSE"),
        ("\tURL", "", "line 2: 11 cells"),
    ],
)
def test_a_broken_row_is_refused_with_its_line(tmp_path, old, new, message):
    (tmp_path / "a.tsv").write_text(f"{HEADER}\n{ROW}\n".replace(old, new))
    with pytest.raises(UsageError, match=message):
        GAP.read(tmp_path / "a.tsv")


def test_a_recombined_record_asks_the_same_of_a_text_that_begins_otherwise(official):
    records = official["development"][1][:300]
    opening = [GAP.recombine(r, records[0], Opening(["of", "the", "and"], k, 3)) for k, r in enumerate(records)]
    assert GAP.unaligned(opening) == 0
    assert not {r["Text"] for r in opening} & {r["Text"] for r in records}
    assert all((a["A"], a["B"]) == (b["A"], b["B"]) for a, b in zip(opening, records, strict=True))


# -- the official scorer -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "file"), PUBLISHED)
def test_the_scorer_gives_the_published_figures_of_trivial_predictors(main, official, tmp_path, name, file):
    path, records = official[file]
    rows = [(r["idx"], *(str(said) for said in PREDICTORS[name](r))) for r in records]
    rows = [(idx, a.upper(), b.lower()) for idx, a, b in rows]
    scores, _ = evaluated(main, write_tsv(tmp_path / "p.tsv", rows), path)
    digits = {"overall_f1": 1, "masculine_f1": 1, "feminine_f1": 1, "bias": 2}
    assert tuple(round(scores[key], n) for key, n in digits.items()) == PUBLISHED[name, file]
    assert set(scores) == set(digits)


def test_a_missing_id_is_a_false_negative_for_both_names_whatever_is_right(main, official, tmp_path):
    path, records = official["validation"]
    rows = [(r["idx"], str(r["label"] == "A"), str(r["label"] == "B")) for r in records]
    right, _ = evaluated(main, write_tsv(tmp_path / "p.tsv", rows), path)
    assert right == {"overall_f1": 100, "masculine_f1": 100, "feminine_f1": 100, "bias": 1}
    lost = [k for k, r in enumerate(records) if r["Pronoun"].lower() in ("he", "his", "him")][:100]
    scores, said = evaluated(
        main, write_tsv(tmp_path / "q.tsv", [r for k, r in enumerate(rows) if k not in lost]), path
    )
    true = 187 + 205 - sum(records[k]["label"] != "NEITHER" for k in lost)
    assert scores["overall_f1"] == pytest.approx(200 * true / (2 * true + 200))
    assert scores["feminine_f1"] == 100 and scores["bias"] > 1 and "100 x missing ID" in said


def test_a_bias_with_an_f1_of_0_is_null(main, official, tmp_path):
    path, records = official["validation"]
    rows = [(r["idx"], "FALSE", "FALSE") for r in records]
    scores, _ = evaluated(main, write_tsv(tmp_path / "p.tsv", rows), path)
    assert scores == {"overall_f1": 0, "masculine_f1": 0, "feminine_f1": 0, "bias": None}


def test_decisions_are_taken_of_the_scorers_table_only(main, official, tmp_path):
    path, records = official["validation"]
    lines = [json.dumps({"idx": r["idx"], "decisions": [True, False]}) + "\n" for r in records]
    (tmp_path / "p.jsonl").write_text("".join(lines))
    assert main("eval", "gap", tmp_path / "p.jsonl", path).returncode == 1
    rows = [(r["idx"], "TRUE", "FALSE") for r in records]
    done = main("eval", "gap", write_tsv(tmp_path / "p.tsv", rows), path, "--submission", tmp_path / "out.csv")
    assert done.returncode == 2 and "no probabilities" in done.stderr and not (tmp_path / "out.csv").exists()


# -- probabilities -------------------------------------------------------------------------------------------------
def kaggle(path, rows):
    path.write_text("ID,A,B,NEITHER\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def test_log_loss_is_kaggles_with_rows_rescaled_and_clipped(main, official, tmp_path):
    path, records = official["validation"]
    rng = np.random.default_rng(1)
    shares = rng.dirichlet([1, 1, 1], len(records)) * rng.choice([1, 2, 50], (len(records), 1))
    shares[:40] = np.eye(3)[rng.integers(3, size=40)]
    right = np.array([["A", "B", "NEITHER"].index(r["label"]) for r in records])
    rows = [(r["idx"], *share) for r, share in zip(records, shares, strict=True)]
    scores, said = evaluated(main, kaggle(tmp_path / "p.csv", rows), path)
    scaled = shares / shares.sum(axis=1, keepdims=True)
    losses = -np.log(np.clip(scaled, 1e-15, 1 - 1e-15))[np.arange(len(records)), right]
    assert scores == pytest.approx({"log_loss": losses.mean(), "accuracy": (scaled.argmax(axis=1) == right).mean()})
    assert losses.max() > 34 and "x sum other than 1" in said


def test_uniform_and_prior_have_the_published_losses(main, official, tmp_path):
    for prediction, losses in (((1, 1, 1), (1.0986, 1.0986)), ((0.437, 0.4625, 0.1005), (0.9493, 1.0029))):
        for (path, records), loss in zip(official.values(), losses, strict=True):
            rows = [(r["idx"], *prediction) for r in records]
            scores, _ = evaluated(main, kaggle(tmp_path / "p.csv", rows), path)
            assert round(scores["log_loss"], 4) == loss
    assert round(scores["accuracy"], 4) == 0.4515


@pytest.mark.parametrize("bad", ["-0.1,0.5,0.6", "nan,0.5,0.5", "inf,0,0", "0,0,0", "a,0.5,0.5", "1e308,1e308,1e308"])
def test_a_row_of_no_probabilities_is_refused(main, tmp_path, bad):
    (tmp_path / "gold.tsv").write_text(f"{HEADER}\n{ROW}\n")
    (tmp_path / "p.csv").write_text(f"ID,A,B,NEITHER\nx-1,{bad}\n")
    done = main("eval", "gap", tmp_path / "p.csv", tmp_path / "gold.tsv")
    assert done.returncode == 1 and "p.csv, line 2" in done.stderr


@pytest.mark.parametrize("bad", [True, "0.5", None, 1e301, [1]])
def test_a_line_of_no_probabilities_is_refused(tmp_path, bad):
    (tmp_path / "gold.tsv").write_text(f"{HEADER}\n{ROW}\n")
    (tmp_path / "p.jsonl").write_text(json.dumps({"idx": "x-1", "A": bad, "B": 0.5, "NEITHER": 0.5}) + "\n")
    checked = check_file(GAP, tmp_path / "p.jsonl", GAP.read(tmp_path / "gold.tsv"))
    assert set(checked.counts) == {"probabilities"}


def test_a_submission_is_written_for_a_file_without_labels_and_scored_as_the_answers(main, official, tmp_path):
    path, records = official["validation"]
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    bare = write_tsv(tmp_path / "test.tsv", [[c for k, c in enumerate(row) if k not in (6, 9)] for row in lines])
    rng = np.random.default_rng(2)
    answers = [
        GAP.prediction(r, share) for r, share in zip(records, rng.dirichlet([1, 1, 1], 454).tolist(), strict=True)
    ]
    (tmp_path / "p.jsonl").write_text("".join(GAP.format(answer) + "\n" for answer in answers))
    done = main("eval", "gap", tmp_path / "p.jsonl", bare, "--submission", tmp_path / "out.csv")
    assert done.returncode == 0 and done.stdout == ""
    written = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["ID"] for row in written] == [r["idx"] for r in records] and set(written[0]) == {
        "ID",
        "A",
        "B",
        "NEITHER",
    }
    assert all(abs(sum(float(row[name]) for name in ("A", "B", "NEITHER")) - 1) < 1e-9 for row in written)
    both = [evaluated(main, tmp_path / name, path)[0] for name in ("out.csv", "p.jsonl")]
    assert both[0] == pytest.approx(both[1])


def test_the_order_inside_is_neither_a_b(official):
    record = official["validation"][1][0]
    assert GAP.prediction(record, [0.5, 0.3, 0.2]) == {"idx": "validation-1", "A": 0.3, "B": 0.2, "NEITHER": 0.5}
    assert [GAP.targets(record | {"label": label}) for label in ("NEITHER", "A", "B")] == [[0], [1], [2]]


def test_answers_are_the_same_within_rounding():
    one = {"idx": "a", "A": 0.5, "B": 0.3, "NEITHER": 0.2}
    assert GAP.same(one, one | {"A": 0.51, "B": 0.29}) and not GAP.same(one, one | {"A": 0.6, "B": 0.2})


# -- baselines and groups ------------------------------------------------------------------------------------------
def test_majority_gives_the_prior_and_tfidf_scikit_learns_probabilities():
    records = synthetic.records("gap", "train", 300, 1)
    prior = model_class("majority").fit(GAP, records, 1).answer(records[:1])[0]
    counts = {name: sum(r["label"] == name for r in records) / 300 for name in GAP.labels}
    assert prior == {"idx": records[0]["idx"], **counts}
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    for some in (records, [r for r in records if r["label"] != "A"]):
        vectorizer, classifier = TfidfVectorizer(), LogisticRegression()
        classifier.fit(vectorizer.fit_transform([r["Text"] for r in some]), [r["label"] for r in some])
        shares = classifier.predict_proba(vectorizer.transform([r["Text"] for r in records]))
        for answer, share in zip(model_class("tfidf").fit(GAP, some, 1).answer(records), shares, strict=True):
            wanted = dict.fromkeys(GAP.labels, 0.0) | dict(zip(classifier.classes_, share, strict=True))
            assert {name: answer[name] for name in GAP.labels} == pytest.approx(wanted)


def test_the_interval_is_that_of_accuracy(official):
    records = official["validation"][1]
    gold = [GAP.gold(r) for r in records]
    answers = [GAP.prediction(r, [0.1, 0.2, 0.7]) for r in records]
    statistics, value = GAP.units(gold, answers)
    assert value(statistics.sum(axis=0, keepdims=True))[0] == GAP.score(gold, answers)["accuracy"] == 205 / 454
    low, high, _ = GAP.interval(gold, answers)
    assert low < 205 / 454 < high and math.isclose(high - low, 0.0914, abs_tol=1e-3)


def test_facets_name_gender_order_and_the_distance_of_the_right_name():
    record = {
        "Text": "",
        "Pronoun": "Her",
        "Pronoun-offset": 100,
        "A": "Ann",
        "A-offset": 10,
        "B": "Bea",
        "B-offset": 120,
    }
    assert GAP.facets(record | {"label": "A"}) == {"gender": "feminine", "order": "A P B", "distance": "below 150"}
    assert GAP.facets(record)["distance"] == GAP.facets(record | {"label": "B"})["distance"] == "below 50"
    assert GAP.facets(record | {"label": "A", "Pronoun-offset": 200})["distance"] == "150 or more"


def test_errors_are_counted_by_the_groups_of_the_task(official, tmp_path):
    path, records = official["validation"]
    answers = [GAP.prediction(r, [0.1, 0.2, 0.7]) for r in records]
    (tmp_path / "preds.jsonl").write_text("".join(GAP.format(answer) + "\n" for answer in answers))
    table = facets_table(GAP, path, tmp_path)
    assert table.loc["gender", "records"].to_dict() == {"feminine": 227, "masculine": 227}
    for _, rows in table.groupby("facet"):
        assert (rows["records"].sum(), rows["right"].sum()) == (454, 205)
    assert table.loc["order"].index.tolist() == ["A B P", "A P B", "P A B"]
    shown = answers_table(GAP, path, tmp_path)
    assert set(shown["given"]) == {"B"} and (shown["right"] == "B").sum() == 205
