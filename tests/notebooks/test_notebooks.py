"""The source notebooks: clean, thin, strict, and runnable by hand in every way a person runs them."""

import ast
import io
import json
import re
import shutil
import subprocess
import sys
import textwrap
from contextlib import chdir, redirect_stdout

import matplotlib
import nbformat
import pandas
import pytest
from helpers import ROOT
from matplotlib import pyplot
from pandas.io.formats.style import Styler
from papermill import inspect_notebook

from morocco_lib import config
from morocco_lib.artifacts import steps
from morocco_lib.benchmark import protocol
from morocco_lib.errors import UsageError
from morocco_lib.pipeline.session import Facts, Verdict
from morocco_lib.pipeline.step_kinds import KINDS, verify

NAMES = ("train", "bench", "eval", "report")
ALL = (*NAMES, "search", "speed")
QUICK = {"input_size": 60, "repeats": 2, "quick": True}  # of a bench
SMALL = {**QUICK, "input_size": 2000}  # long enough for a speed beside noise


def source(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def parameter_cell(name):
    return next(c for c in source(name).cells if "parameters" in c.metadata.get("tags", []))


def copy_of_the_project(root):
    """Copy what the notebooks stand in, so that what they make lands in no checkout."""
    for folder in ("notebooks", "params"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "outputs").mkdir()
    return root


@pytest.fixture
def project(tmp_path):
    return copy_of_the_project(tmp_path / "проект с пробелом")


def papermill(root, *args):
    argv = [sys.executable, "-m", "papermill", *map(str, args), "-k", "python3", "--no-progress-bar"]
    return subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", [*ALL, "original", "swarm"])
def test_source_notebooks_hold_no_outputs_and_stay_thin(name):
    code = [c for c in source(name).cells if c.cell_type == "code"]
    assert not any(c.outputs or c.execution_count for c in code)
    assert len(code) <= 15
    working = [c for c in code if "parameters" not in c.metadata.get("tags", ())]  # a line a parameter there
    assert max(len(c.source.splitlines()) for c in working) <= 12
    assert "papermill" not in source(name).metadata
    assert source(name).cells[0].source.startswith("# ") and source(name).cells[0].source.splitlines()[0].endswith("?")


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_has_a_type_a_comment_and_the_default_of_the_library(name):
    lines = parameter_cell(name).source.splitlines()
    given = {}
    for line in lines:
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.AnnAssign) and "  # " in line, line
        given[statement.target.id] = ast.literal_eval(statement.value)
    known = KINDS[name].params
    assert set(given) == set(known.model_fields)
    validated = known.model_validate(given)
    for field, info in known.model_fields.items():
        if field not in ("model", "task", "machine"):
            assert getattr(validated, field) == info.default, field


@pytest.mark.parametrize("name", ALL)
def test_the_second_cell_imports_everything_and_checks_the_parameters(name):
    code = [c for c in source(name).cells if c.cell_type == "code"]
    assert code[0] == parameter_cell(name)
    assert f'start_session("{name}", globals())' in code[1].source
    assert not [c for c in code[2:] if re.search(r"^\s*(from|import) ", c.source, re.MULTILINE)]


@pytest.mark.parametrize("name", ALL)
def test_papermill_lists_type_default_and_meaning_of_every_parameter_and_nothing_else(name):
    listed = inspect_notebook(str(ROOT / "notebooks" / f"{name}.ipynb"))
    for line in parameter_cell(name).source.splitlines():
        parameter, kind, default, meaning = re.fullmatch(r"(\w+): (\w+) = (.*?)  # (.+)", line).groups()
        found = listed.pop(parameter)
        assert (found["inferred_type_name"], found["default"], found["help"]) == (kind, default, meaning)
        assert 4 <= len(meaning) <= 110 and meaning[0].islower() and not meaning.endswith("."), meaning
    assert not listed


