"""Architectures that the fast tests leave out: computing with a passage once, and without padding, changes no answer."""
# ruff: noqa: E402 (what may be missing is asked for before it is imported)

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

from morocco_lib import data
from morocco_lib.models.transformer.heads import head_of
from morocco_lib.models.transformer.model import Transformer
from morocco_lib.tasks import get_task
from morocco_lib.training import backbones, finetune

SIZES = {
    "vocab_size": 800,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
SPREAD = 0.3  # of the random weights: with the usual 0.02 the answers of an untrained model hang on the last digit
DECODERS = {
    "llama": {**SIZES, "num_key_value_heads": 1},
    "gemma": {**SIZES, "num_key_value_heads": 2, "head_dim": 16},
    "gemma2": {**SIZES, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 24},
    "mistral": {**SIZES, "num_key_value_heads": 2, "sliding_window": 24},
    "gpt_neox": SIZES,
    "opt": {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"vocab_size": 800, "hidden_size": 32, "n_layer": 2, "n_head": 2},
    "falcon": SIZES,
}
MIXING = {  # their tokens see the padding, whatever the mask says
    "fnet": {**SIZES, "max_position_embeddings": 512},
    "convbert": {**SIZES, "embedding_size": 32, "head_ratio": 1},
    "big_bird": {**SIZES, "max_position_embeddings": 512, "block_size": 8, "num_random_blocks": 1},
}


def made(config, name, count, pooling, synthetic_data):
    """Return (a model of a configuration with random weights, sequences of some records)."""
    task = get_task(name)
    records = data.read_split(synthetic_data, task, "val")[1][:count]
    backbone = backbones.from_scratch({"initializer_range": SPREAD, **config}, backbones.texts_of(records, task), 1)
    head, width = head_of(task), backbone.model.config.hidden_size
    torch.manual_seed(1)
    weights = {"weight": torch.randn(head.outputs, head.width(width)), "bias": torch.randn(head.outputs)}
    values = finetune.values_of(backbone, task, pooling, 512)
    model = Transformer(task, values, backbone.model.state_dict(), weights, backbone.tokenizer)
    return model, [one for found in model.reader([task.parts(record) for record in records]) for one in found]


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("kind", DECODERS)
def test_any_decoder_computes_with_a_passage_once_and_answers_the_same(kind, pooling, synthetic_data, monkeypatch):
    model, sequences = made({"model_type": kind, **DECODERS[kind]}, "muserc", 6, pooling, synthetic_data)
    seen = []
    model.backend.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    fast = model.logits(sequences, 64)
    shared, seen[:] = sum(seen), []
    monkeypatch.setattr(model.backend, "share", False)
    plain = model.logits(sequences, 64)
    assert (fast - plain).abs().max() / plain.std() < 1e-4
    assert shared < sum(seen) / 3


@pytest.mark.parametrize("kind", MIXING)
def test_what_padding_would_change_is_computed_without(kind, synthetic_data):
    model, sequences = made({"model_type": kind, **MIXING[kind]}, "terra", 12, "mean", synthetic_data)
    together, alone = model.logits(sequences, 32), model.logits(sequences, 1)
    assert (together - alone).abs().max() / alone.std() < 1e-3
