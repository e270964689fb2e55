"""Speeds of training, measured with a tiny model in all settings that this machine has."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import torch
from helpers import ROOT
from small_training import plan

from morocco_lib.config import SpeedParams
from morocco_lib.training import speed


def test_one_process_and_two_are_measured_and_the_rest_is_null(small, tmp_path):
    p = SpeedParams(model=plan(small).model.model_dump(), task={"name": "rwsd"}, steps=2, warmup=1)
    result = speed.compare(plan(small), p, tmp_path)
    known = {(row["processes"], row["precision"]): row for row in result["rows"] if row["rows_per_s"]["value"]}
    assert set(known) == {(1, "fp32"), (1, "bf16"), (2, "fp32"), (2, "bf16")} or torch.cuda.is_available()
    assert all(len(row["peak_bytes"]) == row["processes"] for row in known.values())
    assert all(row["rows_per_s"]["reason"] for row in result["rows"] if row["rows_per_s"]["value"] is None)
    assert len(result["rows"]) == 10 and json.loads((tmp_path / "speed.json").read_text()) == result


def test_the_table_of_pre_training_can_be_made():
    """Its bars are for a quiet machine."""
    options = [
        "--rounds=2",
        "--updates=10",
        "--warmup=1",
        "--batch-size=2",
        "--sentences=1000",
        "--threads=1",
        "--json",
    ]
    argv = [sys.executable, str(ROOT / "benchmarks/pretraining.py"), *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
    found = json.loads(done.stdout)
    assert set(found["replies"]) == {"bare", "Trainer", "dense", "sparse", "RigL", "KD", "teacher"}
    for replies in found["replies"].values():
        assert len(replies) == 2 and all(r["seconds"] > 0 and r["peak_bytes"] > 100 * 2**20 for r in replies)
    firsts = ["dense / bare", "sparse / dense", "RigL / dense", "KD / dense + teacher"]
    assert [bar["of"] for bar in found["bars"]][:4] == firsts
    assert all(bar["low"] <= bar["high"] for bar in found["bars"])
    assert done.returncode == int(not all(bar["passed"] for bar in found["bars"]))
