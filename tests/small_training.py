"""Training that takes a second: tiny models, few records, and `morocco train` in a process or two of its own.

Import after `pytest.importorskip` for torch and transformers.
"""

import multiprocessing
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import yaml
from helpers import free_ports

from morocco_lib.config import model as model_config
from morocco_lib.tasks import get_task
from morocco_lib.training import backbones, distributed, fit, trainer

RWSD = get_task("rwsd")
TINY = {
    "bert": {"model_type": "bert", "vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    "gpt2": {"model_type": "gpt2", "vocab_size": 600, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 256},
}  # fmt: skip
QUICK = {"epochs": 0.25, "learning_rate": 1e-3, "batch_size": 16, "dropout": 0.0, "body_dropout": 0.0, "eval_every": 6}


def plan(small, seeds=(1,), begin=None, **recipe):
    """RWSD learnt by a tiny BERT, or by what `begin` says of a model's start: its source, or its sizes from scratch."""
    start = begin or {"scratch": TINY["bert"]}
    model = model_config.ModelParams(name="small", kind="transformer", recipe={**QUICK, **recipe}, **start)
    files = {split: small / "RWSD" / f"{split}.jsonl" for split in ("train", "val")}
    return fit.Plan(model, "rwsd", files, list(seeds))


def model_file(folder, **values):
    """A project with one model file, as `morocco train` finds it."""
    for name in ("notebooks", "params/models"):
        (folder / name).mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    described = {"model": {"name": "small", "kind": "transformer", "scratch": TINY["bert"], "recipe": QUICK} | values}
    (folder / "params" / "models" / "small.yaml").write_text(yaml.safe_dump(described))
    return folder


def program(root, *argv, **env):
    return subprocess.Popen(
        [sys.executable, "-m", "morocco_lib", *map(str, argv)],
        cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def texts(small):
    return backbones.texts_of(RWSD.read(small / "RWSD" / "train.jsonl"), RWSD)


# -- several processes ---------------------------------------------------------------------------------------------
def two_processes():
    """The start of the argv of a program that two processes of this machine run together, on a port that is free."""
    argv = "-m torch.distributed.run --nproc-per-node 2 --master-addr 127.0.0.1 --master-port"
    return [sys.executable, *argv.split(), str(free_ports(1)[0])]


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
    argv = ["train", "small", "rwsd", "--data", small, "--out", out, "--seeds", "1-2"]
    return subprocess.Popen(
        list(map(str, [*two_processes(), *program, *argv])),
        cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip


# -- processes without torchrun ------------------------------------------------------------------------------------
FORKS = multiprocessing.get_context("forkserver")  # torch and transformers are imported once
FORKS.set_forkserver_preload(["small_training", "morocco_lib.training.seeds"])


def together(count, function, *args, **env):
    """Call a function in so many processes that train together; returns their exit codes."""
    if count > 1:
        env |= {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
    started = [FORKS.Process(target=_in_process, args=(n, env, function, args)) for n in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        process.kill()
        process.join()
    return [process.exitcode for process in started]


def _in_process(rank, env, function, args):
    os.environ |= env | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if "WORLD_SIZE" in env else {})
    function(*args)


def run_program(count, program, *argv, **env):
    """Run a program in so many processes that train together."""
    assert together(count, _run, str(program), [str(arg) for arg in argv], **env) == [0] * count


def _run(program, argv):
    sys.argv = [program, *argv]
    runpy.run_path(program, run_name="__main__")


# -- processes that end at a named place ---------------------------------------------------------------------------
def trained(described, folder, processes, place=None):
    """Train in so many processes, which end at a place if one is named; returns their exit codes.

    The number of training steps of one that came to its end is in the file `steps`.
    """
    return together(processes, _train, described, folder, place)


def _train(described, folder, place):
    step, steps = trainer.ScoredTrainer.training_step, []
    trainer.ScoredTrainer.training_step = lambda *args, **kwargs: steps.append(args) or step(*args, **kwargs)
    if place:
        _end_at(distributed.rank(), *place)
    fit.fit(described, folder)
    if distributed.rank() == 0:
        (folder / "steps").write_text(str(len(steps)))


def _end_at(rank, name, call, first=None, only=None):
    """Kill this process before the nth call of a function, or of process `only` alone, after `first` has taken its place."""
    owner, attribute = name.rsplit(".", 1)
    owner = pkgutil.resolve_name(owner)
    function, calls = getattr(owner, attribute), []

    def watched(*args, **kwargs):
        calls.append(args)
        if len(calls) == call and only in (None, rank):
            if first:
                first(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, attribute, watched)


def half_removed(folder):
    (Path(folder) / "optimizer.pt").unlink()


def half_written(_, path):
    Path(path).write_text("{")
