"""A new kind of step is one entry in the table and one notebook: it is planned, run, verified and reported as the others."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
from helpers import QUIET, ROOT, write_plan

ENTRY = """
KINDS["latency"] = StepKind(
    "latency", config.EvalParams, answer_inputs, "latency.json",
    rebuild=lambda folder: verification.compare(
        folder, "latency.json", {"answers": len((folder / "preds.jsonl").read_text().splitlines())}
    ),
)
"""
CELLS = [
    'model: dict = {}\ntask: dict = {}\nmachine: dict = {}\ndata_dir: str = ""\nout_dir: str = ""\nseed: int = 1\n'
    'weights_dir: str = ""\ncommand: str = ""\nimage: str = ""\nbatch_size: int = 32',
    "from morocco_lib import evaluate, fileio, start_session\nsession = start_session('latency', globals())",
    "result = evaluate(session.target, session.task, session.source, session.folder)\n"
    "fileio.write_json(session.folder / 'latency.json', {'answers': result['score']['n']})",
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
    plan = write_plan(root / "params/plans", steps=["eval", "latency", "report"])

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
    assert states == [("eval", "done"), ("latency", "done"), ("report", "done")]
    (page,) = extended.out.glob("majority/terra/latency-????????/notebook.html")
    assert "VALID" in page.read_text()


def test_a_new_kind_is_in_the_trail_of_the_report(extended):
    (page,) = extended.out.glob("report-*/report.html")
    (step,) = extended.out.glob("majority/terra/latency-????????")
    place = step.relative_to(extended.out).as_posix()
    assert f">{place}</td><td>done</td>" in page.read_text()
    assert (page.parent / "notebooks" / f"{place.replace('/', '-')}.html").is_file()


def test_the_numbers_of_a_new_kind_are_rebuilt_by_verify(extended, tmp_path):
    assert extended.morocco("verify", extended.out)[0] == 0
    copy = shutil.copytree(extended.out, tmp_path / "copy")
    (result,) = copy.glob("majority/terra/latency-????????/latency.json")
    result.write_text('{"answers": 7}\n')
    # With its digest made right again, only the rebuilt number shows it.
    seal = f"from morocco_lib.artifacts import steps as s; from pathlib import Path; f = Path({str(result.parent)!r}); "
    seal += "s.Step(f, s.read_status(f)).finish('done', 0)"
    subprocess.run([sys.executable, "-c", seal], cwd=ROOT, check=True)
    code, text, _ = extended.morocco("verify", copy)
    assert code == 1 and "latency.json: answers is 7, rebuilt 300" in text
