"""The table of a report in notebook, CSV and terminal, and the remarks under it."""

import csv
import io

from morocco_lib import fileio
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.report import points, tables


def test_invalid_rows_are_grey_with_their_reason(quick_plan):
    row = points.collect(quick_plan.folder, KINDS)[0]
    valid, invalid = row | {"model": "one"}, row | {"model": "other", "verdict": "INVALID", "reasons": ["DRIFT"]}
    styles = tables.styled([valid, invalid])._compute().ctx
    assert {place[0] for place, style in styles.items() if ("color", "#999999") in style} == {1}
    assert "INVALID DRIFT" in tables.styled([valid, invalid, invalid]).to_html()  # two of one name


def test_every_row_says_what_was_measured_and_differing_settings_are_told_apart(quick_plan):
    first, second = points.collect(quick_plan.folder, KINDS)
    for row in (first, second):
        name = {"majority": "model.json", "tfidf": "model.safetensors"}[row["model"]]
        (weights,) = quick_plan.folder.glob(f"{row['model']}/terra/train-*/weights/{name}")
        assert row["measured"]["weights_sha256"] == fileio.sha256_file(weights)
        assert "infer" in row["measured"]["argv"] and row["measured"]["settings"]["OMP_NUM_THREADS"] == "1"
    page = (next(quick_plan.folder.glob("report-*")) / "report.html").read_text()
    assert first["measured"]["weights_sha256"][:12] in page and "OMP_NUM_THREADS=1" in page
    assert tables.settings_lines([first, second]) == []
    other = {**second["measured"], "settings": {**second["measured"]["settings"], "OMP_NUM_THREADS": "2"}}
    (line,) = tables.settings_lines([first, second | {"measured": other}])
    assert (
        line
        == "Measured with different OMP_NUM_THREADS, so speeds are not comparable: 1: majority on terra; 2: tfidf on terra."
    )


def test_a_table_in_a_notebook_runs_nothing(quick_plan):
    row = points.collect(quick_plan.folder, KINDS)[0] | {"model": "<script>x</script>"}
    assert "&lt;script&gt;" in tables.styled([row]).to_html() and "<script>x" not in tables.styled([row]).to_html()


def test_a_spreadsheet_computes_nothing(quick_plan):
    row = points.collect(quick_plan.folder, KINDS)[0] | {"model": "=1+1", "task": "@sum"}
    assert next(csv.DictReader(io.StringIO(tables.to_csv([row]))))["model"] == "'=1+1"
    assert tables.to_csv([row | {"task": "terra", "model": "-x"}]).count("'-x") == 1


def test_disturbed_numbers_are_grey_and_who_disturbed_them_is_one_line(quick_plan):
    by = [{"pid": 9, "name": "make", "share": 0.8}]
    first, second = points.collect(quick_plan.folder, KINDS)
    disturbed = first | {"verdict": "DISTURBED", "reasons": ["BUSY_MACHINE"], "disturbed_by": by}
    styles = tables.styled([disturbed, second])._compute().ctx
    heads = ["task", "model", *(column.head for column in tables.COLUMNS), "verdict"]
    grey = {(row, heads[column]) for (row, column), style in styles.items() if ("color", "#999999") in style}
    assert grey == {(0, "records/s"), (0, "start-up")}
    (line,) = (line for line in tables.remarks([disturbed, disturbed]) if line.startswith("DISTURBED"))
    assert "of 2 of 2 operating points were disturbed by make (pid 9, 80% of all cores)" in line
    cells = tables.text_table([disturbed, second]).splitlines()
    assert cells[1].count("~") == 2 and cells[1].endswith("DISTURBED") and "~" not in cells[2]
    assert "DISTURBED" in tables.to_csv([disturbed]).splitlines()[1] and not tables.disturbance_lines([second])


def test_a_reason_of_several_rows_is_one_sentence(quick_plan):
    first, second = (row | {"reasons": ["DRIFT"]} for row in points.collect(quick_plan.folder, KINDS))
    other = {**second, "reasons": [], "task": "rcb"}
    (line,) = (line for line in tables.remarks([first, second, second, other]) if "DRIFT" in line)
    assert line.startswith("majority on terra, tfidf on terra: DRIFT (disturbance): ") and line.endswith("to the last")
    (line,) = (line for line in tables.remarks([first, second, second]) if "DRIFT" in line)
    assert line.startswith("all 3 operating points: DRIFT")


def test_a_model_is_named_once_where_all_of_its_tasks_are_meant(quick_plan):
    row = points.collect(quick_plan.folder, KINDS)[0]
    rows = [{**row, "model": model, "task": task} for model in "ab" for task in ("terra", "rcb", "rwsd")]
    assert tables.points_text(rows[:5], rows) == "a on all tasks, b on terra, b on rcb"
    assert tables.points_text(rows[:2], rows[:2]) == "a on terra, a on rcb"


def test_a_score_below_the_most_frequent_answer_names_it_where_there_is_one(quick_plan):
    row = points.collect(quick_plan.folder, KINDS)[0]
    bars = [{"value": 0.75, "label": "entailment"}, {"value": 0.75}]
    lines = [tables.remarks([row | {"score": {**row["score"], "value": 0.5, "majority": bar}}]) for bar in bars]
    texts = [next(line.partition(" of these records")[2] for line in found if "below the" in line) for found in lines]
    assert texts == [" (entailment).", "."]


def test_a_score_on_the_training_records_is_called_that(quick_plan):
    (row, _) = points.collect(quick_plan.folder, KINDS)
    leak = "terra: scored on the training records themselves."
    assert not row["trained_on_these"] and leak not in tables.remarks([row])
    assert leak in tables.remarks([row | {"trained_on_these": True}])
    selected = "Scored on the records that selected the checkpoint and seed, so slightly too high: majority on terra."
    assert selected in tables.remarks([row | {"chosen_by_these": True}])
