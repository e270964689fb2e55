"""Plans on official records give the known scores, and say that samples are samples."""

import json

import pytest
import yaml
from helpers import ROOT

from morocco_lib.report import interactive


@pytest.fixture
def run_plan(main, real_data, tmp_path):
    """Run one of the project's plans, quickly, on the official records; returns its folder and its summary."""

    def run(name, **changes):
        folder, plan = tmp_path / name, tmp_path / f"{name}.yaml"
        values = yaml.safe_load((ROOT / f"params/plans/{name}.yaml").read_text())
        plan.write_text(yaml.safe_dump(values | {"quick": True, "repeats": 1, "input_size": 200, **changes}))
        variables = {"MOROCCO_DATA": str(real_data / "rsg")}
        done = main("run", plan, "--out", folder, "--json", cwd=ROOT, env=variables)
        assert done.returncode == 0, done.stderr
        return folder, json.loads(done.stdout)

    return run


def test_terra(run_plan, real_data):
    folder, summary = run_plan("terra")
    rows = {row["model"]: row for row in summary["rows"]}
    score = rows["tfidf"]["score"]
    assert (score["value"], score["n"]) == (pytest.approx(0.384, abs=5e-4), 242)
    assert score["majority"]["value"] == pytest.approx(128 / 242) and rows["tfidf"]["verdict"] == "VALID"
    (trained,) = (folder / "tfidf/terra").glob("train-*/train.json")
    assert json.loads(trained.read_text())["data"]["records"] == 2087
    page = next(folder.glob("report-*/report.html")).read_text()
    assert all(row["data"]["sample"] for row in rows.values()) and "terra 242 of 307 records" in page
    assert "tfidf on terra scores 0.384, below the 0.529" in page
    notebook = json.loads(next((folder / "tfidf/terra").glob("eval-*/notebook.ipynb")).read_text())
    assert notebook["metadata"]["papermill"]["parameters"]["data_dir"] == str((real_data / "rsg").resolve())


def test_a_baseline_on_all_nine_tasks(run_plan):
    folder, summary = run_plan("tfidf", models=["tfidf"])
    metrics = {row["task"]: row["score"]["metrics"] for row in summary["rows"]}
    known = {"danetqa": 0.569, "rcb": 0.492, "parus": 0.457, "russe": 0.690, "terra": 0.384}
    assert {task: round(metrics[task]["accuracy"], 3) for task in known} == known
    assert round(metrics["rwsd"]["acc"], 3) == 0.536
    assert len(metrics) == 9 and {row["verdict"] for row in summary["rows"]} == {"VALID"}
    page = next(folder.glob("report-*/report.html")).read_text()
    assert "mean of all 9 tasks of Russian SuperGLUE, on samples" in page and "rucos 10 of more" in page
    assert len(page.encode()) - sum(len(script.encode()) for script in interactive.scripts()) <= 500_000
    trained = [s for s in summary["steps"] if s["step"] == "train" and s["task"] == "lidirus"]
    assert [s["state"] for s in trained] == ["kept"]
