"""The results of GLUE: the founding averages, nulls with the names of what is missing, and runs with the optimism of their maximum."""

import csv
import io
from statistics import fmean, stdev

import pytest
from helpers import ROOT, write_plan

from morocco_lib.report import glue, points, seeds_table, tables
from morocco_lib.tasks import get_task, task_names

HEADS = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]
FOUNDING = {  # the printed averages, then the cells in the order of HEADS
    "bert_HF": ((81.67, 78.85), "56.53 83.91/84.10 88.85/84.07 90.66 90.71/87.49 65.70 92.32 88.64/88.48 56.34"),
    "bert_1mi": ((80.13, 77.17), "45.81 84.27/84.63 88.26/83.82 91.21 90.54/87.20 65.34 91.86 87.41/87.43 53.52"),
    "bert_100k": ((75.36, 71.68), "39.56 78.88/79.08 82.71/76.23 87.77 89.31/85.57 58.12 87.61 83.95/83.84 42.25"),
    "sparse_80%_kd_onecycle_lr_rigl": ((75.30, 72.57), "36.49 79.23/79.66 86.55/81.86 88.23 89.39/85.64 54.51 90.6 81.31/81.24 50.7"),
    "sparse_80%_kd_onecycle_lr": ((74.17, 72.18), "27.2 78.34/79.97 87.29/82.55 88.57 88.91/84.97 58.59 88.77 79.11/79.33 56.25"),
    "bert_paper": ((79.60, None), "52.10 84.60/83.40 88.90 90.50 71.20 66.40 93.50 85.80 -"),
}  # fmt: skip
BUT = {
    "sparse_80%_kd_onecycle_lr_rigl": (75.28, 72.55),
    "bert_paper": (79.05, None),
}  # what the rule gives where it is not what is printed


def founding(model):
    """The cells of a founding row: task -> its metrics as printed."""
    _, cells = FOUNDING[model]
    return dict(
        zip(HEADS, ([float(p) for p in cell.split("/")] if cell != "-" else [] for cell in cells.split()), strict=True)
    )


def row(model, task, metrics, n=10, records=10, **other):
    value = fmean(metrics.values()) if metrics else None
    score = {"value": value, "metrics": metrics, "n": n} if metrics else {"value": None, "reason": "NO_GOLD"}
    return {
        "model": model, "task": task, "batch_size": 32, "verdict": "VALID", "speed_per_s": {"value": 1.0}, "score": score,
        "data": {"records": records, "sample": False, "origin": "files"}, **other,
    }  # fmt: skip


def rows_of(model, cells):
    """Report rows with these cells, in percent."""
    made = []
    for head, printed in cells.items():
        parts = [(task, metric) for task in tables.columns_of("GLUE")[head] for metric in get_task(task).metric_names]
        for task in dict.fromkeys(task for task, _ in parts):
            metrics = {m: v / 100 for (t, m), v in zip(parts, printed, strict=False) if t == task}
            made.append(row(model, task, metrics))
    return made


# -- averages ------------------------------------------------------------------------------------------------------
def test_mnli_on_both_files_is_one_task_and_the_diagnostic_is_none():
    assert list(tables.columns_of("GLUE")) == HEADS and tables.columns_of("GLUE")["mnli"] == ["mnli", "mnli_mm"]
    assert set(task_names("GLUE")) - {name for names in tables.columns_of("GLUE").values() for name in names} == {"ax"}


@pytest.mark.parametrize("model", FOUNDING)
def test_the_founding_cells_give_the_founding_averages(model):
    printed, cells = FOUNDING[model][0], founding(model)
    if model == "bert_paper":  # one metric of three pairs, and no WNLI: the formula itself, not the table
        assert round(fmean(map(fmean, filter(None, cells.values()))), 2) == BUT[model][0]
        assert round(fmean(value for printed in cells.values() for value in printed), 2) == printed[0]  # a flat mean
        return
    found = glue.results(rows_of(model, cells), [])
    averages = [float(cell) for cell in found.lines[0][1:3]]
    assert averages == pytest.approx(BUT.get(model, printed), abs=0.0101)
    assert (averages == pytest.approx(printed, abs=0.0101)) == (model not in BUT)


def test_the_table_is_the_founding_one():
    found = glue.results(rows_of("bert_HF", founding("bert_HF")), [])
    assert found.heads == ["model", "average_bert", "average_glue", *HEADS, "perplexity", "eval loss"]
    assert found.lines == [["bert_HF", "81.67", "78.85", *FOUNDING["bert_HF"][1].split(), "", ""]]
    texts = glue.files(found)
    assert list(csv.reader(io.StringIO(texts["glue.csv"]))) == [found.heads, *found.lines] and set(texts) == {
        "glue.csv",
        "glue.md",
    }
    lines = texts["glue.md"].splitlines()
    assert lines[1] == "|" + ":---|" * 14 and [cell.strip() for cell in lines[3].split("|")][1:-1] == found.lines[0]
    assert "Matched acc./Mismatched acc." in lines[2]


@pytest.mark.parametrize("lacking", ["wnli", "mnli_mm", "cola"])
def test_averages_are_empty_and_say_what_is_missing_unless_all_are_there(lacking):
    rows = [one for one in rows_of("a", founding("bert_HF")) if one["task"] != lacking]
    found = glue.results([*rows, *rows_of("b", founding("bert_1mi"))], [])
    assert found.lines[0][1:3] == (["81.67", ""] if lacking == "wnli" else ["", ""])
    assert found.lines[1][1:3] == ["80.12", "77.17"]
    assert found.notes[0] == f"a: no average of all tasks; missing {lacking}."
    assert found.lines[0][found.heads.index("mnli")] == ("83.91/-" if lacking == "mnli_mm" else "83.91/84.10")
    (total, _) = tables.totals([*rows, *rows_of("b", founding("bert_1mi"))])
    assert total["value"] is None and total["missing"] == [lacking]


