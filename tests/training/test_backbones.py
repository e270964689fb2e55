"""Where a transformer's backbone and tokenizer come from, and what is refused."""

import json

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_training import TINY, texts

from morocco_lib.errors import UsageError
from morocco_lib.training import backbones


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
    one, other = (tokenizers.Tokenizer.from_str(backbone.tokenizer).encode(text).ids for backbone in (made, read))
    assert one == other
    for (name, tensor), (_, again) in zip(
        made.model.state_dict().items(), read.model.state_dict().items(), strict=True
    ):
        assert torch.equal(tensor, again), name


def test_a_tokenizer_that_pads_and_truncates_by_itself_is_read_as_one_that_does_not(folder):
    plain = backbones.load(str(place := folder("bert")))
    tokenizer = tokenizers.Tokenizer.from_file(str(place / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=128)
    tokenizer.save(str(place / "tokenizer.json"))
    assert backbones.load(str(place)).template == plain.template and plain.template.size == 3


# -- the forms in which folders and repositories keep weights ------------------------------------------------------
def old_names(name):
    return "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def as_bin(path, tensors):
    torch.save(tensors, path / "pytorch_model.bin")


def as_old_bin(path, tensors):
    torch.save({old_names(name): tensor for name, tensor in tensors.items()}, path / "pytorch_model.bin")


def as_shards(save, ending):
    def write(path, tensors):
        names, files = list(tensors), [f"part-{k}.{ending}" for k in (1, 2)]
        for k, file in enumerate(files):
            save({name: tensors[name] for name in names[k::2]}, path / file)
        place = {name: files[k % 2] for k, name in enumerate(names)}
        index = "model.safetensors.index.json" if ending == "safetensors" else "pytorch_model.bin.index.json"
        (path / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": place}))

    return write


def as_safetensors(tensors, path):
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "write",
    [as_bin, as_old_bin, as_shards(torch.save, "bin"), as_shards(as_safetensors, "safetensors")],
    ids=["bin", "old names", "sharded bin", "shards"],
)
def test_weights_are_read_in_every_form_that_hubs_keep(write, folder):
    path = folder()
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    write(path, tensors)
    change("config.json", torch_dtype="float16")(path)  # as older versions name it; training is in float32
    read = backbones.load(str(path)).model.state_dict()
    assert {name: tensor.dtype for name, tensor in read.items()} == dict.fromkeys(tensors, torch.float32)
    assert all(torch.equal(tensor, read[name]) for name, tensor in tensors.items())


class Pickled:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_bin_that_holds_more_than_tensors_is_refused_and_not_run(folder, tmp_path):
    path = folder()
    (path / "model.safetensors").unlink()
    torch.save({"x": Pickled(str(tmp_path / "ran"))}, path / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"are pickled objects or damaged; only tensors are read") as caught:
        backbones.load(str(path))
    assert "weights_only" not in str(caught.value) and not (tmp_path / "ran").exists()


def change(name, **values):
    def spoil(path):
        (path / name).write_text(json.dumps(json.loads((path / name).read_text()) | values))

    return spoil


def add_words(path):
    values = json.loads((path / "tokenizer.json").read_text())
    values["model"]["vocab"] |= {f"слово{k}": 700 + k for k in range(50)}
    (path / "tokenizer.json").write_text(json.dumps(values))


def drop_a_weight(path):
    tensors = load_file(path / "model.safetensors")
    tensors.pop(next(name for name in tensors if "word_embeddings" not in name))
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "spoil", "message"),
    [
        ("bert", lambda path: (path / "config.json").unlink(), "has no config.json with a model_type"),
        ("bert", lambda path: (path / "tokenizer.json").unlink(), "no tokenizer in"),
        ("bert", lambda path: (path / "model.safetensors").unlink(), "cannot be loaded"),
        ("bert", drop_a_weight, "lacks 1 of the weights"),
        ("bert", add_words, "the tokenizer has ids to"),
        ("gpt2", add_words, "tokenizer and weights belong together"),
        ("bert", change("tokenizer.json", post_processor=None), "puts its special tokens around a text"),
        ("bert", change("config.json", num_hidden_layers=0), "0 layers"),
        ("bert", change("config.json", model_type=None), "has no config.json with a model_type"),
    ],
    ids=[
        "config",
        "tokenizer",
        "weights",
        "a weight",
        "another tokenizer",
        "a decoder's",
        "nothing around",
        "layers",
        "no kind",
    ],
)
def test_a_model_folder_that_will_not_do_is_refused_in_words(kind, spoil, message, folder):
    path = folder(kind)
    spoil(path)
    with pytest.raises(UsageError) as caught:
        backbones.load(str(path))
    assert message in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "brt"}, "no model can be made of"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "no model can be made of"),
        ({"hidden_size": 0}, None),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"vocab_size": -5}, "vocab_size is -5"),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_made_is_refused_in_words(changes, message, small):
    with pytest.raises(UsageError, match=message):
        backbones.from_scratch({**TINY["bert"], **changes}, texts(small), 1)


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


