"""The report page: self-contained, every number with its interval, broken and failed steps named; and its table."""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from morocco_lib import fileio, formatting
from morocco_lib.artifacts import steps
from morocco_lib.pipeline.step_kinds import KINDS, verify
from morocco_lib.report import tables


@pytest.fixture(scope="session")
def page(main, quick_plan, tmp_path_factory):
    """The folder of a page built by `morocco report`."""
    out = tmp_path_factory.mktemp("page") / "page"
    done = main("report", quick_plan.folder, "--out", out)
    assert (done.returncode, done.stdout) == (0, f"{out / 'report.html'}\n"), done.stderr
    return out


class References(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.scripts = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        names = ("src", "href", "srcset", "data", "action", "xlink:href")
        self.scripts += tag == "script"
        self.found += [value for name, value in attributes if name in names and value]


# -- the page ------------------------------------------------------------------------------------------------------
def test_pages_load_nothing_from_outside_and_the_report_is_small(quick_plan, page):
    reports = [*quick_plan.folder.glob("report-*/report.html"), page / "report.html"]
    pages = [*quick_plan.folder.rglob("notebook.html"), *page.glob("notebooks/*.html"), *reports]
    assert len(pages) == 7 + 6 + 2
    for path in pages:
        text = path.read_text()
        references = References(text)
        assert references.scripts == 0
        outside = [r for r in references.found if not r.startswith(("data:", "#")) and not (path.parent / r).exists()]
        assert outside == [] and not re.search(r"@import|url\((?!['\"]?(#|data:))", text), path
    assert max(report.stat().st_size for report in reports) <= 1_000_000


def test_page_notebook_and_terminal_show_the_numbers_of_bench_json(quick_plan, page):
    text, rows = (page / "report.html").read_text(), quick_plan.summary["rows"]
    assert text.count("<svg") == 2 and text.count(">VALID<") == 2  # discs and traces of one task
    assert "Synthetic records" in text
    notebook, terminal = tables.styled(rows).to_html(), tables.text_table(rows)
    shown = {
        "score": formatting.score_text, "speed_per_s": formatting.speed_text, "init_s": formatting.seconds_text,
        "ram_bytes": formatting.bytes_text,
    }  # fmt: skip
    for row in rows:
        for name, form in shown.items():
            value, low, high = (form(row[name][part]) for part in ("value", "low", "high"))
            assert f"<td>{value}<small>{low} to {high}</small>" in text
            assert f">{value} ({low} to {high})<" in notebook and value in terminal
        assert f"most frequent answer {row['score']['majority']['value']:.3f}" in text
    assert text.count("<small>process: no isolation, gold hidden</small>") == len(rows)


def test_command_and_notebook_build_the_same_table_from_the_same_steps(quick_plan, page):
    (of_notebook,) = quick_plan.folder.glob("report-*")
    assert (page / "table.csv").read_bytes() == (of_notebook / "table.csv").read_bytes()
    with (page / "table.csv").open(encoding="utf-8") as file:
        speeds = {row["model"]: float(row["speed_per_s"]) for row in csv.DictReader(file)}
    for model, speed in speeds.items():
        (result,) = quick_plan.folder.glob(f"{model}/terra/bench-*/bench.json")
        assert json.loads(result.read_text())["speed_per_s"]["value"] == speed


def test_synthetic_records_are_called_synthetic_in_every_notebook(quick_plan):
    for name in ("train", "bench", "eval"):
        (path,) = (quick_plan.folder / "tfidf/terra").glob(f"{name}-*/notebook.html")
        assert "synthetic, a tenth of the labels wrong on purpose" in path.read_text()


# -- what cannot be reported ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("broken", ["{", "without a speed"])
def test_a_broken_result_is_named(main, quick_plan, tmp_path, broken):
    (path,) = quick_plan.folder.glob("tfidf/terra/bench-*/bench.json")
    folder = shutil.copytree(path.parent, tmp_path / "plan/bench")
    result = json.loads(path.read_text())
    del result["speed_per_s"]
    (folder / "bench.json").write_text(json.dumps(result) if broken == "without a speed" else broken)
    done = main("report", folder.parent)
    assert done.returncode == 2 and str(folder) in done.stderr and "run the step again" in done.stderr
    assert not list(folder.parent.glob("report-*/report.html"))


def test_without_a_result_there_is_nothing_to_report(main, quick_plan, tmp_path):
    done = main("report", tmp_path)
    assert done.returncode == 2 and f"no result in {tmp_path}" in done.stderr and list(tmp_path.iterdir()) == []
    (train,) = quick_plan.folder.glob("tfidf/terra/train-*")
    shutil.copytree(train, tmp_path / "plan/train")
    done = main("report", tmp_path / "plan")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no result in {tmp_path / 'plan'}; a report shows bench and eval steps" in done.stderr


def test_a_failed_step_is_in_the_report_with_its_reason(main, synthetic_data, tmp_path):
    (tmp_path / "train.jsonl").symlink_to(synthetic_data / "TERRa/test.jsonl")
    assert main("train", "majority", "terra", "--data", tmp_path, "--out", tmp_path / "plan/train").returncode == 2
    done = main("report", tmp_path / "plan")
    assert done.returncode == 0, done.stderr
    with open(done.stdout.strip(), encoding="utf-8") as file:
        text = file.read()
    assert "FAILED" in text and "majority on terra: train failed: " in text and "have no label" in text


# -- the table -----------------------------------------------------------------------------------------------------
def test_invalid_rows_are_grey_with_their_reason(quick_plan):
    row = tables.collect(quick_plan.folder, KINDS)[0]
    valid, invalid = row | {"model": "one"}, row | {"model": "other", "verdict": "INVALID", "reasons": ["DRIFT"]}
    styles = tables.styled([valid, invalid])._compute().ctx
    assert {place[0] for place, style in styles.items() if ("color", "#999999") in style} == {1}
    assert "INVALID DRIFT" in tables.styled([valid, invalid, invalid]).to_html()  # two of one name


def test_every_row_says_what_was_measured_and_differing_settings_are_told_apart(quick_plan):
    first, second = tables.collect(quick_plan.folder, KINDS)
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
    row = tables.collect(quick_plan.folder, KINDS)[0] | {"model": "<script>x</script>"}
    assert "&lt;script&gt;" in tables.styled([row]).to_html() and "<script>x" not in tables.styled([row]).to_html()


def test_a_spreadsheet_computes_nothing(quick_plan):
    row = tables.collect(quick_plan.folder, KINDS)[0] | {"model": "=1+1", "task": "@sum"}
    assert next(csv.DictReader(io.StringIO(tables.to_csv([row]))))["model"] == "'=1+1"
    assert tables.to_csv([row | {"task": "terra", "model": "-x"}]).count("'-x") == 1


def test_disturbed_numbers_are_grey_and_who_disturbed_them_is_one_line(quick_plan):
    by = [{"pid": 9, "name": "make", "share": 0.8}]
    first, second = tables.collect(quick_plan.folder, KINDS)
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


def test_a_page_of_before_says_nothing_of_isolation_and_verifies(quick_plan, tmp_path):
    folder = shutil.copytree(quick_plan.folder, tmp_path / "copy")
    for run in folder.rglob("run.json"):
        facts = json.loads(run.read_text())
        del facts["proven"]
        fileio.write_json(run, facts)
    for result in folder.rglob("bench.json"):
        fileio.write_json(result, {k: v for k, v in json.loads(result.read_text()).items() if k != "proven"})
    (page,) = folder.glob("report-*/report.html")
    page.write_text(page.read_text().replace("<small>process: no isolation, gold hidden</small>", ""))
    for status in folder.rglob("status.json"):
        steps.Step(status.parent, steps.read_status(status.parent)).finish("done", 0)
    assert [finding.seen for finding in verify(folder) if not finding.ok and finding.what == "numbers"] == []


def test_memory_of_before_mapped_files_counted_is_told_from_that_of_now(quick_plan):
    now = tables.collect(quick_plan.folder, KINDS)
    assert {row["ram_bytes"]["method"].partition(" with ")[2] for row in now} == {"mapped files"}
    before = [row | {"ram_bytes": row["ram_bytes"] | {"method": "cgroup v1"}} for row in now]
    assert tables.memory_lines(now) == tables.memory_lines(before) == []
    (line,) = tables.memory_lines([before[0], now[1]])
    assert line in tables.remarks([before[0], now[1]]) and line.endswith("with the others': majority on terra.")


def test_a_reason_of_several_rows_is_one_sentence(quick_plan):
    first, second = (row | {"reasons": ["DRIFT"]} for row in tables.collect(quick_plan.folder, KINDS))
    (line,) = (line for line in tables.remarks([first, second, second]) if "DRIFT" in line)
    assert line.startswith("majority on terra, tfidf on terra: DRIFT (disturbance): ") and line.endswith("to the last")


def test_a_score_below_the_most_frequent_answer_names_it_where_there_is_one(quick_plan):
    row = tables.collect(quick_plan.folder, KINDS)[0]
    bars = [{"value": 0.75, "label": "entailment"}, {"value": 0.75}]
    lines = [tables.remarks([row | {"score": {**row["score"], "value": 0.5, "majority": bar}}]) for bar in bars]
    texts = [next(line.partition(" of these records")[2] for line in found if "below the" in line) for found in lines]
    assert texts == [" (entailment).", "."]


def test_a_speed_never_gets_the_score_of_other_records(quick_plan, tmp_path):
    folder = shutil.copytree(quick_plan.folder, tmp_path / "copy")
    (scored,) = folder.glob("tfidf/terra/eval-*")
    status = steps.read_status(scored)
    name = next(iter(status["inputs"]))
    status["inputs"][name] = "0" * 64
    fileio.write_json(scored / steps.STATUS, steps.seal(status))
    rows = [row for row in tables.collect(folder, KINDS) if row["model"] == "tfidf"]
    assert [(bool(row["bench_folder"]), bool(row["eval_folder"])) for row in rows] == [(False, True), (True, False)]
    assert rows[0]["speed_per_s"]["value"] is None


def test_a_score_on_the_training_records_is_called_that(quick_plan):
    (row, _) = tables.collect(quick_plan.folder, KINDS)
    leak = "terra: scored on the training records themselves."
    assert not row["trained_on_these"] and leak not in tables.remarks([row])
    assert leak in tables.remarks([row | {"trained_on_these": True}])
    selected = "Scored on the records that selected the checkpoint and seed, so slightly too high: majority on terra."
    assert selected in tables.remarks([row | {"chosen_by_these": True}])


def test_records_of_training_are_recognized_by_their_digest(quick_plan, tmp_path):
    folder = shutil.copytree(quick_plan.folder, tmp_path / "copy")
    (trained,), (scored,) = folder.glob("tfidf/terra/train-*/train.json"), folder.glob("tfidf/terra/eval-*/score.json")
    result = json.loads(trained.read_text())
    result["data"]["sha256"] = json.loads(scored.read_text())["data"]["sha256"]
    fileio.write_json(trained, result)
    assert [row["trained_on_these"] for row in tables.collect(folder, KINDS)] == [False, True]


@pytest.mark.parametrize(("old", "new"), [(">VALID<", ">INVALID<"), ("MiB", "KiB"), ("OMP_NUM_THREADS", "OMP_THREADS")])
def test_a_page_that_shows_something_else_does_not_verify(old, new, quick_plan, tmp_path):
    folder = shutil.copytree(quick_plan.folder, tmp_path / "copy")
    (page,) = folder.glob("report-*/report.html")
    page.write_text(page.read_text().replace(old, new))
    steps.Step(page.parent, steps.read_status(page.parent)).finish("done", 0)  # as a forger would
    (wrong,) = (finding.seen for finding in verify(folder) if not finding.ok)
    assert "report.html: what it shows as" in wrong
