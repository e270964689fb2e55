"""GLUE on the real files: every row is read, every metric is that of scikit-learn or scipy, submissions go there and back."""

import gzip
import json
import random
import re
import sys
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from morocco_lib.data import splits, synthetic
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.models import model_class
from morocco_lib.tasks import get_task, metrics, task_names
from morocco_lib.tasks.base import task_value
from morocco_lib.tasks.checking import check_file, submission_text

NAMES = task_names("GLUE")
LABELLED = {  # task -> a labelled file of the shared folder
    "cola": "CoLA/dev.tsv", "sst2": "SST-2/dev.tsv", "mrpc": "MRPC/dev.tsv", "stsb": "STS-B/dev.tsv", "qqp": "QQP/dev_sample.tsv",
    "mnli": "MNLI/dev_sample.tsv", "mnli_mm": "MNLI/dev_sample.tsv", "qnli": "QNLI/dev.tsv", "rte": "RTE/dev.tsv", "wnli": "WNLI/dev.tsv",
}  # fmt: skip
KEYS = {
    "cola": ["mcc"], "sst2": ["accuracy"], "mrpc": ["f1", "accuracy"], "stsb": ["pearson", "spearman"], "qqp": ["accuracy", "f1"],
    "mnli": ["accuracy"], "mnli_mm": ["accuracy"], "qnli": ["accuracy"], "rte": ["accuracy"], "wnli": ["accuracy"],
}  # fmt: skip
SUBMITTED = {
    "cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP", "mnli": "MNLI-M", "mnli_mm": "MNLI-MM",
    "qnli": "QNLI", "rte": "RTE", "wnli": "WNLI", "ax": "AX",
}  # fmt: skip
INDEPENDENT = {
    "mcc": matthews_corrcoef,
    "accuracy": accuracy_score,
    "f1": lambda right, given: f1_score(right, given, pos_label=1),
    "pearson": lambda right, given: pearsonr(right, given).statistic,
    "spearman": lambda right, given: spearmanr(right, given).statistic,
}
every_labelled = pytest.mark.parametrize("name", LABELLED)


@pytest.fixture(scope="module")
def glue(real_data):
    return real_data / "glue"


def guesses(task, records, seed=1):
    """Answers to labelled records of which about half are right."""
    rng = random.Random(seed)

    def guess(right):
        if not task.labels:
            return right + rng.gauss(0, 1.5)
        return right if rng.random() < 0.5 else rng.choice(task.labels)

    return [{"idx": task.key(record), "label": guess(task.gold(record)["label"])} for record in records]


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# -- files ---------------------------------------------------------------------------------------------------------
def test_every_row_of_every_file_is_read(glue):
    tables = re.findall(r"^\| (\S+)/(\S+\.tsv) \| (\d+) \|", (glue / "README.md").read_text(), re.MULTILINE)
    assert len(tables) == 27
    for title, file, rows in tables:
        for task in [task for task in map(get_task, NAMES) if task.title == title]:
            records = task.read(glue / title / file)
            assert len(records) == int(rows), (title, file)
            unlabelled = file in ("test.tsv", "diagnostic.tsv")
            assert all((task.gold(record) is None) == unlabelled for record in records)
            assert not any(field in record for record in records for field in ("mark", "genre", "gold_label", "score"))


def test_what_texts_hold_stays_as_it_is(glue):
    (first, *_), rte = get_task("mrpc").read(glue / "MRPC/dev.tsv"), get_task("rte").read(glue / "RTE/train.tsv")
    assert first["sentence2"].startswith('" The foodservice')
    assert sum(text.count('"') % 2 for record in rte for text in (record["sentence1"], record["sentence2"])) > 0
    assert (
        get_task("sst2").read(glue / "SST-2/train.tsv")[0]["sentence"] == "hide new secretions from the parental units "
    )


def test_the_idx_is_the_files_own_with_its_gaps_or_the_row(glue):
    assert [record["idx"] for record in get_task("wnli").read(glue / "WNLI/dev.tsv")][:2] == [4, 5]
    assert [record["idx"] for record in get_task("mrpc").read(glue / "MRPC/dev.tsv")] == list(range(326))