# -- cell by cell --------------------------------------------------------------------------------------------------
def run_cells(name, root, **parameters):
    """Run the code cells of a notebook in this process, as a kernel would; returns what they show and what they print."""
    shown, printed = [], io.StringIO()
    names = {"display": shown.append}
    matplotlib.use("agg")
    with chdir(root / "notebooks"), redirect_stdout(printed):
        for cell in (c for c in source(name).cells if c.cell_type == "code"):
            body = ast.parse(cell.source).body
            last = body.pop() if isinstance(body[-1], ast.Expr) and not cell.source.endswith(";") else None
            exec(compile(ast.Module(body, []), name, "exec"), names)
            if last and (value := eval(compile(ast.Expression(last.value), name, "eval"), names)) is not None:
                shown.append(value)
            if cell == parameter_cell(name):
                names |= parameters
    return shown, printed.getvalue()


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """The four notebooks run one after the other: their project, name -> what they showed, and the figures left open."""
    root = copy_of_the_project(tmp_path_factory.mktemp("typed") / "project")
    pyplot.close("all")
    shown = {name: run_cells(name, root, **(SMALL if name == "bench" else {})) for name in NAMES}
    yield root, shown, [pyplot.figure(number) for number in pyplot.get_fignums()]
    pyplot.close("all")


def folder_of(root, name, model="tfidf"):
    (folder,) = (root / "outputs/interactive" / model / "terra").glob(f"{name}-*")
    return folder


def test_every_notebook_ends_in_its_verdict_and_leaves_a_step_that_verifies(typed):
    root, shown, _ = typed
    for name in NAMES:
        verdict = shown[name][0][-1]
        assert (repr(verdict).splitlines()[0], verdict.verdict) == ("VALID", "VALID")
        assert ">VALID</b>" in verdict._repr_html_()
    states = {status["step"]: (status["state"], status["exit"]) for _, status in steps.find_steps(root / "outputs")}
    assert states == dict.fromkeys(("synthetic", *NAMES), ("done", 0))
    findings = verify(root / "outputs")
    assert all(finding.ok for finding in findings)
    assert {finding.step.split("/")[-1].split("-")[0] for finding in findings if finding.what == "numbers"} == {
        "synthetic", "train", "bench", "eval", "report"
    }  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_names_of_a_notebooks_own_cells_are_no_parameters_when_it_runs_again(name):
    cells = [ast.parse(cell.source) for cell in source(name).cells if cell.cell_type == "code"]
    first, *later = (
        {n.id for n in ast.walk(c) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} for c in cells
    )
    values = {}
    exec(parameter_cell(name).source, values)
    names = values | dict.fromkeys(set().union(*later), "of a later cell")
    params = KINDS[name].params
    assert config.of_notebook(params, name, names, first) == config.of_notebook(params, name, values)


@pytest.mark.parametrize("name", ["train", "bench", "eval"])
def test_a_notebook_names_every_file_it_reads_with_its_digest(typed, name):
    root, shown, _ = typed
    facts = next(value for value in shown[name][0] if isinstance(value, Facts))
    status = steps.read_status(folder_of(root, name))
    text, page = repr(facts), facts._repr_html_()
    assert len(status["inputs"]) == (1 if name == "train" else 2)
    for path, digest in status["inputs"].items():
        place = (folder_of(root, name) / path).resolve().relative_to(root.resolve())
        assert f"{place}  sha256 {digest[:12]}" in text and f"{place}  sha256 {digest[:12]}" in page
    assert "a tenth of the labels wrong on purpose" in text


def test_the_bench_notebook_shows_a_row_a_run_and_the_bound_beside_the_speed(typed):
    root, shown, figures = typed
    runs, sampler = (value for value in shown["bench"][0] if isinstance(value, pandas.DataFrame))
    result = json.loads((folder_of(root, "bench") / "bench.json").read_text())
    assert [row["run"] for row in result["per_run"]] == list(runs.index) == list(sampler.index) == result["runs"]
    assert list(runs["speed_per_s"]) == [round(row["speed_per_s"], 3) for row in result["per_run"]]
    printed = shown["bench"][1]
    assert "run 2 of 2: 2000 answers" in printed and "2000 records, batch 32, 2 runs, synthetic records" in printed
    bound, ratio = re.search(r"bound ([\d,]+) records/s; measured / bound = ([\d.]+)", printed).groups()
    assert float(ratio) == pytest.approx(result["speed_per_s"]["value"] / float(bound.replace(",", "")), rel=0.06)
    upper = [axis for axis in figures[0].axes if axis.get_ylabel() == "memory, MiB"]
    assert [axis.get_title() for axis in upper] == ["runs/01", "runs/02"]
    assert all(axis.lines[0].get_ydata().max() > 5 for axis in upper)  # an interpreter is no smaller


