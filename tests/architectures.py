"""Tiny transformers with random weights, sequences of ids for them, and what holds for every architecture.

Import after `pytest.importorskip` for torch and transformers.
"""

import random

import torch
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModel

from morocco_lib.models.transformer.heads import head_of
from morocco_lib.models.transformer.model import Transformer
from morocco_lib.models.transformer.openvino import OpenVINO
from morocco_lib.models.transformer.packed import Packed
from morocco_lib.models.transformer.sequences import EncodedSequence
from morocco_lib.options import POOLINGS
from morocco_lib.training import backbones, finetune

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


# -- models of the kit ---------------------------------------------------------------------------------------------
SIZES = {
    "vocab_size": 800, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64
}  # fmt: skip
SPREAD = 0.3  # of the random weights: with the usual 0.02 the answers of an untrained model hang on the last digit


def untrained(config, task, records, pooling=None, max_length=512):
    """What a weights folder holds of a model of a configuration with random weights."""
    backbone = backbones.from_scratch({"initializer_range": SPREAD, **config}, backbones.texts_of(records, task), 1)
    head, width = head_of(task), backbone.model.config.hidden_size
    torch.manual_seed(1)
    tensors = {f"body.{name}": tensor for name, tensor in backbone.model.state_dict().items()}
    tensors["head.weight"] = torch.randn(head.outputs, head.width(width))
    tensors["head.bias"] = torch.randn(head.outputs)
    values = finetune.values_of(backbone, task, pooling or ("last" if backbone.causal else "first"), max_length)
    return finetune.Fitted(values, tensors, backbone.tokenizer)


def loaded(config, task, records, pooling=None):
    """An untrained model, as its weights folder would be read."""
    made = untrained(config, task, records, pooling)
    return Transformer(task, made.values, made.tensors, made.tokenizer_text)


def sequences_of(model, records):
    return [one for found in model.reader([model.task.parts(record) for record in records]) for one in found]


def check_that_passages_are_computed_once(model, records, monkeypatch):
    """Hold a decoder through transformers to the logits of whole sequences, at less than a third of their tokens."""
    sequences, computed = sequences_of(model, records), []
    model.backend.model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    fast = model.logits(sequences, 64)
    shared, computed[:] = sum(computed), []
    monkeypatch.setattr(model.backend, "share", False)
    plain = model.logits(sequences, 64)
    assert (fast - plain).abs().max() / plain.std() < 1e-4
    assert shared < sum(computed) / 3


def check_that_openvino_computes_as_torch(name):
    config, module = make(name)
    backend = OpenVINO(config, module.state_dict(), "first", "fp32")
    for pooling, lengths in zip(POOLINGS, ([7, 40, 1, 23, 7], [17], [9] * 5, [60, 3]), strict=True):
        backend.pooling = pooling  # the compiled part ends before it
        batch = sequences(lengths, spans=3)
        found, wanted = backend.features(batch), Packed(config, module.state_dict(), pooling).features(batch)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def check_that_padding_changes_nothing(model, records):
    sequences = sequences_of(model, records)
    together, alone = model.logits(sequences, 32), model.logits(sequences, 1)
    assert (together - alone).abs().max() / alone.std() < 1e-3
