"""Where a transformer's backbone and tokenizer come from, and what is refused."""

import json

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_training import TINY, few_records, texts

from morocco_lib.errors import UsageError
from morocco_lib.training import backbones


@pytest.fixture(scope="module")
def small(tmp_path_factory, synthetic_data):
    return few_records(synthetic_data, tmp_path_factory.mktemp("small"))


@pytest.fixture
def folder(small, tmp_path):
    """A local model folder, as transformers saves it."""

    def make(kind="bert"):
        backbones.save_folder(backbones.from_scratch(TINY[kind], texts(small), 1), tmp_path / kind)
        return tmp_path / kind

    return make


@pytest.mark.parametrize("kind", TINY)
def test_a_local_folder_is_read_back_as_it_was(kind, folder, small):
    made, read = backbones.from_scratch(TINY[kind], texts(small), 1), backbones.load(str(folder(kind)))
    assert read.template == made.template and read.causal == (kind == "gpt2")
    text = "мышь и кот"
    one, other = (tokenizers.Tokenizer.from_str(body.tokenizer).encode(text).ids for body in (made, read))
    assert one == other
    for (name, tensor), (_, again) in zip(
        made.model.state_dict().items(), read.model.state_dict().items(), strict=True
    ):
        assert torch.equal(tensor, again), name


def spoil(path, what):
    if what == "no config":
        (path / "config.json").unlink()
    elif what == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (path / name).unlink()
    elif what == "no weights":
        (path / "model.safetensors").unlink()
    elif what == "broken weights":
        (path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00 nothing")
    elif what == "some weights":
        tensors = load_file(path / "model.safetensors")
        tensors.pop(next(name for name in tensors if "word_embeddings" not in name))
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    elif what == "another tokenizer":
        values = json.loads((path / "tokenizer.json").read_text())
        values["model"]["vocab"] |= {f"слово{k}": 600 + k for k in range(50)}
        (path / "tokenizer.json").write_text(json.dumps(values))
    elif what == "nothing around":
        values = json.loads((path / "tokenizer.json").read_text())
        (path / "tokenizer.json").write_text(json.dumps(values | {"post_processor": None}))
    elif what in ("hidden_size", "num_hidden_layers"):
        values = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(values | {what: "x" if what == "hidden_size" else 0}))
    elif what == "broken config":
        (path / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no config", "no config.json"), ("no tokenizer", "no tokenizer in"), ("no weights", "cannot be loaded"),
        ("broken weights", "cannot be loaded"), ("some weights", "lacks 1 of the weights"),
        ("another tokenizer", "the tokenizer has ids to"), ("broken config", "cannot be loaded"),
        ("nothing around", "puts its special tokens around a text"), ("hidden_size", "cannot be loaded"),
        ("num_hidden_layers", "0 layers"),
    ],
)  # fmt: skip
def test_a_model_folder_that_will_not_do_is_refused_in_words(what, message, folder):
    path = folder()
    spoil(path, what)
    with pytest.raises(UsageError) as caught:
        backbones.load(str(path))
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_decoder_and_the_tokenizer_of_another_are_refused(folder):
    path = folder("gpt2")
    values = json.loads((path / "tokenizer.json").read_text())
    values["model"]["vocab"] |= {f"слово{k}": 700 + k for k in range(50)}
    (path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match="tokenizer and weights belong together"):
        backbones.load(str(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 0},
        {"hidden_size": 0},
        {"num_attention_heads": 0},
        {"vocab_size": "many"},
        {"vocab_size": -5},
    ],
    ids=str,
)
def test_impossible_sizes_are_refused_in_words(changes, small):
    with pytest.raises(UsageError):
        backbones.from_scratch({**TINY["bert"], **changes}, texts(small), 1)


@pytest.mark.parametrize(
    "scratch",
    [{"model_type": "brt"}, {"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4}],
    ids=["kind", "size"],
)
def test_a_model_that_cannot_be_made_is_refused_in_words(scratch, small):
    with pytest.raises(UsageError, match="no model can be made of"):
        backbones.from_scratch(scratch, texts(small), 1)


@pytest.mark.parametrize(
    ("scratch", "message"),
    [
        ({"model_type": "t5", "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}, "an encoder with a decoder"),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16,
          "num_key_value_heads": 1, "intermediate_size": 32}, "vision_config": {"hidden_size": 32, "num_hidden_layers": 1,
          "num_attention_heads": 2, "intermediate_size": 32}}, "of more than text"),
    ],
    ids=["t5", "gemma3"],
)  # fmt: skip
def test_what_is_neither_an_encoder_nor_a_decoder_of_text_is_refused_in_words(scratch, message, small):
    with pytest.raises(UsageError, match=message):
        backbones.from_scratch({**scratch, "vocab_size": 600}, texts(small), 1)


def test_a_tokenizer_written_in_python_is_refused_in_words(tmp_path):
    config = transformers.CTRLConfig(vocab_size=20, n_embd=16, n_layer=1, n_head=2, dff=16, n_positions=64)
    transformers.CTRLModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a</w>": 0, "b</w>": 1, "<unk>": 2}')
    (tmp_path / "merges.txt").write_text("#version\n")
    with pytest.raises(UsageError, match="its CTRLTokenizer is written in Python"):
        backbones.load(str(tmp_path))