def test_the_eval_notebook_shows_where_the_errors_are(typed):
    root, shown, _ = typed
    table, wrong = (value for value in shown["eval"][0] if isinstance(value, pandas.DataFrame))
    score = json.loads((folder_of(root, "eval") / "score.json").read_text())["score"]
    right = sum(table.loc[label, label] for label in table.index[:-1])
    assert table.loc["all", "all"] == 300 and right / 300 == pytest.approx(score["value"])
    assert len(wrong) == 5 and (wrong["right"] != wrong["given"]).all() and "label" not in wrong
    assert f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f}) above the most" in shown["eval"][1]


def test_the_report_notebook_shows_the_results_that_were_made_last(typed):
    root, shown, figures = typed
    rows, missing = (value.data for value in shown["report"][0] if isinstance(value, Styler))
    assert list(missing.columns) == ["missing", "seen", "remedy"]
    assert rows[["task", "model"]].values.tolist() == [["terra", "tfidf (batch 32)"]]
    assert rows["verdict"].str.split().str[0].tolist() == ["VALID"]  # noise may add a note
    (page,) = (root / "outputs/interactive").glob("report-*/report.html")
    assert f"report.html, {page.stat().st_size:,} bytes, in {page.parent.name}" in shown["report"][1]
    assert rows["score"].iloc[0].split()[0] in page.read_text() and "Synthetic records" in shown["report"][1]
    assert [axis.get_title() for axis in figures[-1].axes] == ["terra"]


def test_a_report_without_results_says_what_to_run_first(project):
    with pytest.raises(UsageError, match=r"no result in .*outputs; run `morocco run params/plans/demo\.yaml` first"):
        run_cells("report", project)
    with pytest.raises(
        UsageError, match=r"no result in .*params; a report shows bench and eval steps; run `morocco run PLAN\.yaml`"
    ):
        run_cells("report", project, plan_dir="params")


def test_notebooks_measure_the_weights_they_are_given_and_fit_none(typed, project):
    trained, _, _ = typed
    weights = str(folder_of(trained, "train"))
    for name in ("bench", "eval"):
        run_cells(name, project, weights_dir=weights, **(QUICK if name == "bench" else {}))
        folder = folder_of(project, name)
        assert not (folder / "weights").exists() and not (folder / "train.json").exists()
        argv = json.loads((folder / "runs/01/run.json").read_text())["argv"]
        assert f"{weights}/weights" in argv
    ours, theirs = (json.loads((folder_of(r, "eval") / "score.json").read_text())["score"] for r in (trained, project))
    assert ours == theirs


def test_notebooks_measure_a_program_of_ones_own_under_its_name(project):
    command = f"{sys.executable} {ROOT / 'docs/example_model.py'}"
    _, printed = run_cells("bench", project, command=command, **QUICK)
    assert "example_model on terra: 60 records" in printed
    assert steps.read_status(folder_of(project, "bench", "example_model"))["exit"] == 0
    run_cells("eval", project, command=command)
    answers = (folder_of(project, "eval", "example_model") / "preds.jsonl").read_text().splitlines()
    assert len(answers) == 300


def test_an_invalid_bench_says_so_in_its_last_cell_and_its_status(project):
    command = f"{sys.executable} -c 'import sys; sys.stdin.read(); sys.exit(3)'"
    shown, _ = run_cells("bench", project, command=command, **QUICK)
    (verdict,) = (value for value in shown if isinstance(value, Verdict))
    assert repr(verdict).startswith("INVALID\n") and "NON_ZERO_EXIT: " in repr(verdict)
    assert "#a40000" in verdict._repr_html_() and "<li>NON_ZERO_EXIT: " in verdict._repr_html_()
    (folder,) = (project / "outputs/interactive").glob("*/terra/bench-*")
    assert (steps.read_status(folder)["state"], steps.read_status(folder)["exit"]) == ("done", 1)