PARSED = ["( A )", "( B )", "(ROOT A)", "(ROOT B)"]
MNLI_HEAD = (
    "index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse",
)  # fmt: skip
MNLI_FORMS = {
    "train": (["label1", "gold_label"], ["neutral", "neutral"]),
    "dev": ([*(f"label{k}" for k in range(1, 6)), "gold_label"], [*["entailment"] * 3, *["contradiction"] * 2, "entailment"]),
    "test": ([], []),
}  # fmt: skip


@pytest.mark.parametrize("form", MNLI_FORMS)
def test_mnli_as_published_with_parses_and_votes(form, tmp_path):
    columns, cells = MNLI_FORMS[form]
    head = [*MNLI_HEAD, "sentence1", "sentence2", *columns]
    assert len(head) == {"train": 12, "dev": 16, "test": 10}[form]
    row = ["0", "31193", "31193n", "government", *PARSED, "First.", 'Se"cond.', *cells]
    (record,) = get_task("mnli").read(write(tmp_path, "m.tsv", "\t".join(head) + "\n" + "\t".join(row) + "\n"))
    label = {"label": cells[-1]} if cells else {}
    assert record == {"idx": 0, "sentence1": "First.", "sentence2": 'Se"cond.', **label}


def test_broken_rows_of_qqp_are_passed_over_and_those_of_others_are_not(tmp_path):
    head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    path = write(
        tmp_path, "q.tsv", head + "7\t1\t2\tWhy?\tHow so?\t1\n8\t3\t4\tWhere\n is it?\t1\n9\t5\t6\tWho?\tWhom?\t0\n"
    )
    records = get_task("qqp").read(path)
    assert [(record["idx"], record["label"]) for record in records] == [(7, 1), (9, 0)]
    assert records[0] == {"idx": 7, "question1": "Why?", "question2": "How so?", "label": 1}
    broken = write(tmp_path, "r.tsv", "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\n")
    with pytest.raises(UsageError, match=r"line 2: 3 cells; the columns are index, sentence1, sentence2, label"):
        get_task("rte").read(broken)


def test_packed_files_are_found_and_read(glue, tmp_path):
    (tmp_path / "CoLA").mkdir()
    with gzip.open(tmp_path / "CoLA/dev.tsv.gz", "wb") as file:
        file.write((glue / "CoLA/dev.tsv").read_bytes())
    path, records = splits.read_split(tmp_path, get_task("cola"), "val")
    assert path.name == "dev.tsv.gz" and records == get_task("cola").read(glue / "CoLA/dev.tsv")


FULL = (
    "Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel\n"
    "\t\tNegation\t\tArtificial\tThe cat sat.\tThe cat did not sit.\tcontradiction\n"
    "Quantifiers;Lexical entailment\t\tNegation\t\tArtificial\tNo cat sat.\tNo black cat sat.\tentailment\n"
    "Quantifiers\t\t\tWorld knowledge\tNews\tA cat sat.\tTwo cats sat.\tneutral\n"
    "\tIntersectivity\t\t\tNews\tA black cat.\tA cat.\tentailment\n"
)


def test_the_diagnostic_is_scored_by_phenomena_that_a_program_never_sees(tmp_path):
    task = get_task("ax")
    records = task.read(write(tmp_path, "diagnostic-full.tsv", FULL))
    assert task.strip_labels(records[1]) == {"idx": 1, "sentence1": "No cat sat.", "sentence2": "No black cat sat."}
    gold = [task.gold(record) for record in records]
    given = [{"idx": k, "label": label} for k, label in enumerate(("neutral", "entailment", "neutral", "entailment"))]
    scores = task.score(gold, given)
    assert list(scores) == [
        "mcc", "knowledge", "knowledge__World knowledge", "lex_sem", "lex_sem__Lexical entailment", "lex_sem__Quantifiers", "logic",
        "logic__Negation", "pr_ar_str", "pr_ar_str__Intersectivity",
    ]  # fmt: skip
    right, answered = [[one["label"] for one in answers] for answers in (gold, given)]
    assert scores["mcc"] == pytest.approx(matthews_corrcoef(right, answered), abs=1e-12)
    assert scores["logic__Negation"] == pytest.approx(matthews_corrcoef(right[:2], answered[:2]), abs=1e-12)
    assert scores["lex_sem"] == scores["lex_sem__Quantifiers"] == 1
    assert task.metric_names == ("mcc",) and task.trained_on == "mnli"


