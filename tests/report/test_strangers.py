"""A stranger's folder of results: nothing of it runs, carries a file from elsewhere, or stops what it is shown beside."""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import run_folders

from morocco_lib import fileio
from morocco_lib.analysis import summary
from morocco_lib.artifacts import steps
from morocco_lib.errors import UsageError
from morocco_lib.pipeline.report_step import report_step
from morocco_lib.pipeline.step_kinds import verify
from morocco_lib.report import interactive, render

SECRET = "canary-4711"


@pytest.fixture
def plan(tmp_path):
    run_folders.bench_step(tmp_path / "plan/ours/terra/bench-1", "ours")
    return tmp_path / "plan"


class Parsed(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.handlers, self.policies, self.scripts = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.scripts += [dict(attributes)] if tag == "script" else []
        self.handlers += [
            name for name, value in attributes if name[:2] == "on" or (value or "").startswith("javascript")
        ]
        self.policies += [
            dict(attributes).get("content", "") for name, value in attributes if value == "Content-Security-Policy"
        ]


def assert_quiet(path: Path) -> None:
    text, scripts = path.read_text(), interactive.scripts()
    page = Parsed(text)
    (policy,) = page.policies
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    if path.name == "report.html":  # the kit's own scripts run, by their digests, and data is no script
        assert policy == interactive.policy(scripts) and len(re.findall("sha256-", policy)) == len(scripts)
        assert (
            page.scripts == [{"type": "application/json", "id": "points"}, *[{}] * len(scripts)]
            or page.scripts == [{}] * 3
        )
        page.tags.discard("script")
    assert not page.tags & {"script", "iframe", "object", "embed", "form", "base", "link"} and not page.handlers
    assert path.name == "report.html" or "script-src" not in policy
    assert path.read_text().index("Content-Security-Policy") < 200


# -- what is shown -------------------------------------------------------------------------------------------------
MARKUP = (
    "<script>alert(1)</script><img src=x onerror=alert(1)><iframe src=//x></iframe><svg onload=alert(1)><a href='javascript:1'>a</a>"
    "<style>p{background:url(//x)}</style><meta http-equiv=refresh content='0;url=//x'><p style='position:fixed' onclick=x>kept</p>"
)


def test_a_page_of_a_stranger_runs_nothing(plan):
    model = "<script>alert(1)</script>"
    run_folders.bench_step(
        plan / "theirs/terra/bench-1", model, lambda folder: (folder / "notebook.html").write_text(MARKUP)
    )
    page = report_step(plan)
    assert_quiet(page)
    pages = sorted((page.parent / "notebooks").iterdir())
    assert len(pages) == 2 and "&lt;script&gt;" in page.read_text()
    for path in pages:
        assert_quiet(path)
    theirs = pages[1].read_text()
    assert "<p>kept</p>" in theirs and not re.search(r"//x|alert\(1\)>", theirs.partition("<body>")[2])


def test_a_notebook_that_was_run_here_runs_nothing_in_its_page(tmp_path):
    cell = {"cell_type": "code", "source": "1", "metadata": {}, "execution_count": 1, "id": "a"}
    outputs = [
        {"output_type": "display_data", "metadata": {}, "data": data}
        for data in (
            {"text/html": MARKUP}, {"text/latex": MARKUP}, {"application/javascript": "alert(1)"},
            {"image/svg+xml": "<svg onload='alert(1)'/>"},
        )
    ]  # fmt: skip
    note = {"cell_type": "markdown", "source": MARKUP, "metadata": {}, "id": "b"}
    content = {"cells": [cell | {"outputs": outputs}, note], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "notebook.ipynb").write_text(json.dumps(content))
    render.notebook_html(tmp_path / "notebook.ipynb", tmp_path / "notebook.html")
    assert_quiet(tmp_path / "notebook.html")
    assert "kept" in (tmp_path / "notebook.html").read_text()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ('<td id="T_1" style="color: #999">1</td>', '<td id="T_1" style="color: #999">1</td>'),
        ("<STYLE type=x>#T_1 {color: red}</style>", "<style>#T_1 {color: red}</style>"),
        ('<img alt="a" src="data:image/png;base64,AA=="\n/>', '<img alt="a" src="data:image/png;base64,AA==">'),
        ('<a class=x href="#a">&para;</a>', '<a class="x" href="#a">&para;</a>'),
        ("a < b <!-- c --> & d", "a &lt; b  & d"),
        ("<p title='\"'>", '<p title="&quot;">'),
        ('<img src="data:text/html,x"><a href="data:x"><a href=" https:x">', "<img><a><a>"),
        ("<style>@import 'x'</style><style>a{content:'x'}</style><style>\\75rl</style><style><b></style>", "<b>"),
        ('<p class="a<script>">', '&lt;p class="a">'),
        ("<scr<script>ipt>alert(1)</script>", "&lt;script>alert(1)"),
        ("<p/onclick=x><p style=behavior:x>", "&lt;p/onclick=x><p>"),
    ],
)
def test_of_html_what_tables_and_figures_need_is_kept(given, kept):
    assert render.clean(given) == kept
    assert render.clean(kept) == kept


