"""Features without padding equal transformers' own, and cost less."""
# ruff: noqa: E402 (what may be missing is skipped before it is imported)

from itertools import product

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers, whose forward is the reference")

from architectures import CONFIGS, HIDDEN, WORDS, group, make, sequences
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModel

from morocco_lib.models.transformer import packing
from morocco_lib.models.transformer.packed import Packed, Shape
from morocco_lib.models.transformer.packing import pieces_of
from morocco_lib.models.transformer.padded import Padded, backbone_of
from morocco_lib.models.transformer.sequences import EncodedSequence
from morocco_lib.options import POOLINGS


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def model(request):
    """One that normalizes after each layer and one that does so before; the others differ in embeddings alone."""
    return make(request.param)


def check(model, pooling, batch, gather=False):
    config, module = model
    wanted = Padded(module, pooling).features(batch)
    found = Packed(config, module.state_dict(), pooling, gather=gather).features(batch)
    assert found.dtype == torch.float32 and found.shape == wanted.shape
    assert found.shape == (len(batch), (1 + len(batch[0].spans)) * HIDDEN)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


LENGTHS = {
    "mixed": [7, 40, 1, 23, 7, 2, 39, 7, 12, 23],
    "one": [17],
    "one token": [1],
    "equal": [9] * 5,
    "two lengths": [5, 6, 5, 6],
}


@pytest.mark.parametrize("name", CONFIGS)
def test_features_equal_those_of_transformers(name):
    model = make(name)
    for pooling, spans, gather in product(POOLINGS, (0, 3), (False, True)):
        check(model, pooling, sequences(LENGTHS["mixed"], spans), gather)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_features_equal_at_the_edges_of_lengths(lengths, model):
    for pooling, gather in product(POOLINGS, (False, True)):
        check(model, pooling, sequences(lengths, 1), gather)


@pytest.mark.parametrize("together", [0, 22, 10_000])
def test_what_follows_a_prefix_attends_at_once_or_run_by_run(together, monkeypatch):
    monkeypatch.setattr(packing, "TOGETHER", together)
    batch = [*group(20, [3, 1, 9, 3, 1]), *sequences([8, 30], seed=1), *group(11, [12, 1, 4, 8], seed=3)]
    batch = [EncodedSequence(one.ids, one.second, ((0, 2), (4, 6)), one.shared) for one in batch]
    for pooling in POOLINGS:
        check(make("gpt2"), pooling, batch)
    made = packing.Packing(batch, True, torch.device("cpu"))
    counts = [block.count for block in made.blocks(gather=False) if isinstance(block.keys, torch.Tensor)]
    assert counts == {0: [2, 2, 1, 1, 1, 1, 1], 22: [1, 1, 1, 1, 1], 10_000: [1, 1]}[together]


@pytest.mark.parametrize("spans", [(), ((0, 2), (4, 6), (1, 5))], ids=["whole", "spans"])
def test_shared_prefixes_do_not_change_features(spans):
    single = [EncodedSequence(one.ids, one.second, spans) for one in sequences([8, 30], seed=1)]
    batch = [
        *group(20, [3, 1, 9, 3, 1], spans),
        single[0],
        *group(11, [6, 6], spans, seed=2),
        *group(11, [12, 1, 4], spans, seed=3),  # of the same size as the one before, and of other ids
        *group(6, [0, 3, 0], spans, seed=4),  # nothing follows
        single[1],
        *group(9, [4], spans, seed=5),  # its neighbours are in another batch
    ]
    assert sum(piece.place < 0 for piece in pieces_of(batch, True)) == 4
    model = make("gpt2")
    for pooling, gather in product(POOLINGS, (False, True)):
        check(model, pooling, batch, gather)


def test_prefix_of_one_token_and_equal_sequences():
    model = make("gpt2")
    for shared, rests in ((1, [5, 2, 5]), (1, [0, 0]), (12, [1, 1, 1])):
        for pooling, gather in product(POOLINGS, (False, True)):
            check(model, pooling, group(shared, rests), gather)


