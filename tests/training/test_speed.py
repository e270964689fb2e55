"""Speeds of training are of fixed steps after a warm-up; what a machine lacks is null; two processes reduce once an update."""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

from small_training import plan, run_program

from morocco_lib.training import speed
from morocco_lib.training.speed import Setting


@pytest.mark.parametrize(
    ("setting", "devices", "bf16", "reason"),
    [
        (Setting(1, "none", "fp32"), 0, False, None),
        (Setting(1, "none", "bf16"), 0, False, None),
        (Setting(1, "none", "fp16"), 0, False, "fp16 is trained on GPUs"),
        (Setting(2, "gloo", "fp32"), 0, False, None),
        (Setting(2, "nccl", "fp32"), 0, False, "NCCL needs GPUs"),
        (Setting(2, "nccl", "fp16"), 1, True, "2 processes need as many GPUs, this machine shows 1"),
        (Setting(1, "none", "bf16"), 1, False, "does not compute in bf16"),
        (Setting(2, "nccl", "fp16"), 2, False, None),
        (Setting(2, "horovod", "fp32"), 2, True, "Horovod is unmaintained"),
    ],
)
def test_what_a_machine_lacks_is_named(setting, devices, bf16, reason):
    found = speed.lacking(setting, devices, bf16)
    assert found is None if reason is None else reason in found


def test_the_clock_leaves_the_warm_up_out(monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(now))
    clock = speed.Clock(2, 3)
    clock.seconds = 0.0
    for step in range(1, 6):
        next(now)
        clock.on_step_end(None, SimpleNamespace(global_step=step), None)
    assert clock.seconds == 40  # from the end of step 2, at 20 s, to that of step 5, at 60 s


def test_the_table_shows_reasons_beside_what_was_measured():
    rows = [
        {"processes": 1, "backend": "none", "precision": "fp32", "rows_per_s": {"value": 10.0}, "peak_bytes": [2**20]},
        {
            "processes": 2,
            "backend": "gloo",
            "precision": "fp32",
            "rows_per_s": {"value": 15.0},
            "peak_bytes": [2**20, 2**21],
        },
        {
            "processes": 2,
            "backend": "nccl",
            "precision": "fp32",
            "rows_per_s": {"value": None, "reason": "no GPU"},
            "peak_bytes": [],
        },
    ]
    shown = speed.table({"rows": rows})
    assert shown["times the first"].tolist()[:2] == [1.0, 1.5] and shown["why not"].tolist() == ["", "", "no GPU"]
    assert shown["peak MiB a process"].tolist() == ["1", "1, 2", ""]


REDUCED = """
import json, sys
from pathlib import Path
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from morocco_lib.config import model as model_config
from morocco_lib.training import distributed, fit
torch.set_num_threads(1)
plan, out = json.loads(sys.argv[1]), Path(sys.argv[2])
calls, begin = [], DistributedDataParallel.__init__
def watched(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    self.register_comm_hook(None, lambda state, bucket: calls.append(bucket.index()) or allreduce_hook(None, bucket))
DistributedDataParallel.__init__ = watched
model = model_config.ModelParams(**plan["model"])
fit.fit(fit.Plan(model, "rwsd", {name: Path(path) for name, path in plan["files"].items()}, [1]), out)
(out / f"calls-{distributed.rank()}.json").write_text(json.dumps(calls))
"""


@pytest.mark.slow
def test_gradients_are_exchanged_once_an_update_whatever_the_accumulation(small, tmp_path):
    planned = plan(small, epochs=1, accumulation=4, max_evals=1, eval_every=9)
    values = {"model": planned.model.model_dump(), "files": {n: str(p) for n, p in planned.files.items()}}
    (tmp_path / "reduced.py").write_text(REDUCED)
    (tmp_path / "out").mkdir()
    run_program(2, tmp_path / "reduced.py", json.dumps(values), tmp_path / "out")
    (trained,) = json.loads((tmp_path / "out/train.json").read_text())["seeds"]
    for rank in range(2):
        calls = json.loads((tmp_path / f"out/calls-{rank}.json").read_text())
        assert calls == [0] * trained["updates"] and trained["updates"] == 9
