"""The report page: self-contained, every number with its interval, broken and failed steps named."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from math import isnan

import pytest

from morocco_lib import formatting
from morocco_lib.report import interactive, tables


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


def without_scripts(text):
    """Return a page without the library and the script that the kit itself puts in."""
    for script in interactive.scripts():
        assert text.count(script) == 1
        text = text.replace(script, "")
    return text


# -- the page ------------------------------------------------------------------------------------------------------
def test_pages_load_nothing_from_outside_and_the_report_is_small(quick_plan, page):
    reports = [*quick_plan.folder.glob("report-*/report.html"), page / "report.html"]
    pages = [*quick_plan.folder.rglob("notebook.html"), *page.glob("notebooks/*.html"), *reports]
    assert len(pages) == 7 + 6 + 2
    for path in pages:
        text = path.read_text()
        references = References(text)
        assert references.scripts == (4 if path in reports else 0)  # their own, and the data of the chart
        text = without_scripts(text) if path in reports else text
        outside = [r for r in references.found if not r.startswith(("data:", "#")) and not (path.parent / r).exists()]
        assert outside == [] and not re.search(r"@import|url\((?!['\"]?(#|data:))", text), path
    assert max(len(without_scripts(report.read_text())) for report in reports) <= 300_000


def test_page_notebook_and_terminal_show_the_numbers_of_bench_json(quick_plan, page):
    text, rows = without_scripts((page / "report.html").read_text()), quick_plan.summary["rows"]
    assert text.count("<svg") == 2 and text.count(">VALID<") == 4  # in two tables; discs and traces of one task
    assert "Synthetic records" in text
    notebook, terminal = tables.styled(rows).to_html(), tables.text_table(rows)
    shown = {
        "score": formatting.score_text, "speed_per_s": formatting.speed_text, "init_s": formatting.seconds_text,
        "ram_bytes": formatting.bytes_text,
    }  # fmt: skip
    for row in rows:
        for name, form in shown.items():
            if row[name]["value"] is None:  # noise may have left no speed
                assert name == "speed_per_s" and f">{row[name]['reason']}</small>" in text
                continue
            value, low, high = (form(row[name][part]) for part in ("value", "low", "high"))
            assert re.search(rf">{re.escape(value)}</a><small>{re.escape(low)} to {re.escape(high)}</small>", text)
            assert f">{value} ({low} to {high})<" in notebook and value in terminal
        assert f"most frequent answer {row['score']['majority']['value']:.3f}" in text
    assert text.count("<small>process: no isolation, gold hidden</small>") == len(rows)


def test_command_and_notebook_build_the_same_table_from_the_same_steps(quick_plan, page):
    (of_notebook,) = quick_plan.folder.glob("report-*")
    assert (page / "table.csv").read_bytes() == (of_notebook / "table.csv").read_bytes()
    with (page / "table.csv").open(encoding="utf-8") as file:
        speeds = {row["model"]: float(row["speed_per_s"] or "nan") for row in csv.DictReader(file)}
    for model, speed in speeds.items():
        (result,) = quick_plan.folder.glob(f"{model}/terra/bench-*/bench.json")
        found = json.loads(result.read_text())["speed_per_s"]["value"]
        assert found == speed or (found is None and isnan(speed))  # noise may have left no speed


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
