"""A swarm on one machine: what all its programs share, and such a program.

Import after `pytest.importorskip` for torch, transformers and hivemind.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import yaml
from helpers import ROOT

from morocco_lib.config.model import PretrainingParams
from morocco_lib.config.pretraining import PretrainRecipe
from morocco_lib.training import backbones
from morocco_lib.training.pretraining import pretrain

LEAN = {
    "model_type": "lean_albert", "embedding_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "initializer_range": None,
}  # fmt: skip
RECIPE = {
    "model": LEAN, "length": 24, "sentence_order": True, "optimizer": "lamb_8bit", "betas": [0.9, 0.95], "eps": 1.0e-6, "dropout": 0.0,
    "batch_size": 512, "steps": 20, "learning_rate": 0.03, "warmup": 2,
}  # fmt: skip


def prepare(folder, synthetic_data):
    """Write what all machines have: recipe.yaml, text.txt, tokenizer.json and key."""
    records = [json.loads(line) for line in (synthetic_data / "RuCoLA/in_domain_train.jsonl").open(encoding="utf-8")]
    lines = [record["sentence"] for record in records]
    (folder / "text.txt").write_text(
        "".join(" ".join(lines[k : k + 6]) + "\n" for k in range(0, len(lines), 6)), encoding="utf-8"
    )
    (folder / "tokenizer.json").write_text(backbones.word_pieces(lines, 200).to_str(), encoding="utf-8")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"pretraining": RECIPE}))
    (folder / "key").write_text("no stranger knows\n")


def job(place, folder, seed=1, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    given = PretrainingParams(
        recipe=PretrainRecipe(**{**RECIPE, **settings}), corpus=[str(place / "text.txt")], tokenizer=str(place / "tokenizer.json")
    )  # fmt: skip
    return pretrain.prepare(given, folder, folder, seed=seed, say=lambda line: None)


class Machine:
    """A program with all its processes; what it says is read as it comes."""

    def __init__(self, place, verb, *options):
        argv = [sys.executable, "-m", "morocco_lib", "swarm", verb]
        if verb != "status":
            argv += ["recipe.yaml", "--corpus", "text.txt", "--tokenizer", "tokenizer.json", "--matchmaking", "2"]
        argv += ["--run", "try", "--key", "key", *map(str, options)]
        self.process = subprocess.Popen(
            argv, cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said = []
        self.reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def says(self, pattern, timeout_s=120):
        """Wait for a line that matches, and return the match."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            ended = self.process.poll() is not None
            if found := next((m for line in list(self.said) if (m := re.search(pattern, line))), None):
                return found
            assert not ended, f"ended with {self.process.returncode}: {''.join(self.said)[-2000:]}"
            time.sleep(0.1)
        raise AssertionError(f"no {pattern!r} in {timeout_s} s: {''.join(self.said)[-2000:]}")

    def ends(self, timeout_s=90):
        """Wait for its end, which must be a good one."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = f"nothing in {timeout_s} s"
        assert code == 0, f"ended with {code}: {''.join(self.said)[-3000:]}"

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def addresses(self):
        """The addresses of this machine that its processes use."""
        found = set()
        for process in (psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)):
            found |= {one.laddr.ip for one in process.net_connections("inet")}
        return found


def starting(place):
    """Yield what starts a program, and end at last what still runs."""
    started = []

    def start(*argv):
        started.append(Machine(place, *argv))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.kill()
