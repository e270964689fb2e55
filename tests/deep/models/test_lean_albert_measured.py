"""A lean_albert is tuned, checked, measured and verified like any other model."""

import json
import sys

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

from morocco_lib.models.lean_albert.configuration import LeanAlbertConfig
from morocco_lib.models.lean_albert.modeling import LeanAlbertModel
from morocco_lib.tasks import get_task
from morocco_lib.training import backbones


def test_it_is_tuned_with_the_original_settings_checked_measured_and_verified(synthetic_data, main, tmp_path):
    task = get_task("rwsd")
    val, folder = synthetic_data / "RWSD/val.jsonl", tmp_path / "model"
    words = backbones.word_pieces(backbones.texts_of(task.read(val), task), 300)
    sizes = {
        "embedding_size": 8,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    body = LeanAlbertModel(LeanAlbertConfig(vocab_size=words.get_vocab_size(), **sizes), add_pooling_layer=False)
    body.save_pretrained(folder)
    words.save(str(folder / "tokenizer.json"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "recipe: {epochs: 0.2, learning_rate: 1.0e-5, batch_size: 16, dropout: 0.1, weight_decay: 0.01, max_length: 512, group_by_length: true}"
    )
    done = main(
        "train",
        folder,
        "rwsd",
        "--data",
        synthetic_data,
        "--recipe",
        recipe,
        "--seeds",
        "0-1",
        "--out",
        tmp_path / "tuned",
    )
    assert done.returncode == 0, done.stderr
    command = f"{sys.executable} -m morocco_lib infer {tmp_path / 'tuned'}"
    assert main("check", "--command", command, "rwsd", "--data", val).returncode == 0
    sizes = ("--input-size", "60", "--batch-size", "8", "--repeats", "2")
    done = main("bench", "--command", command, "rwsd", "--data", val, *sizes, "--json", "--out", tmp_path / "bench")
    point = json.loads(done.stdout or done.stderr)
    assert point["verdict"] == "VALID" and point["score"]["value"] is not None and point["speed_per_s"]["value"] > 0
    assert main("verify", tmp_path / "bench").returncode == 0