@pytest.mark.parametrize(
    ("bad", "kept"),
    [
        *((bad, True) for bad in ("<b>", "<a><i><p>", "&")),
        *((bad, False) for bad in ("<style", "<!--", '<p a="', "<p a", "<p " + "a " * 9, "<")),
    ],
)
def test_html_made_to_slow_a_parser_down_is_cleaned_at_once(bad, kept):
    text = bad * 20_000  # a parser takes minutes: the test's own limit is seconds
    assert render.clean(text) == (text if kept else text.replace("<", "&lt;"))


def test_names_stop_nobodys_page_and_compute_nothing(plan):
    names = ["$x", r"$\frac{a$", "_under", "<b>", "=1+1", "{{ 7 * 7 }}", "%s{0}", "a" * 200, "модель"]
    for number, model in enumerate(names):
        run_folders.bench_step(plan / f"theirs-{number}/terra/bench-1", model)
    page = report_step(plan)
    assert_quiet(page)
    assert "ours" in page.read_text() and "49" not in re.findall(r"<td>(\d+)<small>batch", page.read_text())
    assert not re.search(r"(^|,)=", (page.parent / "table.csv").read_text(), re.MULTILINE)


@pytest.mark.parametrize("model", ["a" * 201, "\x1b[2J", "a\nb", "\u202eb", "\x00"])
def test_what_is_no_name_is_refused(tmp_path, model):
    folder = run_folders.bench_step(tmp_path / "plan/bench-1")
    status = steps.read_status(folder)
    fileio.write_json(folder / steps.STATUS, steps.seal(status | {"model": model}))
    with pytest.raises(UsageError, match=re.escape(f"its model is {model!r:.60}")) as caught:
        report_step(tmp_path / "plan")
    assert len(str(caught.value)) < 500


def test_no_folder_takes_the_page_of_another(plan):
    run_folders.bench_step(plan / "ours-terra/bench-1", "theirs")
    page = report_step(plan)
    texts = [path.read_text() for path in (page.parent / "notebooks").iterdir()]
    assert sum("<p>ours ran</p>" in text for text in texts) == sum("<p>theirs ran</p>" in text for text in texts) == 1
    assert all((page.parent / place).exists() for place in re.findall(r'href="(notebooks/[^"]+)"', page.read_text()))


def test_the_folder_of_a_name_that_is_too_long_for_a_file_is_shown(plan):
    run_folders.bench_step(plan / ("x" * 200) / ("y" * 200) / "bench-1", "theirs")
    assert len(list((report_step(plan).parent / "notebooks").iterdir())) == 2


# -- links ---------------------------------------------------------------------------------------------------------
def linked(name):
    def edit(folder):
        outside = folder.parents[3] / "outside"
        shutil.rmtree(outside, ignore_errors=True)
        place = folder / name
        if place.is_dir():
            shutil.move(place, outside)
        else:
            outside.write_text(place.read_text() + SECRET)
            place.unlink()
        place.symlink_to(outside)

    return edit


@pytest.mark.parametrize(
    "name", ["notebook.html", "bench.json", "runs", "runs/01", "runs/01/run.json", "runs/01/answers.jsonl"]
)
def test_a_link_in_a_step_folder_carries_no_file_into_a_report(plan, name):
    folder = run_folders.bench_step(plan / "theirs/terra/bench-1", "theirs")
    linked(name)(folder)
    with pytest.raises(UsageError, match=re.escape(f"{folder / name} is not a regular file")):
        report_step(plan)
    assert not any(SECRET in path.read_text() for path in plan.glob("report-*/**/*") if path.is_file())
    assert any(name in finding.seen for finding in verify(plan / "theirs") if not finding.ok)