def test_encoders_do_not_share():
    batch = group(10, [3, 4, 5])
    assert len(pieces_of(batch, False)) == 3
    check(make("bert"), "first", batch)


def test_second_segment_matters_where_the_model_knows_segments():
    one, other = EncodedSequence([5, 6, 7, 8], 2), EncodedSequence([5, 6, 7, 8], 4)
    for name, knows in (("bert", True), ("roberta", False), ("electra", True)):
        config, module = make(name)
        found = Packed(config, module.state_dict(), "first").features([one, other])
        assert torch.equal(found[0], found[1]) != knows


def test_half_precision_is_close(model):
    config, module = model
    batch = sequences(LENGTHS["mixed"], 1)
    exact = Padded(module, "mean").features(batch)
    found = Packed(config, module.state_dict(), "mean", dtype=torch.bfloat16).features(batch)
    assert found.dtype == torch.float32 and not torch.equal(found, exact)
    assert torch.cosine_similarity(found, exact).min() > 0.99


def test_batch_and_weights_stay_as_they_were():
    config, module = make("gpt2")
    batch, weights = sequences(LENGTHS["mixed"], 1), {name: one.clone() for name, one in module.state_dict().items()}
    backend = Packed(config, module.state_dict(), "first")
    first = backend.features(batch)
    assert torch.equal(first, backend.features(batch)) and batch == sequences(LENGTHS["mixed"], 1)
    assert all(torch.equal(one, weights[name]) for name, one in module.state_dict().items())


# -- what is refused -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, limit", [("bert", 64), ("xlm-roberta", 60)])  # which counts from behind its padding
def test_sequence_beyond_the_positions_is_refused(name, limit):
    config, module = make(name)
    for backend in (Packed(config, module.state_dict(), "first"), Padded(module, "first")):
        assert backend.max_length == limit
        assert backend.features(sequences([limit])).shape == (1, HIDDEN)
        with pytest.raises(ValueError, match=f"has {limit + 1} tokens; this model reads {limit} at most"):
            backend.features(sequences([3, limit + 1]))


def test_missing_and_misshapen_weights_are_named():
    config, module = make("bert")
    backbone = {name: one for name, one in module.state_dict().items() if not name.startswith("pooler.")}
    for name, tensor in backbone.items():
        with pytest.raises(ValueError, match=f"lack {name}"):
            Packed(config, {key: one for key, one in backbone.items() if key != name}, "first")
        with pytest.raises(ValueError, match=f"{name} has shape"):
            Packed(config, {**backbone, name: tensor[1:]}, "first")


OTHERS = [
    ("bert", {"model_type": "modernbert"}),
    ("bert", {"hidden_act": "silu"}),
    ("bert", {"is_decoder": True}),
    ("bert", {"add_cross_attention": True}),
    ("bert", {"position_embedding_type": "relative_key"}),
    ("bert", {"num_attention_heads": 5}),
    ("bert", {"pruned_heads": {0: [1]}}),
    ("gpt2", {"activation_function": "swish"}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"reorder_and_upcast_attn": True}),
    ("gpt2", {"add_cross_attention": True}),
    ("gpt2", {"scale_attn_weights": False}),
]


def test_other_architectures_are_left_to_transformers():
    known = {name: make(name) for name in ("bert", "gpt2")}
    for name, changes in OTHERS:
        config, module = known[name]
        assert Packed.supports(config) and not Packed.supports({**config, **changes}), changes
        with pytest.raises(ValueError, match="not computed without padding"):
            Packed({**config, **changes}, module.state_dict(), "first")


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "gpt2"])
def test_what_a_configuration_leaves_out_is_what_transformers_takes(kind):
    default = AutoConfig.for_model(kind)
    named = {"model_type": kind, **default.to_dict()}
    sizes = {
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "embedding_size",
    }
    sizes |= {"max_position_embeddings", "type_vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "model_type"}
    assert Shape.of({name: value for name, value in named.items() if name in sizes}) == Shape.of(named)


def test_configuration_without_a_size_is_refused():
    config, module = make("bert")
    del config["intermediate_size"]
    with pytest.raises(ValueError, match="of a bert lacks intermediate_size"):
        Packed(config, module.state_dict(), "first")


# -- what it costs -------------------------------------------------------------------------------------------------
def flops(backend, batch):
    def product(_, rows, weight, **kwargs):  # torch counts addmm, but not addmm_
        return 2 * rows[0] * rows[1] * weight[1]

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: product}) as counter:
        backend.features(batch)
    return counter.get_total_flops()


