"""Models that are pre-trained in their plan: seed by seed, from each other, past a stall; kept, and what later steps start from."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from helpers import copy_project, environment, write_plan

from morocco_lib.artifacts import steps
from morocco_lib.pipeline.step_kinds import verify

pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

MODEL = {
    "name": "little", "kind": "transformer", "recipe": {"epochs": 0.2, "batch_size": 16, "max_length": 64},
    "pretraining": {"recipe": {"extends": "tiny-short", "save_every": 10}, "corpus": ["corpus.txt"], "seeds": "1-2"},
}  # fmt: skip
STUDENT = {
    "name": "student", "extends": "little",
    "pretraining": {"seeds": "", "recipe": {"rigl": None, "distill": {"teacher": "little"}, "steps": 5}},
}  # fmt: skip


def stop_kernel(run: subprocess.Popen, plan_dir) -> None:
    """Stop the kernel of the first pre-training between two updates, after a checkpoint, as if it had stalled."""
    while run.poll() is None:
        checkpoints = list(plan_dir.glob("little/pretrain-*.checkpoints/checkpoint.pt"))
        if not checkpoints:
            time.sleep(0.02)
            continue
        heartbeat = checkpoints[0].parent / "heartbeat"
        kernel = next(p for p in psutil.Process(run.pid).children(recursive=True) if p.name() == "morocco-kernel")
        kernel.send_signal(signal.SIGSTOP)
        if heartbeat.exists():
            return
        kernel.send_signal(signal.SIGCONT)
    raise AssertionError("the plan ended before its pre-training could be stopped")


@pytest.mark.slow
def test_a_plan_pre_trains_its_models_and_goes_on_from_them(tmp_path, synthetic_data):
    root = copy_project(tmp_path / "project")
    (root / "params/models/little.yaml").write_text(yaml.safe_dump({"model": MODEL}))
    records = (synthetic_data / "RuCoLA/in_domain_train.jsonl").read_text(encoding="utf-8").splitlines()
    (root / "corpus.txt").write_text("".join(f"{json.loads(line)['sentence']}\n" for line in records), encoding="utf-8")
    plan = write_plan(root, models=["little", STUDENT], tasks=["rwsd"], steps=["pretrain", "train"], stall_s=4)

    def run(*options, meanwhile=lambda process: None):
        known = environment({"MOROCCO_DATA": "", "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(root)})
        argv = [sys.executable, "-m", "morocco_lib", "run", plan, *options]
        process = subprocess.Popen(argv, cwd=root, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        meanwhile(process)
        out, err = process.communicate()
        return process.returncode, out, err

    code, out, err = run("--dry-run")
    listed = [line.split()[2:] for line in out.splitlines() if line.startswith("to do")]
    assert listed[:3] == [["pretrain", "little"]] * 2 + [["pretrain", "student"]] and len(listed) == 5, out
    folder = root / "outputs/small"
    code, out, err = run(meanwhile=lambda process: stop_kernel(process, folder))
    assert code == 0 and "pretrain little: done" in err and re.search(r"stalled \d times? \(no update for 4 s", err), (
        err
    )
    done = [(path, status) for path, status in steps.find_steps(folder) if status["state"] == "done"]
    little, second, student = (path for model in ("little", "student") for path in made(done, "pretrain", model))
    results = [json.loads((path / "pretrain.json").read_text()) for path in (little, second, student)]
    assert [(one["seed"], one["updates"]) for one in results] == [(1, 60), (2, 60), (1, 5)]
    log = json.loads((little / "notebook.ipynb").read_text())
    assert any(
        "going on after update" in "".join(o.get("text", "")) for c in log["cells"] for o in c.get("outputs", [])
    )
    for model, start in (("little", little), ("student", student)):
        (trained,) = made(done, "train", model)
        status = steps.read_status(trained)
        assert status["parameters"]["model"]["source"] == f"outputs/small/{model}/{start.name}/model"
        assert sum(path.endswith("model/sparsity.safetensors") for path in status["inputs"]) == 1
    assert steps.read_status(student)["inputs"].keys() >= {f"../../little/{little.name}/model/model.safetensors"}
    assert all(finding.ok for finding in verify(folder))
    code, out, err = run()
    assert code == 0 and err.count(": kept in") == 5, err
    shutil.copytree(folder, root / "outputs/moved")
    code, out, err = run("--out", root / "outputs/moved")
    assert code == 0 and err.count(": kept in") == 5, err
    (root / "params/models/little.yaml").write_text(yaml.safe_dump({"model": MODEL | {"recipe": {"epochs": 0.3}}}))
    code, out, err = run("--dry-run")
    states = [line.split()[0] for line in out.splitlines() if " pretrain " in line or " train " in line]
    assert code == 0 and states == ["kept"] * 3 + ["to"] * 2, out


def made(done, step, model):
    """Return the folders of a model's finished steps of a kind, by their seed."""
    found = [(s["parameters"].get("seed", 0), path) for path, s in done if s["step"] == step and s["model"] == model]
    return [path for _, path in sorted(found)]
