"""The rows of a report: which results make one row."""

import json
import shutil

from morocco_lib import fileio
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.report import points


def test_a_speed_never_gets_the_score_of_other_records(quick_plan, tmp_path):
    folder = shutil.copytree(quick_plan.folder, tmp_path / "copy")
    (scored,) = folder.glob("tfidf/terra/eval-*")
    load = fileio.read_json(scored / "runs/01/workload.json")
    fileio.write_json(scored / "runs/01/workload.json", load | {"source": {**load["source"], "sha256": "0" * 64}})
    rows = [row for row in points.collect(folder, KINDS) if row["model"] == "tfidf"]
    assert [(bool(row["bench_folder"]), bool(row["eval_folder"])) for row in rows] == [(False, True), (True, False)]
    assert rows[0]["speed_per_s"]["value"] is None


def test_records_of_training_are_recognized_by_their_digest(quick_plan, tmp_path):
    folder = shutil.copytree(quick_plan.folder, tmp_path / "copy")
    (trained,), (scored,) = folder.glob("tfidf/terra/train-*/train.json"), folder.glob("tfidf/terra/eval-*/score.json")
    result = json.loads(trained.read_text())
    result["data"]["sha256"] = json.loads(scored.read_text())["data"]["sha256"]
    fileio.write_json(trained, result)
    assert [row["trained_on_these"] for row in points.collect(folder, KINDS)] == [False, True]
