"""Architectures that the fast tests leave out: computing with a passage once, and without padding, changes no answer."""

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

from architectures import (
    SIZES,
    check_that_openvino_computes_as_torch,
    check_that_padding_changes_nothing,
    check_that_passages_are_computed_once,
    loaded,
)

from morocco_lib import data
from morocco_lib.tasks import get_task

DECODERS = {
    "llama": {**SIZES, "num_key_value_heads": 1},
    "gemma": {**SIZES, "num_key_value_heads": 2, "head_dim": 16},
    "mistral": {**SIZES, "num_key_value_heads": 2, "sliding_window": 24},
    "gpt_neox": SIZES,
    "opt": {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"vocab_size": 800, "hidden_size": 32, "n_layer": 2, "n_head": 2},
    "falcon": SIZES,
}
MIXING = {  # their tokens see the padding, whatever the mask says
    "convbert": {**SIZES, "embedding_size": 32, "head_ratio": 1},
    "big_bird": {**SIZES, "max_position_embeddings": 512, "block_size": 8, "num_random_blocks": 1},
}


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("kind", DECODERS)
def test_any_decoder_computes_with_a_passage_once_and_answers_the_same(kind, pooling, synthetic_data, monkeypatch):
    task = get_task("muserc")
    records = data.read_split(synthetic_data, task, "val")[1][:6]
    model = loaded({"model_type": kind, **DECODERS[kind]}, task, records, pooling)
    check_that_passages_are_computed_once(model, records, monkeypatch)


@pytest.mark.parametrize("kind", MIXING)
def test_what_padding_would_change_is_computed_without(kind, synthetic_data):
    task = get_task("terra")
    records = data.read_split(synthetic_data, task, "val")[1][:12]
    check_that_padding_changes_nothing(loaded({"model_type": kind, **MIXING[kind]}, task, records, "mean"), records)


@pytest.mark.parametrize("name", ["roberta", "electra", "gpt2"])
def test_openvino_computes_as_torch(name):
    pytest.importorskip("openvino", reason="needs the openvino extra")
    check_that_openvino_computes_as_torch(name)
