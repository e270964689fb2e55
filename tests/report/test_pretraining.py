"""What a report shows of models that were pre-trained: perplexity with its spread, and beside the tasks that start from it."""

import json

import pytest

from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.report import glue
from morocco_lib.report.pretraining import pretrainings


def step(plan_dir, model, name, seed, perplexity):
    """Write what a step of pre-training leaves; returns its folder and status."""
    folder = plan_dir / model / name
    folder.mkdir(parents=True)
    result = {
        "seed": seed, "updates": 60, "loss": 4.0, "perplexity": perplexity, "tokens_per_s": 1000.0, "wall_s": 5.0,
        "weights": {"backbone": 400, "off": 100, "sparsity": 0.25},
    }  # fmt: skip
    (folder / "pretrain.json").write_text(json.dumps(result))
    return folder, {"step": "pretrain", "state": "done", "model": model, "task": None, "parameters": {"model": {}}}


@pytest.fixture
def found(tmp_path):
    """Two models, one with three seeds of which the second is what a task was trained from."""
    started = {"step": "train", "state": "done", "model": "b", "task": "cola"}
    return [
        step(tmp_path, "b", "pretrain-1", 1, 30.0), step(tmp_path, "b", "pretrain-2", 2, 20.0), step(tmp_path, "b", "pretrain-3", 3, 40.0),
        step(tmp_path, "a", "pretrain-4", 1, 50.0),
        (tmp_path / "b/cola/train-5", started | {"parameters": {"model": {"source": "outputs/x/b/pretrain-2/model"}}}),
    ]  # fmt: skip


def test_perplexity_is_of_the_model_that_was_gone_on_from_beside_the_spread_of_all_seeds(found, tmp_path):
    a, b = pretrainings(tmp_path, KINDS, found)
    assert (a["model"], a["seeds"], a["perplexity"], a["mean"], a["sd"]) == ("a", 1, 50.0, 50.0, None)
    assert (b["model"], b["seeds"], b["perplexity"], b["mean"], b["sd"]) == ("b", 3, 20.0, 30.0, 10.0)
    assert (b["low"], b["high"], b["wall_s"], b["folder"]) == (20.0, 40.0, 15.0, "b/pretrain-2")


def test_the_table_of_glue_has_perplexity_and_loss(found, tmp_path):
    row = {
        "task": "cola", "model": "b", "verdict": "VALID", "speed_per_s": {"value": 1.0},
        "data": {"records": 9, "origin": "official", "sample": False},
        "score": {"value": 0.5, "n": 9, "metrics": {"mcc": 0.5}},
    }  # fmt: skip
    rows = [row, row | {"model": "other"}]
    known = glue.results(rows, [], pretrainings(tmp_path, KINDS, found))
    assert [line[-2:] for line in known.lines] == [["20.000", "4.000"], ["", ""]]
