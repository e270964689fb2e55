"""Tiny transformers with random weights, one of each architecture that `packed` knows, and sequences of ids for them.

Import after `pytest.importorskip` for torch and transformers.
"""

import random

import torch
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModel

from morocco_lib.models.transformer.sequences import EncodedSequence

WORDS, HIDDEN, LAYERS = 90, 48, 3
ENCODER = {
    "vocab_size": WORDS,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
}
DECODER = {"vocab_size": WORDS, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
DECODER |= {"bos_token_id": 1, "eos_token_id": 1}
CONFIGS = {
    "bert": {"model_type": "bert", **ENCODER},
    "roberta": {"model_type": "roberta", **ENCODER, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": {"model_type": "xlm-roberta", **ENCODER, "pad_token_id": 3},
    "camembert": {"model_type": "camembert", **ENCODER, "hidden_act": "relu"},
    "electra": {"model_type": "electra", **ENCODER, "embedding_size": HIDDEN},
    "electra-narrow": {"model_type": "electra", **ENCODER, "embedding_size": 16, "hidden_act": "gelu_fast"},
    "gpt2": {"model_type": "gpt2", **DECODER},
    "gpt2-inner": {"model_type": "gpt2", **DECODER, "n_inner": 64, "activation_function": "gelu_pytorch_tanh"},
}


def make(name, **changes):
    """Return (configuration as transformers writes it, module with random weights that all matter)."""
    values = {**CONFIGS[name], **changes}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    module = AutoModel.from_config(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.15 + (weight.dim() == 1))
    return config.to_dict(), module


def sequence(rng, length, spans=0):
    marked = []
    for _ in range(spans):
        start = rng.randrange(length)
        marked.append((start, rng.randint(start + 1, min(start + 5, length))))
    return EncodedSequence([rng.randrange(WORDS) for _ in range(length)], rng.randint(1, length), tuple(marked))


def sequences(lengths, spans=0, seed=0):
    rng = random.Random(seed)
    return [sequence(rng, length, spans) for length in lengths]


def group(shared, rests, spans=(), seed=0):
    """Sequences that begin with the same `shared` ids and go on with so many of their own."""
    rng = random.Random(seed)
    start = [rng.randrange(WORDS) for _ in range(shared)]
    rows = [start + [rng.randrange(WORDS) for _ in range(rest)] for rest in rests]
    return [EncodedSequence(ids, len(ids), spans, shared) for ids in rows]