def test_code_that_comes_with_a_model_is_refused_and_not_run(folder):
    path = folder()
    (path / "mine.py").write_text(f"open({str(path / 'ran')!r}, 'w')\n")
    code = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    change("config.json", model_type="mine", auto_map=code)(path)
    with pytest.raises(UsageError, match="is a mine, which is code that comes with the model; such code is never run"):
        backbones.load(str(path))
    change("config.json", model_type="bert", auto_map=code)(path)
    assert backbones.load(str(path)).model.config.model_type == "bert" and not (path / "ran").exists()


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Мир", "мир"]


@pytest.mark.parametrize(
    ("words", "stated", "lowers"),
    [(WORDS, {}, False), (WORDS, {"do_lower_case": True}, True), ([*WORDS[:5], "мир"], {}, True)],
    ids=["cased", "stated", "no capitals"],
)
def test_a_vocabulary_with_capitals_keeps_them_where_nothing_is_stated(words, stated, lowers, folder, capsys):
    path = folder()
    (path / "tokenizer.json").unlink()
    (path / "vocab.txt").write_text("\n".join(words) + "\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **stated}))
    tokenizer = tokenizers.Tokenizer.from_str(backbones.load(str(path)).tokenizer)
    assert tokenizer.encode("Мир").tokens[1] == ("мир" if lowers else "Мир")
    assert ("taken as cased" in capsys.readouterr().err) == (not lowers)


def test_a_tokenizer_that_is_a_sentencepiece_model_alone_is_read(tmp_path, small):
    import sentencepiece

    (tmp_path / "texts").write_text("\n".join(texts(small)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts"), model_prefix=str(tmp_path / "spm"), vocab_size=200, minloglevel=2,
        character_coverage=0.98,
    )  # fmt: skip
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.DebertaV2Model(transformers.DebertaV2Config(vocab_size=300, **sizes)).save_pretrained(
        tmp_path / "model"
    )
    (tmp_path / "spm.model").rename(tmp_path / "model/spm.model")
    tokenizer = tokenizers.Tokenizer.from_str(backbones.load(str(tmp_path / "model")).tokenizer)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "model/spm.model"))
    text = texts(small)[0]
    assert tokenizer.encode(text).tokens[1:-1] == pieces.encode(text, out_type=str)


def test_an_encoder_with_byte_pairs_in_vocab_json_and_merges_txt_is_read(tmp_path, small):
    """As RuRoBERTa is kept: no tokenizer.json, Cyrillic letters in two bytes, a space before a word part of it."""
    corpus = texts(small)
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(corpus, 400, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    made.save_model(str(tmp_path))
    size = made.get_vocab_size()
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 66,
    }
    transformers.RobertaModel(
        transformers.RobertaConfig(vocab_size=size, type_vocab_size=1, pad_token_id=1, **sizes), add_pooling_layer=False
    ).save_pretrained(tmp_path)
    read = backbones.load(str(tmp_path))
    reader = tokenizers.Tokenizer.from_str(read.tokenizer)
    first, second = corpus[0], corpus[1]
    encoded = reader.encode(first, second)
    assert reader.decode(reader.encode(first, add_special_tokens=False).ids) == first
    assert encoded.tokens[0] == "<s>" and encoded.tokens[-1] == "</s>" and encoded.tokens.count("</s>") == 3
    start, middle, end = (
        tuple(map(reader.id_to_token, part)) for part in (read.template.start, read.template.middle, read.template.end)
    )
    assert (start, middle, end) == (("<s>",), ("</s>", "</s>"), ("</s>",)) and not read.causal


def test_a_tokenizer_written_in_python_is_refused_in_words(tmp_path):
    config = transformers.CTRLConfig(vocab_size=20, n_embd=16, n_layer=1, n_head=2, dff=16, n_positions=64)
    transformers.CTRLModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a</w>": 0, "b</w>": 1, "<unk>": 2}')
    (tmp_path / "merges.txt").write_text("#version\n")
    with pytest.raises(UsageError, match="its CTRLTokenizer is written in Python"):
        backbones.load(str(tmp_path))