# -- scores --------------------------------------------------------------------------------------------------------
@every_labelled
def test_metrics_are_those_of_scikit_learn_and_scipy(glue, name):
    task = get_task(name)
    records = task.read(glue / LABELLED[name])
    gold, given = [task.gold(record) for record in records], guesses(task, records)
    right, answered = [[one["label"] for one in answers] for answers in (gold, given)]
    scores = task.score(gold, given)
    assert list(scores) == KEYS[name] == list(task.metric_names)
    for metric, value in scores.items():
        assert value == pytest.approx(INDEPENDENT[metric](right, answered), abs=1e-12), metric
    low, high, method = task.interval(gold, given)
    assert low < task_value(task, scores) < high < 1
    assert method == ("wilson 95 %" if KEYS[name] == ["accuracy"] else "bootstrap 95 %")
    assert all(value == pytest.approx(1, abs=1e-12) for value in task.score(gold, gold).values())


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb"])
def test_the_interval_is_that_of_records_drawn_anew(glue, name):
    task, rng = get_task(name), np.random.default_rng(1)
    records = task.read(glue / LABELLED[name])
    gold, given = [task.gold(record) for record in records], guesses(task, records)
    values = []
    for _ in range(300):
        drawn = rng.integers(len(gold), size=len(gold))
        values.append(task_value(task, task.score([gold[k] for k in drawn], [given[k] for k in drawn])))
    low, high, _ = task.interval(gold, given)
    assert [low, high] == pytest.approx(np.quantile(values, (0.025, 0.975)), abs=0.2 * (high - low))


@every_labelled
def test_eval_prints_these_keys_and_no_others(glue, main, name, tmp_path):
    task = get_task(name)
    records = task.read(glue / LABELLED[name])
    text = "".join(f"{task.format(one)}\n" for one in guesses(task, records))
    done = main("eval", name, write(tmp_path, "preds.jsonl", text), glue / LABELLED[name])
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == KEYS[name]


# -- submissions ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_a_submission_has_the_leaderboards_form_and_comes_back(name, synthetic_data, tmp_path):
    task = get_task(name)
    records = splits.read_split(synthetic_data, task, "val")[1]
    given = guesses(task, records)
    lines = submission_text(task, given).splitlines()
    assert task.submissions[0].file == f"{SUBMITTED[name]}.tsv"
    assert lines[0] == "index\tprediction" and len(lines) == len(records) + 1
    index, prediction = lines[1].split("\t")
    assert index == str(given[0]["idx"])
    if name == "stsb":
        assert re.fullmatch(r"-?\d\.\d{3}", prediction) and float(prediction) == pytest.approx(
            given[0]["label"], abs=5e-4
        )
    else:
        assert prediction in map(str, task.labels) and prediction == str(given[0]["label"])
    checked = check_file(task, write(tmp_path, "back.tsv", "\n".join(lines) + "\n"), records)
    back = [checked.predictions[task.key(record)] for record in records]
    assert checked.ok and not checked.noncanonical.total()
    assert back == given or all(abs(a["label"] - b["label"]) <= 5e-4 for a, b in zip(back, given, strict=True))


