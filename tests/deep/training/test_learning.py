"""Small models from random weights learn tasks that word counts cannot tell.

What a head sees of a sequence decides whether RWSD can be learnt at all: a wrong span, a product left out or a mask that
is off by one, and its score is chance. `benchmarks/learning.py` has every task, and trains on official records twice.
Full-size models are measured where there is a GPU.
"""

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import torch
from helpers import ROOT

from morocco_lib import data
from morocco_lib.config import model as model_config
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import task_value
from morocco_lib.training import fit

MARGIN = 0.15  # over always giving the most frequent answer; a tenth of the labels is wrong


@pytest.mark.parametrize(("model", "name"), [("tiny-encoder", "rwsd"), ("tiny-decoder", "parus")])
def test_what_word_counts_cannot_tell_is_learnt(model, name, synthetic_data, tmp_path):
    task = get_task(name)
    files = {split: data.find_split(synthetic_data, task, split) for split in ("train", "val")}
    result = fit.fit(fit.Plan(model_config.load_model(model, ROOT), name, files, [1], ROOT), tmp_path)
    val = task.read(files["val"])
    gold = [task.gold(record) for record in val]
    constant = [task.constant(task.majority(gold), record) for record in val]
    assert result["val_score"] >= task_value(task, task.score(gold, constant)) + MARGIN


def table_of(data_folder, *options):
    script = ROOT / "benchmarks" / "gpu.py"
    argv = [sys.executable, str(script), "--data", str(data_folder), "--json", *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    return json.loads(done.stdout)


def test_the_table_of_full_size_models_can_be_made(real_data):
    table = table_of(real_data / "rsg", "--shapes", "tiny-gpt2", "--seconds", "1", "--rounds", "1")
    assert [row["model"] for row in table["rows"]] == ["tiny-gpt2"] * 3
    for row in table["rows"]:
        assert row["lowest"] <= row["records_per_s"] <= row["highest"] and row["share_of_peak"] > 0
        if torch.cuda.is_available():  # a processor's products of large bf16 matrices may be its slowest
            assert row["share_of_peak"] < 1
        assert row["equal"] >= (0.9 if row["contender"] == "morocco bf16" else 1)
        if not torch.cuda.is_available():
            assert row["process_bytes"] is row["j_per_record"] is None and row["reasons"] == ["NO_ENERGY_COUNTER"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_full_size_models_on_a_gpu(real_data):
    table = table_of(real_data / "rsg", "--rounds", "1")
    assert not table["missed"]
    assert all(row["j_per_record"] and row["reserved_bytes"] <= row["process_bytes"] for row in table["rows"])