def test_a_score_of_some_of_the_records_is_missing_and_coverage_is_shown():
    rows = rows_of("a", founding("bert_HF"))
    rows[0] = row("a", "cola", {"mcc": 0.5653}, n=9)
    found = glue.results(rows, [])
    assert found.lines[0][1:4] == ["", "", ""] and "missing cola" in found.notes[0]
    assert "Records scored, of those in the file: cola 9 of 10, mnli 10 of 10" in found.notes[1]
    whole = row("a", "cola", {"mcc": 0.5653}, verdict=None, speed_per_s={"value": None})  # of an eval without a bench
    assert glue.results([whole, *rows], []).lines[0][1:4] == ["81.67", "78.85", "56.53"]


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ({"origin": "synthetic"}, "Synthetic records: wnli."),
        ({"sample": True}, "Not the official files, so not comparable with published scores: wnli."),
    ],
)
def test_what_is_no_official_file_is_said(data, note):
    one = row("a", "wnli", {"accuracy": 0.5})
    assert glue.results([one | {"data": one["data"] | data}], []).notes[-1] == note


def test_a_step_that_failed_changes_no_note_on_its_task_and_is_no_model_of_its_own():
    one, other = row("a", "wnli", {"accuracy": 0.5}), row("b", "rte", {"accuracy": 0.5})
    failed = row("b", "wnli", {}, batch_size=None, verdict="FAILED") | {"data": None}
    rows = [one | {"data": one["data"] | {"sample": True}}, failed, other]
    assert "comparable with published scores: wnli." in glue.results(rows, []).notes[-1]
    lacking = [line for line in tables.total_lines(rows) if line.startswith("No total")]
    assert len(lacking) == 2 and sum(" for b" in line for line in lacking) == 1 and "missing wnli" not in lacking[0]


def test_other_benchmarks_have_no_such_table():
    assert glue.results([row("a", "terra", {"accuracy": 0.5})], []) is None and glue.files(None) == {}


# -- runs ----------------------------------------------------------------------------------------------------------
F1, ACCURACY = (0.80, 0.84, 0.82), (0.75, 0.70, 0.74)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A training of MRPC with three runs, as a report reads it."""

    def train(select, chosen):
        result = {
            "task": "mrpc", "model": "m", "seed": chosen, "recipe": {"select": select},
            "seeds": [{"seed": k + 1, "score": f1, "metrics": {"f1": f1, "accuracy": ACCURACY[k]}} for k, f1 in enumerate(F1)],
        }  # fmt: skip
        status = {"state": "done", "task": "mrpc", "model": "m", "step": "train", "outputs": {}}
        monkeypatch.setattr(seeds_table, "shown_as", lambda *args: seeds_table.TRAINING)
        monkeypatch.setattr(seeds_table, "read_result", lambda *args: result)
        return seeds_table.trainings(tmp_path, None, [], [(tmp_path / "step", status)])

    return train


@pytest.mark.parametrize(
    ("select", "protocol"), [("last", "seed: end of training"), ("best", "final: best checkpoint")]
)
def test_runs_have_mean_and_spread_and_the_maximum_is_one_run_with_its_optimism(trained, select, protocol):
    found = glue.results([row("m", "mrpc", {"f1": 0.84, "accuracy": 0.70})], trained(select, 2))
    gain = 100 * stdev(F1) * 0.8463
    assert found.runs == [["mrpc", "m", protocol, "3", "82.00/73.00", "2.00/2.65", "84.00/70.00", f"{gain:.2f}"]]
    texts = glue.files(found)
    assert list(csv.reader(io.StringIO(texts["glue-runs.csv"]))) == [list(glue.RUNS), *found.runs]
    assert "| mrpc | m |" in texts["glue.md"]


@pytest.mark.parametrize(
    ("select", "runs", "had"),
    [("best", 1, True), ("best", 2, True), ("last", 1, False), ("last", 2, True), (None, 1, True)],
)
def test_the_end_of_training_with_one_seed_is_not_chosen_by_val(select, runs, had):
    recipe = {"recipe": {"select": select}} if select else {}  # older ones have none
    assert points._selected({**recipe, "seeds": [{}] * runs}) == had


# -- a plan --------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_plan_leaves_the_tables_which_verify_makes_anew(main, tmp_path):
    plan = write_plan(tmp_path, models=["majority"], tasks=["stsb", "wnli"], steps=["train", "eval", "report"])
    done = main("run", plan, "--out", tmp_path / "out", cwd=ROOT, env={"MOROCCO_DATA": ""})
    assert done.returncode == 0, done.stderr
    (table,) = (tmp_path / "out").glob("report-*/glue.csv")
    (line,) = csv.DictReader(io.StringIO(table.read_text()))
    assert line["stsb"] == "0.00/0.00" and line["wnli"] and not line["average_glue"] and not line["perplexity"]
    page = table.with_name("report.html").read_text()
    assert "<h2>GLUE</h2>" in page and "missing cola, mnli, mnli_mm, mrpc, qnli, qqp, rte, sst2." in page
    assert main("verify", tmp_path / "out").returncode == 0
    (sts,) = (tmp_path / "out").glob("majority/stsb/eval-*/STS-B.tsv")
    assert sts.read_text().splitlines()[0] == "index\tprediction"
