"""Two processes train one model: they share each batch, and what ends a seed in one ends it in both."""

import json
import math

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import torch
from safetensors.torch import load_file
from small_training import SPOILT, model_file, plan, run_program, trained_by_two

SHARED = """
import json, os, sys
from pathlib import Path
import torch
import transformers
from morocco_lib.config import model as model_config
from morocco_lib.training import distributed, finetune, fit
torch.set_num_threads(1)
plan, out = json.loads(sys.argv[1]), Path(sys.argv[2])
seen, whole = [], finetune.collate
def watched(examples, **options):
    seen.append([example.number for example in examples])
    return whole(examples, **options)
finetune.collate = watched
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
    # One evaluation, at the end: the weights compared are those of the last update.
    planned = plan(small, epochs=6, eval_every=60, max_evals=1, learning_rate=5e-4)
    values = {"model": planned.model.model_dump(), "files": {n: str(p) for n, p in planned.files.items()}}
    (tmp_path / "shared.py").write_text(SHARED)
    found, ids, begun = {}, {}, {}
    for number in (1, 2):
        out = tmp_path / str(number)
        out.mkdir()
        run_program(number, tmp_path / "shared.py", json.dumps(values), out)
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
    _, messages = running.communicate(timeout=120)
    assert running.returncode == 0 and "Traceback" not in messages, messages
    assert messages.count("seed 2: ") == 1  # one process alone reports
    result = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [one["state"] for one in result["seeds"]] == ["failed", "done"]
    assert "another process's loss is not finite at update 3" in result["seeds"][0]["error"]
