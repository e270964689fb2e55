"""Two processes under torchrun train one model: they share each batch, and what ends a seed in one ends it in both."""

import json
import math
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import torch
from safetensors.torch import load_file
from small_training import SPOILT, few_records, model_file, plan, trained_by_two, two_processes


@pytest.fixture(scope="module")
def small(tmp_path_factory, synthetic_data):
    return few_records(synthetic_data, tmp_path_factory.mktemp("small"))


SHARED = """
import json, os, sys
from pathlib import Path
import torch
import transformers
from morocco_lib.config import model as model_config
from morocco_lib.training import distributed, finetune, fit
torch.set_num_threads(1)
plan, out = json.loads(sys.argv[1]), Path(sys.argv[2])
seen, whole = [], finetune.Collator.__call__
def watched(self, examples):
    seen.append([example.number for example in examples])
    return whole(self, examples)
finetune.Collator.__call__ = watched
begun, init = {}, finetune.Net.__init__
def noted(self, *args, **kwargs):
    init(self, *args, **kwargs)
    begun.update({name: t.detach().clone() for name, t in self.state_dict().items()})
finetune.Net.__init__ = noted
model = model_config.ModelParams(**plan["model"])
files = {name: Path(path) for name, path in plan["files"].items()}
fit.fit(fit.Plan(model, "rwsd", files, [1]), out)
rank = distributed.rank()
(out / f"seen-{rank}.json").write_text(json.dumps(seen))
if rank == 0:
    torch.save(begun, out / "begun.pt")
"""


@pytest.mark.slow
def test_two_processes_share_each_batch_and_come_to_the_same_weights(small, tmp_path):
    # One look, at the end: the weights compared are those of the last update.
    asked = plan(small, epochs=6, eval_every=60, max_evals=1, learning_rate=5e-4)
    values = {"model": asked.model.model_dump(), "files": {n: str(p) for n, p in asked.files.items()}}
    (tmp_path / "shared.py").write_text(SHARED)
    found, ids, begun = {}, {}, {}
    for number in (1, 2):
        out = tmp_path / str(number)
        out.mkdir()
        start = [sys.executable] if number == 1 else two_processes()
        done = subprocess.run(
            [*start, tmp_path / "shared.py", json.dumps(values), out], capture_output=True, text=True, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        found[number] = load_file(out / "weights" / "model.safetensors")
        begun = torch.load(out / "begun.pt")
        ids[number] = [json.loads((out / f"seen-{rank}.json").read_text()) for rank in range(number)]
        assert json.loads((out / "train.json").read_text())["processes"] == number
    updates = len(ids[1][0])
    assert updates >= 50
    for whole, *shares in zip(ids[1][0], *ids[2], strict=False):
        assert sorted(whole) == sorted(number for share in shares for number in share)
    apart = math.sqrt(sum(float((found[1][n] - found[2][n]).square().sum()) for n in begun))
    moved = math.sqrt(sum(float((found[1][n] - begun[n]).square().sum()) for n in begun))
    assert moved > 0.1 and apart / moved <= 1e-3


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_ends_the_seed_in_all(small, tmp_path):
    spoilt = tmp_path / "spoilt.py"
    spoilt.write_text(SPOILT.replace("FAULT", 'return {**found, "loss": found["loss"] * float("nan")}'))
    running = trained_by_two([spoilt], model_file(tmp_path / "project"), small, tmp_path / "out")
    _, printed = running.communicate(timeout=120)
    assert running.returncode == 0 and "Traceback" not in printed, printed
    assert printed.count("seed 2: ") == 1  # one process alone reports
    result = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [one["state"] for one in result["seeds"]] == ["failed", "done"]
    assert "another process's loss is not finite at update 3" in result["seeds"][0]["error"]
