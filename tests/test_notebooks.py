"""The source notebooks: clean, thin, strict, and runnable by hand in every way a person runs them."""

import ast
import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT

from morocco_lib import params, steps

NAMES = ("train", "bench", "eval", "report")


def source(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def parameter_cell(name):
    return next(c for c in source(name).cells if "parameters" in c.metadata.get("tags", []))


@pytest.fixture
def project(tmp_path):
    """A copy of what the notebooks stand in, so that what they make lands in no checkout."""
    root = tmp_path / "проект с пробелом"
    for folder in ("notebooks", "params"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "outputs").mkdir()
    return root


def papermill(root, *args):
    argv = [sys.executable, "-m", "papermill", *map(str, args), "-k", "python3", "--no-progress-bar"]
    return subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", NAMES)
def test_source_notebooks_hold_no_outputs_and_stay_thin(name):
    code = [c for c in source(name).cells if c.cell_type == "code"]
    assert not any(c.outputs or c.execution_count for c in code)
    assert len(code) <= 15
    assert max(len(c.source.splitlines()) for c in code) <= 15
    assert "papermill" not in source(name).metadata
    assert source(name).cells[0].source.startswith("# ") and source(name).cells[0].source.splitlines()[0].endswith("?")


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_type_a_comment_and_the_default_of_the_library(name):
    lines = parameter_cell(name).source.splitlines()
    given = {}
    for line in lines:
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.AnnAssign) and "  # " in line, line
        given[statement.target.id] = ast.literal_eval(statement.value)
    known = params.PARAMS[name]
    assert set(given) == set(known.model_fields)
    validated = known.model_validate(given)
    for field, info in known.model_fields.items():
        if field not in ("model", "task", "machine"):
            assert getattr(validated, field) == info.default, field


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_checked_in_the_second_cell(name):
    code = [c for c in source(name).cells if c.cell_type == "code"]
    assert code[0] == parameter_cell(name)
    assert f'notebook.start("{name}", globals())' in code[1].source


@pytest.mark.slow
def test_an_unknown_parameter_stops_at_the_second_cell_and_the_nearest_is_named(project, tmp_path):
    out = tmp_path / "out.ipynb"
    done = papermill(project, "notebooks/bench.ipynb", out, "-p", "batchsize", "32")
    assert done.returncode != 0
    assert "unknown parameter 'batchsize'; did you mean 'batch_size'?" in done.stderr
    code = [c for c in nbformat.read(out, as_version=4).cells if c.cell_type == "code"]
    ran = [c for c in code if c.execution_count and "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    assert "notebook.start" in ran[-1].source
    assert not (project / "outputs" / "interactive").exists()


@pytest.mark.slow
def test_papermill_from_the_root_with_parameter_files_works_by_hand(project, tmp_path):
    out = tmp_path / "out.ipynb"
    files = ("-f", "params/models/majority.yaml", "-f", "params/tasks/terra.yaml", "-p", "batch_size", "16")
    done = papermill(project, "notebooks/bench.ipynb", out, *files)
    assert done.returncode == 0, done.stderr
    (folder,) = (project / "outputs/interactive/majority/terra").glob("bench-*")
    assert json.loads((folder / "bench.json").read_text())["batch_size"] == 16
    assert steps.read_status(folder)["state"] == "done"


@pytest.mark.slow
def test_run_all_from_the_notebooks_folder_with_untouched_defaults_works(project):
    for name in NAMES:
        copy = project / "notebooks" / f"{name}.ipynb"
        argv = [sys.executable, "-m", "jupyter", "execute", "--inplace", str(copy), "--kernel_name=python3"]
        done = subprocess.run(
            argv, cwd=project / "notebooks", capture_output=True, text=True, timeout=300, env=os.environ
        )
        assert done.returncode == 0, done.stderr
        assert "VALID" in "".join(
            str(c.outputs) for c in nbformat.read(copy, as_version=4).cells if c.cell_type == "code"
        )
    folders = {folder.name.split("-")[0] for folder, _ in steps.find_steps(project / "outputs")}
    assert folders == {"synthetic", "train", "bench", "eval", "report"}
    assert all(status["state"] == "done" for _, status in steps.find_steps(project / "outputs"))


@pytest.mark.slow
def test_running_a_notebook_again_sets_the_earlier_result_aside(project, tmp_path):
    for number in (1, 2):
        done = papermill(
            project, "notebooks/train.ipynb", tmp_path / f"{number}.ipynb", "-f", "params/models/majority.yaml"
        )
        assert done.returncode == 0, done.stderr
    names = sorted(f.name for f in (project / "outputs/interactive/majority/terra").iterdir())
    assert len(names) == 2 and names[1] == f"{names[0]}.1"
