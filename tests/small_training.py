"""Training that takes a second: tiny models, few records, and `morocco train` in a process or two of its own.

Import after `pytest.importorskip` for torch and transformers.
"""

import os
import socket
import subprocess
import sys

import yaml

from morocco_lib.config import model as model_config
from morocco_lib.tasks import get_task
from morocco_lib.training import backbones, fit

RWSD = get_task("rwsd")
TINY = {
    "bert": {"model_type": "bert", "vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    "gpt2": {"model_type": "gpt2", "vocab_size": 600, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 256},
}  # fmt: skip
QUICK = {"epochs": 0.25, "learning_rate": 1e-3, "batch_size": 16, "dropout": 0.0, "body_dropout": 0.0, "eval_every": 6}


def few_records(synthetic_data, folder):
    """Write a data folder with a few records of RWSD and RuCoS, and no test split; returns it."""
    for title, sizes in (("RWSD", (160, 60)), ("RuCoS", (16, 8))):
        (folder / title).mkdir()
        for split, size in zip(("train", "val"), sizes, strict=True):
            lines = (synthetic_data / title / f"{split}.jsonl").read_bytes().splitlines(keepends=True)
            (folder / title / f"{split}.jsonl").write_bytes(b"".join(lines[:size]))
    return folder


def plan(small, kind="bert", task="rwsd", seeds=(1,), **recipe):
    model = model_config.ModelParams(name="small", kind="transformer", scratch=TINY[kind], recipe={**QUICK, **recipe})
    title = get_task(task).title
    files = {split: small / title / f"{split}.jsonl" for split in ("train", "val")}
    return fit.Plan(model, task, files, list(seeds))


def model_file(folder, **values):
    """A project with one model file, as `morocco train` finds it."""
    for name in ("notebooks", "params/models"):
        (folder / name).mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    described = {"model": {"name": "small", "kind": "transformer", "scratch": TINY["bert"], "recipe": QUICK} | values}
    (folder / "params" / "models" / "small.yaml").write_text(yaml.safe_dump(described))
    return folder


def program(root, *words, **env):
    return subprocess.Popen(
        [sys.executable, "-m", "morocco_lib", *map(str, words)],
        cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def texts(small):
    return backbones.texts_of(RWSD.read(small / "RWSD" / "train.jsonl"), RWSD)


# -- several processes ---------------------------------------------------------------------------------------------
def two_processes():
    """The words before a program that two processes of this machine run together, on a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = "-m torch.distributed.run --nproc-per-node 2 --master-addr 127.0.0.1 --master-port"
    return [sys.executable, *words.split(), str(port)]


SPOILT = """
import sys
import torch
from morocco_lib.cli import entry as cli
from morocco_lib.training import finetune, distributed
whole, taken = finetune.Net.forward, []
def spoilt(self, **inputs):
    taken.append(1)
    found = whole(self, **inputs)
    if distributed.rank() == 1 and len(taken) == 3:
        FAULT
    return found
finetune.Net.forward = spoilt
sys.exit(cli.main(sys.argv[1:]))
"""


def trained_by_two(program, root, small, out):
    """Start `morocco train` with two seeds in two processes."""
    words = ["train", "small", "rwsd", "--data", small, "--out", out, "--seeds", "1-2"]
    return subprocess.Popen(
        list(map(str, [*two_processes(), *program, *words])),
        cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