def test_every_row_of_an_official_test_file_is_in_its_submission(glue, main, tmp_path):
    for name in ("cola", "wnli", "stsb", "ax"):
        task = get_task(name)
        path = glue / task.title / task.files["test"]
        records = task.read(path)
        label = task.labels[0] if task.labels else 2.5
        answers = "".join(f"{json.dumps({'idx': r['idx'], 'label': label})}\n" for r in records)
        out = tmp_path / task.submissions[0].file
        done = main("eval", name, write(tmp_path, "preds.jsonl", answers), path, "--submission", out)
        assert done.returncode == 0, done.stderr
        shown = "2.500" if name == "stsb" else label
        assert out.read_text() == "index\tprediction\n" + "".join(f"{r['idx']}\t{shown}\n" for r in records)


def test_rows_numbered_from_0_answer_a_file_whose_index_has_gaps(glue, main, tmp_path):
    task, path = get_task("rte"), glue / "RTE/dev.tsv"
    records = task.read(path)
    assert records[-1]["idx"] > len(records)
    rows = "".join(f"{number}\t{record['label']}\n" for number, record in enumerate(records))
    done = main("eval", "rte", write(tmp_path, "RTE.tsv", "index\tprediction\n" + rows), path)
    assert json.loads(done.stdout) == {"accuracy": 1.0} and "row number for idx" in done.stderr