def test_a_status_behind_a_link_is_not_read(plan):
    folder = run_folders.bench_step(plan / "theirs/terra/bench-1", "theirs")
    linked(steps.STATUS)(folder)
    with pytest.raises(UsageError, match="is a link"):
        report_step(plan)


# -- values --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("reasons", ["NO_SUCH"]), ("reasons", "X"), ("verdict", "BEST"), ("verdict", None), ("speed_per_s", {"value": "fast"}),
        ("speed_per_s", {"value": -1}), ("speed_per_s", {"value": None, "reason": "NO_SUCH"}), ("speed_per_s", [1]), ("batch_size", "8"),
        ("data", {"sample": 1}), ("score", {"value": 0.5}), ("score", {"value": 0.5, "majority": {"value": None}}), ("argv", "m"),
        ("settings", {"a": [1]}), ("disturbed_by", [{}]), ("disturbed_by", None), ("device", 1),
    ],
)  # fmt: skip
def test_a_result_that_cannot_be_shown_is_refused_by_name(tmp_path, place, value):
    def edit(folder):
        fileio.write_json(folder / summary.BENCH, fileio.read_json(folder / summary.BENCH) | {place: value})

    folder = run_folders.bench_step(tmp_path / "plan/bench-1", edit=edit)
    with pytest.raises(UsageError, match=re.escape(str(folder))):
        report_step(tmp_path / "plan")


def test_a_run_that_cannot_be_drawn_is_refused_by_name(tmp_path):
    def edit(folder):
        facts = fileio.read_json(folder / "runs/01/run.json")
        fileio.write_json(folder / "runs/01/run.json", facts | {"phases": {"exit_s": "late"}})

    run_folders.bench_step(tmp_path / "plan/bench-1", edit=edit)
    with pytest.raises(UsageError, match="cannot be read"):
        report_step(tmp_path / "plan")


# -- verify --------------------------------------------------------------------------------------------------------
def test_verify_waits_for_no_pipe(plan):
    folder = run_folders.bench_step(plan / "theirs/terra/bench-1")
    (folder / steps.STATUS).unlink()
    os.mkfifo(folder / steps.STATUS)
    (finding,) = [finding for finding in verify(plan) if not finding.ok and finding.what == "status"]
    assert "not a regular file" in finding.seen


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/kcore", "/dev/stdin", "pipe", "a" * 300, "\x00", "/"])
def test_verify_reads_no_device_as_an_input(plan, name):
    folder = run_folders.bench_step(plan / "theirs/terra/bench-1")
    os.mkfifo(plan / "pipe")
    status = steps.read_status(folder)
    inputs = {str(plan / "pipe") if name == "pipe" else name: "0" * 64}
    fileio.write_json(folder / steps.STATUS, steps.seal(status | {"inputs": inputs}))
    assert [finding for finding in verify(plan) if finding.what == "inputs" and "1 of 1 not here" in finding.seen]


def test_verify_of_a_report_looks_at_the_folders_it_rests_on_alone(plan, monkeypatch):
    page = report_step(plan)
    result = fileio.read_json(page.parent / "report.json")
    status = steps.read_status(page.parent)
    fileio.write_json(page.parent / "report.json", result | {"plan_dir": "/"})
    steps.Step(page.parent, status).finish(steps.DONE, 0)
    looked, real = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda place=".": looked.append(str(place)) or real(place))
    findings = verify(page.parent)
    assert [finding.what for finding in findings if not finding.ok] == ["numbers"]
    assert {place.split("/")[1] for place in looked if place != "/"} == {str(plan).split("/")[1]} and len(looked) < 60


def test_verify_makes_no_stream_of_any_length_that_is_claimed(plan, val):
    folder = run_folders.bench_step(plan / "theirs/terra/bench-1")
    path = folder / "runs/01/workload.json"
    workload = fileio.read_json(path) | {"size": 10**15, "source": {"sha256": fileio.sha256_file(val)}}
    fileio.write_json(path, workload)
    step = steps.Step(folder, steps.read_status(folder))
    step.status["inputs"] = {str(val): workload["source"]["sha256"]}
    step.finish(steps.DONE, 0)
    assert any("the order in workload.json" in finding.seen for finding in verify(plan / "theirs") if not finding.ok)
