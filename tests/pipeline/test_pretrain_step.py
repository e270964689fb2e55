"""A model that is pre-trained in its plan: once for all tasks, kept when the plan runs again, and what its other steps start from."""

import json
import subprocess
import sys

import pytest
import yaml
from helpers import copy_project, environment, write_plan

from morocco_lib.artifacts import steps
from morocco_lib.pipeline.step_kinds import verify

pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

MODEL = {
    "name": "little", "kind": "transformer", "pretraining": {"recipe": "tiny-short", "corpus": ["corpus.txt"]},
    "recipe": {"epochs": 0.2, "batch_size": 16, "max_length": 64},
}  # fmt: skip


@pytest.mark.slow
def test_a_plan_pre_trains_a_model_once_and_trains_it_on_each_task(tmp_path, synthetic_data):
    root = copy_project(tmp_path / "project")
    (root / "params/models/little.yaml").write_text(yaml.safe_dump({"model": MODEL}))
    records = (synthetic_data / "RuCoLA/in_domain_train.jsonl").read_text(encoding="utf-8").splitlines()
    (root / "corpus.txt").write_text("".join(f"{json.loads(line)['sentence']}\n" for line in records), encoding="utf-8")
    plan = write_plan(root, models=["little"], tasks=["rwsd", "rucola"], steps=["pretrain", "train"])

    def run(*options):
        known = environment({"MOROCCO_DATA": "", "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(root)})
        argv = [sys.executable, "-m", "morocco_lib", "run", plan, *options]
        done = subprocess.run(argv, cwd=root, env=known, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    code, out, err = run("--dry-run")
    listed = (line for line in out.splitlines() if line.startswith("to do"))
    assert next(listed).split()[2:] == ["pretrain", "little"], out
    code, out, err = run()
    assert code == 0 and "[3/3] train little rucola: done" in err, err
    folder = root / "outputs/small"
    found = {status["step"]: path for path, status in steps.find_steps(folder) if status["model"]}
    made = found["pretrain"]
    assert made.parent == folder / "little" and json.loads((made / "pretrain.json").read_text())["updates"] == 60
    trained = [status for _, status in steps.find_steps(folder) if status["step"] == "train"]
    assert [status["parameters"]["model"]["source"] for status in trained] == [
        f"outputs/small/little/{made.name}/model"
    ] * 2
    assert all(sum(path.endswith("model/sparsity.safetensors") for path in status["inputs"]) == 1 for status in trained)
    assert all(finding.ok for finding in verify(folder))
    code, out, err = run()
    assert code == 0 and err.count(": kept in") == 3, err