DAMAGES = {
    "a row is missing": (lambda rows: rows[:-1], "missing-idx"),
    "a row stands twice": (lambda rows: [*rows, rows[-1]], "duplicate-idx"),
    "an index is unknown": (lambda rows: [*rows[:-1], ["999999", rows[-1][1]]], "unknown-idx"),
    "an index is no number": (lambda rows: [*rows[:-1], ["x", rows[-1][1]]], "idx"),
    "a label is a place": (lambda rows: [*rows[:-1], [rows[-1][0], "2"]], "label"),
    "a label is in capitals": (lambda rows: [*rows[:-1], [rows[-1][0], "ENTAILMENT"]], "label"),
    "a cell is missing": (lambda rows: [*rows[:-1], rows[-1][:1]], "broken-table"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_submission_is_refused_with_its_rule(glue, damage, tmp_path):
    task = get_task("rte")
    records = task.read(glue / "RTE/dev.tsv")
    rows = [[str(record["idx"]), record["label"]] for record in records]
    change, rule = DAMAGES[damage]
    text = "index\tprediction\n" + "".join("\t".join(row) + "\n" for row in change(rows))
    assert rule in check_file(task, write(tmp_path, "RTE.tsv", text), records).counts


# -- numbers -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", '"3.2"', "true", "null", "[3]", "1e999"])
def test_what_is_no_finite_number_is_refused_in_words(value):
    task = get_task("stsb")
    checked = task.check([f'{{"idx": 1, "label": {value}}}'.encode()], {1: {"idx": 1}}, "preds.jsonl")
    (rule,) = set(checked.counts) - {"missing-idx"}
    assert rule == ("broken-line" if value in ("NaN", "Infinity", "-Infinity", "1e999") else "number")
    with pytest.raises(InvalidResult, match="number, and no text; print one, as 3.25" if rule == "number" else "is no"):
        raise checked.error()


@pytest.mark.parametrize("value", ["nan", "inf", "much", ""])
def test_a_table_of_what_is_no_number_is_refused(value, tmp_path):
    path = write(tmp_path, "STS-B.tsv", f"index\tprediction\n1\t{value}\n")
    assert check_file(get_task("stsb"), path, [{"idx": 1}]).counts == {"number": 1}


@pytest.mark.parametrize("label", ["nan", "5.1", "-0.001", "high"])
def test_a_right_number_lies_on_the_scale(label, tmp_path):
    path = write(tmp_path, "dev.tsv", f"index\tsentence1\tsentence2\tscore\n0\tA.\tB.\t{label}\n")
    with pytest.raises(UsageError, match=r"line 2: 'label' is .*; it is a number from 0 to 5"):
        get_task("stsb").read(path)


def test_numbers_that_differ_in_their_last_digits_are_the_same():
    task = get_task("stsb")
    one, near, far = ({"idx": 0, "label": label} for label in (3.2, 3.2 + 1e-5, 3.26))
    assert task.same(one, near) and not task.same(one, far)


def test_constant_and_huge_numbers_have_a_correlation():
    gold = [{"idx": k, "label": float(k % 6)} for k in range(60)]
    constant = [{"idx": k, "label": 0.1} for k in range(60)]
    task = get_task("stsb")
    assert task.score(gold, constant) == {"pearson": 0.0, "spearman": 0.0}
    assert task.interval(gold, constant)[:2] == (0.0, 0.0)
    huge = [{"idx": k, "label": (-1) ** k * 1e308} for k in range(60)]
    small = [{"idx": k, "label": float((-1) ** k)} for k in range(60)]
    assert task.score(gold, huge) == pytest.approx(task.score(gold, small))
    offset = [{"idx": k, "label": 1e6 + 1e-6 * one["label"]} for k, one in enumerate(gold)]
    assert task.score(gold, offset)["pearson"] == pytest.approx(1, abs=1e-6)


def test_equal_numbers_share_their_rank():
    assert metrics.ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [3.5, 1, 3.5, 2]


def test_the_mean_is_the_baseline_and_tfidf_answers_from_the_cosine(glue):
    task = get_task("stsb")
    train, val = (task.read(glue / f"STS-B/{split}.tsv") for split in ("train", "dev"))
    gold = [task.gold(record) for record in val]
    mean = np.mean([record["label"] for record in train])
    assert model_class("majority").fit(task, train, 1).answer(val[:1])[0]["label"] == pytest.approx(mean, abs=1e-3)
    model = model_class("tfidf").fit(task, train, 1)
    cosines = [model.similarities(record["sentence1"], [record["sentence2"]])[0] for record in val[:50]]
    assert model.cosines(val[:50]) == pytest.approx(cosines, abs=1e-12)
    slope, intercept = np.polyfit(model.cosines(train), [record["label"] for record in train], 1)
    answers = (
        model_class("tfidf").from_state(task, *model.state()).answer([task.strip_labels(record) for record in val])
    )
    assert [one["label"] for one in answers[:50]] == pytest.approx(slope * np.array(cosines) + intercept, abs=1e-9)
    assert task.score(gold, answers)["pearson"] > 0.7


# -- synthetic records ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_synthetic_records_are_of_the_task_a_tenth_wrong_and_learnable(name):
    task = get_task(name)
    drawn = {split: synthetic.records(name, split, 120, 1) for split in synthetic.generator(name).SIZES}
    texts = [{tuple(record[field] for field in task.text_fields) for record in records} for records in drawn.values()]
    assert all(len(one) == 120 for one in texts) and all(len(one & other) <= 3 for one, other in pairwise(texts))
    for split, records in drawn.items():
        for record in records:
            task.validate(record)
            assert (task.gold(record) is None) == (split == "test")
    pairs = synthetic.generator(name).records_with_truth("val", 120, 2)
    assert sum(record["label"] != truth for record, truth in pairs) == 12
    if name not in ("wnli", "mrpc", "cola", "qqp"):  # there words alone do not tell
        train = synthetic.records(task.trained_on, "train", 600, 1)
        gold = [task.gold(record) for record in drawn["val"]]
        answers = model_class("tfidf").fit(task, train, 1).answer(drawn["val"])
        assert task_value(task, task.score(gold, answers)) > 0.6


# -- programs ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("trained", "name", "kind"), [("stsb", "stsb", "tfidf"), ("mnli", "ax", "majority")])
def test_a_model_is_a_program_that_keeps_the_contract(trained, name, kind, synthetic_data, main, tmp_path):
    done = main("train", kind, trained, "--data", synthetic_data, "--out", tmp_path / "fitted")
    assert done.returncode == 0, done.stderr
    task = get_task(name)
    path = splits.find_split(synthetic_data, task, "val")
    command = f"{sys.executable} -m morocco_lib infer {tmp_path / 'fitted'} {name}"
    checked = main("check", "--command", command, name, "--data", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