# -- a cell of one's own -------------------------------------------------------------------------------------------
def test_the_cell_in_the_help_of_bench_runs(synthetic_data, tmp_path):
    cell = textwrap.dedent(protocol.__doc__[protocol.__doc__.index("    from pathlib") :])
    cell = cell.replace("repeats=3", "repeats=1")  # timed runs only, in a fifth of the time
    shutil.copytree(synthetic_data, tmp_path / "records")
    shutil.copy(ROOT / "docs/example_model.py", tmp_path / "my_model.py")
    names = {}
    with chdir(tmp_path):
        exec(cell, names)
    result = names["result"]
    assert result["verdict"] == "VALID" and {"value", "low", "high"} <= set(result["speed_per_s"])
    assert result == json.loads((tmp_path / "measured/bench.json").read_text())


# -- in a kernel ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_an_unknown_parameter_stops_at_the_second_cell_and_the_nearest_is_named(project, tmp_path):
    out = tmp_path / "out.ipynb"
    done = papermill(project, "notebooks/bench.ipynb", out, "-p", "batchsize", "32")
    assert done.returncode != 0
    assert "unknown parameter 'batchsize'; did you mean 'batch_size'?" in done.stderr
    code = [c for c in nbformat.read(out, as_version=4).cells if c.cell_type == "code"]
    ran = [c for c in code if c.execution_count and "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    assert "start_session" in ran[-1].source
    assert not (project / "outputs" / "interactive").exists()


@pytest.mark.slow
def test_run_all_from_the_notebooks_folder_with_untouched_defaults_works(project):
    for name in ("train", "eval", "report"):  # bench: test_lab.py does it in a browser
        copy = project / "notebooks" / f"{name}.ipynb"
        argv = [sys.executable, "-m", "jupyter", "execute", "--inplace", str(copy), "--kernel_name=python3"]
        done = subprocess.run(argv, cwd=project / "notebooks", capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "VALID" in copy.read_text()
    folders = {folder.name.split("-")[0] for folder, _ in steps.find_steps(project / "outputs")}
    assert folders == {"synthetic", "train", "eval", "report"}
    assert all(status["state"] == "done" for _, status in steps.find_steps(project / "outputs"))


TINY = {
    "name": "tiny", "kind": "transformer", "recipe": {"batch_size": 16, "val_records": 40},
    "scratch": {"model_type": "bert", "vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
}  # fmt: skip


@pytest.mark.slow
def test_the_notebook_on_search_runs_on_tiny_settings(project, tmp_path):
    pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
    pytest.importorskip("optuna", reason="needs the search extra: make setup-torch")
    out, chosen = tmp_path / "out.ipynb", "{trials: 2, epochs: [0.1], batch_sizes: [16], again: '7'}"
    done = papermill(project, "notebooks/search.ipynb", out, "-y", json.dumps({"model": TINY}), "-y", chosen)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_it_left_a_step(project, "search")
    assert "VALID" in out.read_text()


def assert_it_left_a_step(project, name):
    ((folder, status),) = ((f, s) for f, s in steps.find_steps(project / "outputs") if s["step"] == name)
    assert status["state"] == "done" and (folder / f"{name}.json").is_file()
    assert all(finding.ok for finding in verify(folder))


@pytest.mark.slow
def test_the_notebook_on_speed_shows_what_was_measured_and_why_not(project, monkeypatch):
    speed = pytest.importorskip("morocco_lib.training.speed", reason="needs the torch extra: make setup-torch")
    monkeypatch.setattr(speed, "SETTINGS", [speed.SETTINGS[0], speed.SETTINGS[-1]])  # tests/deep/training measures all
    shown, _ = run_cells("speed", project, model=TINY, steps=1, warmup=1)
    (table,) = (value for value in shown if isinstance(value, pandas.DataFrame))
    assert table["rows/s"].notna().tolist() == [True, False] and "Horovod" in table["why not"][1]
    assert repr(shown[-1]).startswith("VALID")
    assert_it_left_a_step(project, "speed")
