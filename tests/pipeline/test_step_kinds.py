"""A new kind of step is one entry in the table and one notebook: it is planned, run, verified and reported as the others."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from helpers import QUIET, ROOT, write_plan

from morocco_lib.artifacts import steps

ENTRY = """
KINDS["latency"] = StepKind(
    "latency", config.EvalParams, answer_inputs, "latency.json", shows=SCORE,
    rebuild=lambda folder: verification.compare(
        folder, "latency.json", summary.derive_eval(folder)[1] | {"longest": 7}
    ),
)
"""
CELLS = [
    'model: dict = {}\ntask: dict = {}\nmachine: dict = {}\ndata_dir: str = ""\nout_dir: str = ""\nseed: int = 1\n'
    'weights_dir: str = ""\ncommand: str = ""\nimage: str = ""\nbatch_size: int = 32',
    "from morocco_lib import evaluate, fileio, start_session\nsession = start_session('latency', globals())",
    "result = evaluate(session.target, session.task, session.source, session.folder)\n"
    "fileio.write_json(session.folder / 'latency.json', result | {'longest': 7})",
    "session.finish()",
]


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project with a sixth kind of step, in which a plan with it was run."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("morocco_lib", "notebooks", "params"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "pyproject.toml", root)
    table = root / "morocco_lib/pipeline/step_kinds.py"
    head, verify, tail = table.read_text().partition("\n\ndef verify(")
    table.write_text(head + ENTRY + verify + tail)
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = nbformat.read(ROOT / "notebooks/eval.ipynb", as_version=4).metadata
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), root / "notebooks/latency.ipynb")
    plan = write_plan(root / "params/plans", steps=["latency"])

    def morocco(*args):
        env = {**os.environ, "PYTHONPATH": f"{QUIET}:{root}", "MOROCCO_DATA": ""}
        argv = [sys.executable, "-m", "morocco_lib", *map(str, args)]
        done = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    preview = morocco("run", plan, "--out", root / "out", "--dry-run")
    summary = morocco("run", plan, "--out", root / "out", "--json")
    return SimpleNamespace(morocco=morocco, out=root / "out", preview=preview, summary=summary)


def test_a_new_kind_is_previewed_and_run(extended):
    code, listed, _ = extended.preview
    lines = [line.split() for line in listed.splitlines()]
    assert code == 0 and ["to", "do", "latency", "majority", "terra"] in lines
    code, text, error = extended.summary
    assert code == 0, error
    states = [(s["step"], s["state"]) for s in json.loads(text)["steps"]]
    assert states == [("latency", "done")]
    (page,) = extended.out.glob("majority/terra/latency-????????/notebook.html")
    assert "VALID" in page.read_text()


def test_a_new_kind_is_a_row_of_the_report_and_in_its_trail(extended):
    code, text, error = extended.morocco("report", extended.out)
    assert code == 0, error
    page = Path(text.strip())
    (step,) = extended.out.glob("majority/terra/latency-????????")
    place = step.relative_to(extended.out).as_posix()
    assert f">{place}</td><td>done</td>" in page.read_text() and "<td>majority<small>" in page.read_text()
    assert (page.parent / "notebooks" / f"{place.replace('/', '-')}.html").is_file()


def test_the_numbers_of_a_new_kind_are_rebuilt_by_verify(extended, tmp_path):
    assert json.loads(extended.summary[1])["verified"]
    copy = shutil.copytree(extended.out, tmp_path / "copy")
    (path,) = copy.glob("majority/terra/latency-????????/latency.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"longest": 8}))
    # With its digest made right again, only the rebuilt number shows it.
    steps.Step(path.parent, steps.read_status(path.parent)).finish("done", 0)
    code, text, _ = extended.morocco("verify", copy)
    assert code == 1 and "latency.json: longest is 8, rebuilt 7" in text