@pytest.mark.parametrize("name, inner", [("bert", 80), ("gpt2", 4 * HIDDEN)])
def test_last_layer_computes_what_is_pooled_alone(name, inner):
    config, module = make(name)
    lengths = [30, 20, 20, 10]
    pooling = "last" if name == "gpt2" else "first"
    whole, pooled, marked = (
        flops(Packed(config, module.state_dict(), how), sequences(lengths, spans))
        for how, spans in (("mean", 0), (pooling, 0), (pooling, 1))
    )
    row = 2 * HIDDEN * (2 * HIDDEN + 2 * inner)  # of a layer without keys, values and attention
    spared = (sum(lengths) - len(lengths)) * row
    attention = sum(4 * HIDDEN * length * (length - 1) for length in lengths)
    assert spared <= whole - pooled <= spared + attention
    assert pooled < marked < whole


def test_shared_prefix_is_computed_once():
    config, module = make("gpt2")
    batch = group(40, [3, 4, 3, 6, 2, 3, 4, 5])
    apart = [EncodedSequence(one.ids, one.second) for one in batch]
    backend = Packed(config, module.state_dict(), "last")
    rows = sum(len(one.ids) for one in apart)
    assert flops(backend, batch) < flops(backend, apart) * (40 + 30) / rows * 1.3


def test_no_padding_is_computed():
    config, module = make("bert")
    backend = Packed(config, module.state_dict(), "mean")
    alone = sum(flops(backend, sequences([length])) for length in (40, 3, 3, 1))
    assert flops(backend, sequences([3, 40, 1, 3])) == alone


# -- through transformers ------------------------------------------------------------------------------------------
def test_padding_does_not_change_features():
    config, module = make("roberta")
    batch = sequences([4, 13, 1], 1)
    backend = Padded(backbone_of(config, module.state_dict()), "mean")
    alone = torch.cat([backend.features([one]) for one in batch])
    torch.testing.assert_close(backend.features(batch), alone, atol=2e-5, rtol=0)


def test_shared_tokens_are_computed_with_once_where_that_saves_1024():
    config, module = make("gpt2")
    backend, computed = Padded(backbone_of(config, module.state_dict()), "last", share=True), []
    backend.model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for count, tokens in ((32, 32 * 33), (33, 32 + 33)):
        computed.clear()
        backend.features(group(32, [1] * count))
        assert sum(computed) == tokens


def test_module_of_an_architecture_that_only_transformers_knows():
    config = AutoConfig.for_model("distilbert", vocab_size=WORDS, dim=HIDDEN, n_layers=2, n_heads=4, hidden_dim=80)
    module = AutoModel.from_config(config).eval()
    assert not Packed.supports(config.to_dict())
    batch = sequences([6, 2])
    found = Padded(backbone_of(config.to_dict(), module.state_dict()), "first").features(batch)
    with torch.inference_mode():
        wanted = torch.cat([module(torch.tensor([one.ids]))[0][:, 0] for one in batch])
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_body_of_names_what_does_not_fit():
    config, module = make("bert")
    backbone = dict(module.state_dict())
    name = "encoder.layer.0.output.dense.bias"
    with pytest.raises(ValueError, match=f"lacks {name}"):
        backbone_of(config, {key: one for key, one in backbone.items() if key != name})
    with pytest.raises(ValueError, match=name):
        backbone_of(config, {**backbone, name: backbone[name][1:]})
    with pytest.raises(ValueError, match="does not know spare"):
        backbone_of(config, {**backbone, "spare": backbone[name]})
