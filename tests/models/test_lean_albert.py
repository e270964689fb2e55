"""A lean_albert computes what its description says, keeps one set of matrices, and is read as it was published."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import numpy as np
import tokenizers
import torch
from safetensors import safe_open
from small_training import RWSD, plan
from tokenizers import models, pre_tokenizers, processors
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

from morocco_lib.errors import UsageError
from morocco_lib.models import lean_albert, weights
from morocco_lib.models.lean_albert import checkpoint
from morocco_lib.models.lean_albert.configuration import LeanAlbertConfig
from morocco_lib.models.lean_albert.modeling import LeanAlbertForMaskedLM, LeanAlbertForPreTraining, LeanAlbertModel
from morocco_lib.models.lean_albert.packed import PackedLean
from morocco_lib.models.transformer.model import make_backend
from morocco_lib.models.transformer.padded import Padded, backbone_of
from morocco_lib.models.transformer.sequences import EncodedSequence
from morocco_lib.options import POOLINGS, Options
from morocco_lib.training import backbones, fit

lean_albert.register()
PUBLISHED = {
    "model_type": "lean_albert", "architectures": ["LeanAlbertForMaskedLM"], "vocab_size": 50005, "embedding_size": 128,
    "hidden_size": 4096, "intermediate_size": 16384, "num_attention_heads": 64, "num_hidden_layers": 32,
    "num_hidden_groups": 32, "inner_group_num": 1, "share_large_matrices": 1, "hidden_act": "gelu_fused",
    "hidden_act_gated": True, "position_embedding_type": "rotary", "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    "initializer_range": 0.02, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0, "classifier_dropout_prob": 0.1,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "num_memory_blocks": 0,
}  # fmt: skip
LAYERS, WORDS = 3, 60
TINY = {
    "vocab_size": WORDS, "embedding_size": 8, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
    "num_hidden_layers": LAYERS, "num_hidden_groups": LAYERS,
}  # fmt: skip


def tiny(kind=LeanAlbertForPreTraining, **values):
    """A model whose every weight is drawn: biases and norms that are left out are noticed."""
    model = kind(LeanAlbertConfig(**{**PUBLISHED, **TINY, **values}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, one in model.named_parameters():
            one.copy_(torch.randn(one.shape, generator=generator) * 0.2 + name.endswith("norm.weight"))
    return model.eval()


def inputs(length=9):
    """Two texts in each of two sequences, the second sequence padded."""
    ids = torch.randint(1, WORDS, (2, length), generator=torch.Generator().manual_seed(2))
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    ids[1, 6:], mask[1, 6:], types[:, 4:] = 0, 0, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


# -- what it computes ----------------------------------------------------------------------------------------------
def test_the_published_model_has_so_many_weights():
    with torch.device("meta"):
        model = LeanAlbertForPreTraining(LeanAlbertConfig(**PUBLISHED))
        assert LeanAlbertForPreTraining(LeanAlbertConfig()).num_parameters() == model.num_parameters()
    assert sum(one.numel() for one in model.parameters()) == model.num_parameters() == 294_965_591
    assert sum(one.numel() for one in model.albert.matrices.parameters()) == 268_435_456


def plainly(weights, config, input_ids, attention_mask, token_type_ids):
    """What the description says, token by token in float64: states, logits of words, logits of the order."""
    w = {name: tensor.double().numpy() for name, tensor in weights.items()}
    hidden, heads, inner = config.hidden_size, config.num_attention_heads, config.intermediate_size
    size = hidden // heads

    def norm(x, name, eps=1e-12):
        centred = x - x.mean()
        return centred / np.sqrt((centred**2).mean() + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))

    def turned(x, place):
        made = np.empty(size)
        for k in range(size // 2):
            angle = place * 10000 ** (-2 * k / size)
            left, right = x[k], x[k + size // 2]
            made[k] = left * np.cos(angle) - right * np.sin(angle)
            made[k + size // 2] = right * np.cos(angle) + left * np.sin(angle)
        return made

    all_states, all_words, all_orders = [], [], []
    for ids, mask, types in zip(input_ids.tolist(), attention_mask.tolist(), token_type_ids.tolist(), strict=True):
        narrow = [
            norm(
                w["albert.embeddings.word_embeddings.weight"][i]
                + w["albert.embeddings.token_type_embeddings.weight"][t],
                "albert.embeddings.layer_norm",
            )
            for i, t in zip(ids, types, strict=True)
        ]
        wide = "albert.embeddings.embedding_hidden_mapping"
        x = [w[f"{wide}.weight"] @ one + w[f"{wide}.bias"] for one in narrow]
        for layer in range(config.num_hidden_layers):
            own = f"albert.layers.{layer}"
            qkv = [
                w["albert.matrices.qkv_weight"] @ norm(one, f"{own}.attention_norm") + w[f"{own}.qkv_bias"] for one in x
            ]
            seen = np.zeros((len(x), hidden))
            for head in range(heads):
                some = slice(head * size, (head + 1) * size)
                q = [turned(one[:hidden][some], place) for place, one in enumerate(qkv)]
                k = [turned(one[hidden : 2 * hidden][some], place) for place, one in enumerate(qkv)]
                v = [one[2 * hidden :][some] for one in qkv]
                for place in range(len(x)):
                    scores = np.array(
                        [q[place] @ (k[n] / np.sqrt(size)) - 10000 * (1 - mask[n]) for n in range(len(x))]
                    )
                    shares = np.exp(scores - scores.max())
                    seen[place, some] = shares @ np.array(v) / shares.sum()
            x = [
                one + w["albert.matrices.out_weight"] @ seen[place] + w[f"{own}.out_bias"]
                for place, one in enumerate(x)
            ]
            ups = [w["albert.matrices.up_weight"] @ norm(one, f"{own}.ffn_norm") + w[f"{own}.up_bias"] for one in x]
            x = [
                one + w["albert.matrices.down_weight"] @ (gelu(up[:inner]) * up[inner:]) + w[f"{own}.down_bias"]
                for one, up in zip(x, ups, strict=True)
            ]
        states = [norm(one, "albert.norm") for one in x]
        pooled = np.tanh(w["albert.pooler.dense.weight"] @ states[0] + w["albert.pooler.dense.bias"])
        told = [
            norm(
                gelu(w["predictions.dense.weight"] @ one + w["predictions.dense.bias"]), "predictions.layer_norm", 1e-5
            )
            for one in states
        ]
        words = [w["albert.embeddings.word_embeddings.weight"] @ one + w["predictions.decoder.bias"] for one in told]
        all_states.append(states)
        all_words.append(words)
        all_orders.append(w["sop_classifier.classifier.weight"] @ pooled + w["sop_classifier.classifier.bias"])
    return np.array(all_states), np.array(all_words), np.array(all_orders)


def test_a_pass_agrees_with_a_plain_computation_in_numpy():
    model, given = tiny(), inputs()
    with torch.inference_mode():
        found, states = model(**given), model.albert(**given).last_hidden_state
    expected = plainly(model.state_dict(), model.config, **given)
    real = given["attention_mask"].bool().numpy()
    for one, plain in zip((states, found.prediction_logits), expected, strict=False):
        assert np.abs(one.numpy() - plain)[real].max() < 1e-5
    assert np.abs(found.sop_logits.numpy() - expected[2]).max() < 1e-5


def test_without_mask_and_types_all_tokens_are_real_and_of_the_first_text():
    model, given = tiny(LeanAlbertModel), inputs()
    ones = {
        "attention_mask": torch.ones_like(given["input_ids"]),
        "token_type_ids": torch.zeros_like(given["input_ids"]),
    }
    with torch.inference_mode():
        short, long = model(given["input_ids"]), model(given["input_ids"], **ones)
    assert torch.allclose(short.last_hidden_state, long.last_hidden_state, atol=1e-6)


def test_it_gives_tuples_where_they_are_asked_for_and_attends_as_transformers_would():
    model, given = tiny(), inputs()
    assert model.config._attn_implementation == "sdpa"
    with torch.inference_mode():
        words, order = model(**given, return_dict=False)
        states, pooled = model.albert(**given, return_dict=False)
        assert torch.equal(words, model(**given)[0]) and torch.equal(words, model.predictions(states))
        assert torch.equal(order, model.sop_classifier(pooled))
    (again,) = tiny(LeanAlbertForMaskedLM)(**given, return_dict=False)
    assert again.shape == words.shape


def test_dropout_is_of_training_alone():
    given = inputs()
    for only in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        model = tiny(LeanAlbertModel, **{only: 0.5})
        with torch.inference_mode():
            assert torch.equal(model(**given)[0], tiny(LeanAlbertModel)(**given)[0])
            assert not torch.equal(model.train()(**given)[0], tiny(LeanAlbertModel)(**given)[0])


def losses(model, given):
    labels = torch.where(given["attention_mask"] == 1, given["input_ids"], -100)
    return model(**given, labels=labels, sentence_order_label=torch.tensor([0, 1]))


def test_the_loss_is_that_of_the_words_and_of_the_order():
    model, given = tiny(), inputs()
    found = losses(model, given)
    words = found.prediction_logits.log_softmax(-1).gather(-1, given["input_ids"][..., None])[..., 0]
    order = found.sop_logits.log_softmax(-1)
    expected = -words[given["attention_mask"] == 1].mean() - (order[0, 0] + order[1, 1]) / 2
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gradients_are_the_same(reentrant):
    gradients = []
    for checkpointed in (False, True):
        model = tiny(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3).train()
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            assert all(layer.gradient_checkpointing for layer in model.albert.layers)
        torch.manual_seed(3)
        losses(model, inputs()).loss.backward()
        gradients.append({name: one.grad for name, one in model.named_parameters()})
    for name, plain in gradients[0].items():
        assert torch.allclose(gradients[1][name], plain, rtol=1e-4, atol=1e-6), name
        assert plain.abs().max() > 0, name


def test_half_precision_is_finite_and_close():
    model, given = tiny(), inputs()
    with torch.inference_mode():
        plain = model(**given).prediction_logits
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(**given).prediction_logits
        half = model.to(torch.bfloat16)(**given).prediction_logits
        layers = model.albert(**given, output_hidden_states=True).hidden_states
    assert half.dtype == mixed.dtype == torch.bfloat16
    assert [one.dtype for one in layers[:-1]] == [torch.float32] * LAYERS  # sums stay whole
    for one in (half, mixed):
        assert one.isfinite().all() and (one.float() - plain).abs().max() < 0.1 * plain.std()


def test_what_it_is_answered_by_reads_padded_batches():
    body = tiny(LeanAlbertModel)
    backend = Padded(backbone_of(body.config.to_dict(), body.state_dict()), "mean")
    batch = [EncodedSequence([5, 6, 7, 8, 9, 10], 3), EncodedSequence([11, 12, 13], 2)]
    alone = [backend.features([one])[0] for one in batch]
    assert backend.padded and backend.segments and backend.max_length > 2048
    assert torch.allclose(backend.features(batch), torch.stack(alone), atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("gather", [False, True])
def test_without_padding_answers_are_the_models_own(pooling, gather):
    body, rng = tiny(LeanAlbertModel), np.random.default_rng(1)
    padded = Padded(backbone_of(body.config.to_dict(), body.state_dict()), pooling)
    packed = make_backend(
        {"config": body.config.to_dict(), "pooling": pooling}, body.state_dict(), Options(), padded.device
    )
    assert type(packed) is PackedLean
    packed.gather = gather
    batch = []
    for length in (7, 3, 12, 7, 5, 12, 4):
        ids, second = rng.integers(4, WORDS, length).tolist(), int(rng.integers(1, length))
        batch.append(EncodedSequence(ids, second, ((0, 2), (second, length)), types=((1, 1),) if length == 5 else ()))
    torch.testing.assert_close(packed.features(batch), padded.features(batch), atol=2e-5, rtol=1e-4)
    alone = torch.cat([packed.features([one]) for one in batch])
    torch.testing.assert_close(packed.features(batch), alone, atol=2e-5, rtol=1e-4)


# -- what is not built ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("adapter_dim", 16), ("lowrank_dim", 8), ("block_size", 32), ("sandwich_norm", True), ("num_memory_blocks", 4),
        ("share_large_matrices", 2), ("share_large_matrices", False), ("num_hidden_groups", 1), ("num_inner_groups", 2),
        ("inner_group_num", 2), ("num_inner_matrices", 2), ("position_embedding_type", "absolute"), ("hidden_act", "relu"),
        ("hidden_act_gated", False), ("attn_qkv_bias", False), ("out_proj_bias", False), ("tie_word_embeddings", False),
    ],
)  # fmt: skip
def test_what_the_published_model_leaves_off_is_refused_in_words(name, value):
    with pytest.raises(UsageError, match=f"a lean_albert with {name} {value!r}; the published model is built, with"):
        LeanAlbertConfig(**PUBLISHED | {name: value})


def test_sizes_that_do_not_fit_are_refused_and_other_spellings_of_the_published_are_not():
    with pytest.raises(UsageError, match="of width 4096 with 48 attention heads"):
        LeanAlbertConfig(**PUBLISHED | {"num_attention_heads": 48})
    LeanAlbertConfig(**PUBLISHED | {"share_large_matrices": True, "adapter_dim": None, "sandwich_norm": None})


# -- saved and read back -------------------------------------------------------------------------------------------
def test_a_saved_model_holds_each_weight_once_and_is_read_back(tmp_path):
    model, given = tiny(), inputs()
    model.save_pretrained(tmp_path)
    count = model.num_parameters()
    assert 4 * count <= (tmp_path / "model.safetensors").stat().st_size < 4 * count + 8192
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert sum(name.startswith("albert.matrices.") for name in file.keys()) == 4  # noqa: SIM118
    for auto, of in ((AutoModelForPreTraining, model), (AutoModelForMaskedLM, model), (AutoModel, model.albert)):
        read, found = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert not found["missing_keys"], auto
        assert auto is AutoModel or not found["unexpected_keys"], auto
        words = read.get_input_embeddings().weight
        if auto is not AutoModel:
            assert read.get_output_embeddings().weight is words
            assert read.resize_token_embeddings(WORDS, mean_resizing=False).weight is words
        with torch.inference_mode():
            assert torch.equal(read.eval()(**given)[0], of(**given)[0])
    assert read.num_parameters() == model.albert.num_parameters()


def test_new_weights_are_drawn_as_the_configuration_says():
    for spread, expected in ((0.05, 0.05), (None, (2 / (5 * 64)) ** 0.5)):
        values = {**PUBLISHED, **TINY, "hidden_size": 64, "initializer_range": spread}
        model = LeanAlbertForPreTraining(LeanAlbertConfig(**values))
        assert not model.get_input_embeddings().weight[0].any()
        with torch.no_grad():
            for one in model.parameters():
                one.fill_(7)
        model.apply(model._init_weights)
        for name, one in model.named_parameters():
            if name.endswith("bias"):
                assert not one.any(), name
            elif "norm" in name:
                assert (one == 1).all(), name
            elif one.numel() > 1000:
                assert one.std().item() == pytest.approx(expected, rel=0.1), name


# -- as it was published -------------------------------------------------------------------------------------------
PLACES = {"attention.dense_qkv": "qkv", "attention.dense_out": "out", "ffn.dense_i2h": "up", "ffn.dense_h2o": "down"}


def published_names(model):
    """The weights by the names of the original, with one storage for what is shared, as torch.save keeps them."""
    mine = model.state_dict()
    theirs = {}
    for part in ("word_embeddings.weight", "token_type_embeddings.weight", "layer_norm.weight", "layer_norm.bias",
                 "embedding_hidden_mapping.weight", "embedding_hidden_mapping.bias"):  # fmt: skip
        theirs[f"albert.embeddings.{part}"] = mine[f"albert.embeddings.{part}"]
    for layer in range(model.config.num_hidden_layers):
        own, group = f"albert.layers.{layer}", f"albert.transformer.layer_groups.{layer}.layers.0"
        for place, name in PLACES.items():
            theirs[f"{group}.{place}.bias"] = mine[f"{own}.{name}_bias"]
            theirs[f"{group}.{place}.shared_matrix.weight"] = mine[f"albert.matrices.{name}_weight"]
        for place in ("attention", "ffn"):
            for kind in ("weight", "bias"):
                theirs[f"{group}.{place}.layer_norm.{kind}"] = mine[f"{own}.{place}_norm.{kind}"]
    for kind in ("weight", "bias"):
        theirs[f"albert.transformer.post_layer_norm.{kind}"] = mine[f"albert.norm.{kind}"]
        theirs[f"albert.pooler.{kind}"] = mine[f"albert.pooler.dense.{kind}"]
        theirs[f"predictions.layer_norm.{kind}"] = mine[f"predictions.layer_norm.{kind}"]
        theirs[f"predictions.dense.{kind}"] = mine[f"predictions.dense.{kind}"]
        theirs[f"predictions.decoder.{kind}"] = mine[f"predictions.decoder.{kind}"]
        theirs[f"sop_classifier.classifier.{kind}"] = mine[f"sop_classifier.classifier.{kind}"]
    theirs["predictions.bias"] = mine["predictions.decoder.bias"]
    return theirs


def unigram(words):
    """A tokenizer as the published one: pieces that begin with the mark, [CLS] a [SEP] b [SEP]."""
    pieces = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "▁", *words]
    made = tokenizers.Tokenizer(models.Unigram([(piece, -1.0 - k / 100) for k, piece in enumerate(pieces)], unk_id=1))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.add_special_tokens(pieces[:5])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


SPECIAL = {
    "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "sep_token": "[SEP]", "pad_token": "<pad>",
    "cls_token": "[CLS]", "mask_token": {"content": "[MASK]", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False},
}  # fmt: skip


@pytest.fixture
def publish(tmp_path):
    """Write a folder as the authors publish it; returns it and the model in it."""

    def make(change=lambda state: {"model": state}, name="state.pth", config=(), special=(), words=WORDS - 6):
        tokenizer = unigram([f"{'▁' if k % 2 else ''}{chr(ord('а') + k % 32)}{'о' * (k // 32)}" for k in range(words)])
        size = len({*tokenizer.get_vocab(), *dict(special).values()})
        model = tiny(vocab_size=size)
        (tmp_path / "tokenizer").mkdir()
        tokenizer.save(str(tmp_path / "tokenizer/tokenizer.json"))
        (tmp_path / "tokenizer/special_tokens_map.json").write_text(json.dumps(SPECIAL | dict(special)))
        (tmp_path / "tokenizer/config.json").write_text(json.dumps({"model_type": "albert", "vocab_size": size}))
        (tmp_path / "config.json").write_text(json.dumps({**PUBLISHED, **TINY, **dict(config)}))
        torch.save(change(published_names(model)), tmp_path / name)
        return tmp_path, model

    return make


def check_same(backbone, model, pooler=False):
    """One tensor stands for what is shared, and the backbone computes as the model did."""
    assert type(backbone.model) is LeanAlbertModel
    left_out = 0 if pooler else sum(one.numel() for one in model.albert.pooler.parameters())
    assert backbone.model.num_parameters() == model.albert.num_parameters() - left_out
    with torch.inference_mode():
        found, expected = backbone.model.eval()(**inputs()), model.albert(**inputs())
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert not pooler or torch.equal(found.pooler_output, expected.pooler_output)


def test_a_published_folder_is_read_like_any_other(publish):
    folder, model = publish()
    for pooler in (False, True):
        backbone = backbones.load(str(folder), pooler=pooler)
        check_same(backbone, model, pooler)
    assert (backbone.template.start, backbone.template.middle, backbone.template.end) == ((2,), (3,), (3,))
    assert tokenizers.Tokenizer.from_str(backbone.tokenizer).encode("б").tokens == ["[CLS]", "▁б", "[SEP]"]
    backbones.save_folder(backbone, folder / "ours")
    again = backbones.load(str(folder / "ours"), pooler=True)
    check_same(again, model, pooler=True)
    assert again.template == backbone.template


def with_the_rest(state):
    return {
        "model": state,
        "optimizer": {"state": {0: {"step": torch.ones(1)}}},
        "scheduler": {"last_epoch": 3},
        "local_epoch": 3,
    }


def without_aliases(state):
    return {"model": {name: tensor.clone() for name, tensor in state.items()}}


def halved(state):
    return {"model": {name: tensor.half() for name, tensor in state.items()}}


def of_a_classifier(state):
    body = {name: one for name, one in state.items() if name.startswith("albert.") and "pooler" not in name}
    return {"model": body | {"classifier.1.weight": torch.ones(2, 2)}}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (dict, "state.pth"),  # bare
        (with_the_rest, "state.pth"),
        (without_aliases, "state.pth"),
        (of_a_classifier, "state.pth"),
        (with_the_rest, "model_state.pt"),
        (with_the_rest, "state.zip"),
    ],
)
def test_other_forms_are_read(change, name, publish):
    folder, model = publish(change, name)
    check_same(backbones.load(str(folder)), model)


def test_weights_of_half_precision_are_trained_in_float32(publish):
    folder, model = publish(halved)
    read, expected = backbones.load(str(folder)).model.state_dict(), model.albert.state_dict()
    assert all(
        one.dtype == torch.float32 and torch.equal(one, expected[name].half().float()) for name, one in read.items()
    )


def test_a_state_beside_another_kind_of_model_is_left_alone(tmp_path):
    made = backbones.from_scratch({"model_type": "bert", "hidden_size": 32, "num_attention_heads": 2}, ["а б"], 1)
    backbones.save_folder(made, tmp_path)
    (tmp_path / "state.pth").write_bytes(b"")
    assert backbones.load(str(tmp_path)).model.config.model_type == "bert"


def test_the_heads_that_were_pre_trained_are_read_too(publish):
    folder, model = publish()
    read = checkpoint.load(folder, LeanAlbertConfig.from_pretrained(folder), WORDS, LeanAlbertForPreTraining).eval()
    assert read.predictions.decoder.weight is read.get_input_embeddings().weight
    assert read.num_parameters() == model.num_parameters()
    with torch.inference_mode():
        found, expected = read(**inputs()), model(**inputs())
    assert torch.equal(found.prediction_logits, expected.prediction_logits)
    assert torch.equal(found.sop_logits, expected.sop_logits)


def test_the_vocabulary_is_the_tokenizers_whatever_the_configuration_says(publish):
    folder, model = publish(config={"vocab_size": 77}, special={"mask_token": "<hidden>"})
    backbone = backbones.load(str(folder))
    assert backbone.model.config.vocab_size == WORDS + 1 == model.config.vocab_size
    check_same(backbone, model)
    assert tokenizers.Tokenizer.from_str(backbone.tokenizer).token_to_id("<hidden>") == WORDS


def changed(name, make):
    return lambda state: {"model": {**state, name: make(state[name])}}


LAST = f"albert.transformer.layer_groups.{LAYERS - 1}.layers.0"
SPARE, SHARED = (
    "albert.transformer.layer_groups.3.layers.0.ffn.dense_h2o.bias",
    f"{LAST}.ffn.dense_i2h.shared_matrix.weight",
)
TYPES = "albert.embeddings.token_type_embeddings.weight"


def without(name):
    return lambda state: {one: tensor for one, tensor in state.items() if one != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(SHARED, lambda one: one + 1), f"has another {SHARED} than the one that it shares"),
        (changed("predictions.decoder.weight", lambda one: one + 1), "has another predictions.decoder.weight than"),
        (changed("predictions.bias", lambda one: one + 1), "has another predictions.bias than"),
        (
            changed(TYPES, lambda one: one[:1]),
            rf"has {TYPES} of shape \(1, 8\) where \(2, 8\) is asked for; it fits config",
        ),
        (without(f"{LAST}.attention.dense_out.bias"), "lacks albert.layers.2.out_bias; it fits config.json"),
        (lambda state: {**state, SPARE: torch.ones(32)}, "has albert.layers.3.down_bias besides"),
        (lambda state: {"model": {"a": 1}}, "holds no weights by name"),
        (lambda state: [1], "holds no weights by name"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_words(change, message, publish):
    folder, _ = publish(change)
    with pytest.raises(UsageError, match=message):
        backbones.load(str(folder))


def test_a_tokenizer_of_another_size_is_refused(publish):
    folder, _ = publish()
    unigram(["▁а", "▁б"]).save(str(folder / "tokenizer/tokenizer.json"))
    with pytest.raises(
        UsageError, match=r"word_embeddings.weight of shape \(60, 8\) where \(8, 8\).*the 8 tokens of tokenizer/"
    ):
        backbones.load(str(folder))


class Harmful:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_that_holds_more_than_tensors_is_refused_and_not_run(publish, tmp_path):
    folder, _ = publish(lambda state: {"model": state, "optimizer": Harmful(str(tmp_path / "ran"))})
    with pytest.raises(UsageError, match="is damaged, or holds more than tensors"):
        backbones.load(str(folder))
    assert not (tmp_path / "ran").exists()


# -- fitted --------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_published_model_is_fitted_and_answers(publish, small, tmp_path_factory):
    folder, model = publish()
    described = plan(small, begin={"source": str(folder)}, pooling="mean")
    assert "source/tokenizer/tokenizer.json" in fit.sources(described.model, folder)
    out = tmp_path_factory.mktemp("fitted")
    result = fit.fit(described, out)
    fitted, _ = weights.load(out)
    val = RWSD.read(small / "RWSD" / "val.jsonl")
    assert RWSD.score([RWSD.gold(r) for r in val], fitted.answer(val))["acc"] == result["val_score"]
    argv = [sys.executable, "-m", "morocco_lib", "infer", str(out)]
    with (small / "RWSD" / "val.jsonl").open("rb") as file:
        done = subprocess.run(argv, stdin=file, capture_output=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        json.loads(RWSD.format(one)) for one in fitted.answer(val)
    ]
    with safe_open(out / "weights/model.safetensors", "np") as file:
        names = [name for name in file.keys() if name.startswith("body.")]  # noqa: SIM118
        count = sum(file.get_tensor(name).size for name in names)
        learnt = file.get_tensor("body.matrices.up_weight")
    assert sum("matrices" in name for name in names) == 4
    assert count == model.albert.num_parameters() - sum(one.numel() for one in model.albert.pooler.parameters())
    assert np.abs(learnt - model.albert.matrices.up_weight.detach().numpy()).max() > 0
