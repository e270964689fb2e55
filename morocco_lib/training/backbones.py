"""Where a transformer's backbone and tokenizer come from: a hub id, a folder, or random weights and a tokenizer made here."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.models import lean_albert
from morocco_lib.models.lean_albert import checkpoint
from morocco_lib.models.transformer.inputs import Template
from morocco_lib.models.transformer.model import is_causal
from morocco_lib.tasks.base import Task
from morocco_lib.tasks.jsonl import Record
from morocco_lib.training.pretraining.sparsity import Masks

DECODER_TOKENS = ("<start>", "<delim>", "<extract>")  # around and between the texts of a decoder, as in the original
WORDPIECE = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
END_OF_TEXT = "<|endoftext|>"
TOKENIZERS = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model"
)  # fmt: skip
POOLED = {
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "albert",
    "lean_albert",
    "mpnet",
}  # their pooler is left out: heads replace it
FULL = "original_full"  # attention of a BigBird, which otherwise depends on the length of its batch
lean_albert.register()


@dataclass
class Backbone:
    """A backbone to train.

    Attributes:
        tokenizer: The text of `tokenizer.json`.
        source: Where it comes from, for messages.
        masks: Which of its weights are on, of a sparse one; what is off stays zero.
    """

    model: PreTrainedModel
    tokenizer: str
    template: Template
    source: str
    masks: Masks | None = None

    @property
    def causal(self) -> bool:
        return is_causal(self.model.config.to_dict())


def load(source: str, dropout: float | None = None, revision: str | None = None, pooler: bool = False) -> Backbone:
    """Return a backbone from a local folder or the hub.

    Args:
        source: A folder as transformers saves it or a RuLeanALBERT is published, or a hub id.
        dropout: Replaces every dropout rate of its configuration.
        revision: Of the hub's repository.
        pooler: With its pooler, where it has one.
    Raises:
        UsageError: it holds no model, no tokenizer, weights that do not fit its configuration, or needs code of its own,
            which is never run.
        EnvironmentFailure: the hub does not give it.
    """
    local = Path(source).is_dir()
    published = local and checkpoint.state_file(Path(source)) is not None
    place = Path(source, checkpoint.TOKENIZER if published else "")
    if local and not any((place / name).is_file() for name in TOKENIZERS):
        raise UsageError(
            f"no tokenizer in {place}",
            rule=f"looked for {', '.join(TOKENIZERS)}",
            remedy="save the tokenizer the model was trained with beside it",
        )
    if not local and (source.startswith(("/", ".", "~")) or source.count("/") > 1):
        raise UsageError(f"no folder {source}", remedy="give a folder that holds config.json, or a hub id")
    options = {"revision": revision, "trust_remote_code": False}
    try:
        values, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
        if not (kind := values.get("model_type")):
            raise UsageError(
                f"{source} has no config.json with a model_type", rule="it names the architecture",
                remedy='add it, as "model_type": "bert"',
            )  # fmt: skip
        if "auto_map" in values and kind not in CONFIG_MAPPING:
            raise UsageError(
                f"{source} is a {kind}, which is code that comes with the model", rule="such code is never run",
                remedy="take a model of a kind that transformers itself knows",
            )  # fmt: skip
        config = AutoConfig.from_pretrained(source, **options)
        if config.model_type == "big_bird":
            config.attention_type = FULL
        _set_dropout(config, dropout)
        made = {"add_pooling_layer": pooler} if config.model_type in POOLED else {}
        if published:
            tokenizer = checkpoint.tokenizer_of(Path(source))
            model, found = checkpoint.load(Path(source), config, len(tokenizer), **made), {"missing_keys": ()}
        else:
            tokenizer = _tokenizer(source, options)
            made |= {"dtype": torch.float32, "output_loading_info": True}
            with silent():
                model, found = AutoModel.from_pretrained(source, config=config, **options, **made)
    except UsageError:
        raise
    except Exception as error:  # whatever a folder or a repository may hold
        if type(error).__name__ == "UnpicklingError":  # nothing here imports pickle
            raise UsageError(
                f"the weights of {source} are pickled objects or damaged", rule="only tensors are read: what else a .bin holds may run code",
                remedy="take a repository or revision with safetensors",
            ) from None  # fmt: skip
        reason = " ".join(str(error).split())[:300]
        if local or not isinstance(error, OSError):
            raise UsageError(
                f"{source} cannot be loaded: {reason}", rule="a model is one that transformers reads"
            ) from None
        raise EnvironmentFailure(
            f"the hub did not give {source}: {reason}", remedy="correct what the message names, or give a local folder"
        ) from None
    if missing := sorted(name for name in found["missing_keys"] if "pooler" not in name):
        raise UsageError(
            f"{source} lacks {len(missing)} of the weights that its configuration asks for ({missing[0]})",
            rule="a backbone without its weights would be trained from random ones",
            remedy="give a complete folder, or a `scratch` model",
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError(
            f"{source}: its {type(tokenizer).__name__} is written in Python",
            rule="the tokenizer is one that the library tokenizers reads",
            remedy="convert it to a tokenizer.json",
        )
    made = _prepared(model, backend, source)
    made.masks = Masks.load(Path(source)) if local else None
    return made


def _tokenizer(source: str, options: dict[str, Any]):
    """Return the tokenizer; one whose casing is not stated keeps capitals if its vocabulary has them."""
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    lowers = getattr(tokenizer, "do_lower_case", False) or tokenizer.init_kwargs.get("do_lower_case", False)
    stated = (Path(source) / "tokenizer.json").is_file() or "do_lower_case" in get_tokenizer_config(source, **options)
    pieces = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    if lowers and not stated and any(piece != piece.lower() for piece in pieces):
        print(f"{source}: its vocabulary has capitals and nothing states its casing; taken as cased", file=sys.stderr)
        tokenizer = AutoTokenizer.from_pretrained(source, do_lower_case=False, **options)
    return tokenizer


def from_scratch(config: dict[str, Any], texts: Sequence[str], seed: int, dropout: float | None = None) -> Backbone:
    """Return a backbone with random weights and a tokenizer trained on texts.

    Args:
        config: `model_type` and what its configuration is to differ in; `vocab_size` bounds the tokenizer.
    Raises:
        UsageError: transformers knows no such model or setting.
    """
    values = dict(config)
    if values.get("model_type") == "big_bird":
        values["attention_type"] = FULL
    causal = is_causal({"model_type": "", **values})
    size = values.get("vocab_size", 8000)
    if type(size) is not int or size < 1:
        raise UsageError(f"vocab_size is {size!r}", rule="it bounds the tokenizer: a number above 0")
    tokenizer = (byte_pairs if causal else word_pieces)(texts, size)
    values["vocab_size"] = tokenizer.get_vocab_size()
    values["pad_token_id"] = tokenizer.token_to_id(END_OF_TEXT if causal else WORDPIECE["pad"])
    if causal:
        values["bos_token_id"] = values["eos_token_id"] = values["pad_token_id"]
    else:
        values["bos_token_id"] = values["cls_token_id"] = tokenizer.token_to_id(WORDPIECE["cls"])
        values["eos_token_id"] = values["sep_token_id"] = tokenizer.token_to_id(WORDPIECE["sep"])
    transformers.set_seed(seed)
    try:
        made = AutoConfig.for_model(**values)
        _set_dropout(made, dropout)
        options = {"add_pooling_layer": False} if made.model_type in POOLED else {}
        model = AutoModel.from_config(made, **options)
    except Exception as error:  # whatever a configuration may ask for
        raise UsageError(
            f"no model can be made of {json.dumps(config)}: {' '.join(str(error).split())[:300]}"
        ) from None
    return _prepared(model, tokenizer, f"random weights, {values['model_type']}")


def save_folder(backbone: Backbone, folder: Path) -> None:
    """Write a backbone as `load` reads it back."""
    backbone.model.save_pretrained(folder)
    tokenizer = tokenizers.Tokenizer.from_str(backbone.tokenizer)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def texts_of(records: Iterable[Record], task: Task) -> list[str]:
    """Return every text a transformer reads of the records, each once."""
    parts = (part for record in records for part in task.parts(record))
    return list(dict.fromkeys(text for part in parts for text in (part.first, part.second) if text))


# -- tokenizers ----------------------------------------------------------------------------------------------------
def word_pieces(texts: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Return a BERT-like tokenizer: cased, word pieces, [CLS] a [SEP] b [SEP]; equal texts give equal ones.

    The pieces are those of a byte-pair encoding of the words: the library's trainer of word pieces breaks ties by chance.
    """
    pairs = tokenizers.Tokenizer(models.BPE())
    pairs.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    pairs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    characters = sorted({c for text in texts for c in pairs.normalizer.normalize_str(text) if not c.isspace()})
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=characters, show_progress=False)
    pairs.train_from_iterator(texts, trainer)
    counts: Counter[str] = Counter()
    for encoded in pairs.encode_batch(list(texts)):
        before = None
        for piece, word in zip(encoded.tokens, encoded.word_ids, strict=True):
            counts[piece if word != before else f"##{piece}"] += 1
            before = word
    special = [WORDPIECE[name] for name in ("pad", "unk", "cls", "sep", "mask")]
    fixed = dict.fromkeys([*special, *characters, *(f"##{c}" for c in characters)])
    rest = sorted(set(counts) - set(fixed), key=lambda piece: (-counts[piece], piece))
    pieces = [*fixed, *rest[: max(vocab_size - len(fixed), 0)]]
    made = tokenizers.Tokenizer(models.WordPiece({p: k for k, p in enumerate(pieces)}, unk_token=WORDPIECE["unk"]))
    made.normalizer, made.pre_tokenizer, made.decoder = pairs.normalizer, pairs.pre_tokenizer, decoders.WordPiece()
    made.add_special_tokens(special)
    ends = [(WORDPIECE[name], made.token_to_id(WORDPIECE[name])) for name in ("cls", "sep")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return made


def byte_pairs(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Return a GPT-2-like tokenizer: byte pairs, nothing around the text."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return made


# -- details -------------------------------------------------------------------------------------------------------
def _prepared(model: PreTrainedModel, tokenizer: tokenizers.Tokenizer, source: str) -> Backbone:
    if model.config.is_encoder_decoder or not getattr(model.config, "hidden_size", None):
        other = "an encoder with a decoder" if model.config.is_encoder_decoder else "of more than text"
        raise UsageError(
            f"{source} is a {model.config.model_type}, {other}", rule="a model is an encoder or a decoder of text"
        )
    size, highest = _embeddings_of(model, source), max(tokenizer.get_vocab().values())
    causal = is_causal(model.config.to_dict())
    if highest >= size + (len(DECODER_TOKENS) if causal else 0):
        raise UsageError(
            f"{source}: the tokenizer has ids to {highest}, the model has {size} embeddings",
            rule="tokenizer and weights belong together",
        )
    if causal:
        tokenizer.add_special_tokens(list(DECODER_TOKENS))
        start, middle, end = ((tokenizer.token_to_id(token),) for token in DECODER_TOKENS)
        template = Template(start, middle, end)
        if tokenizer.get_vocab_size() > size:
            model.resize_token_embeddings(tokenizer.get_vocab_size(), mean_resizing=False)
    else:
        template = template_of(tokenizer, source)
    return Backbone(model, tokenizer.to_str(), template, source)


def _embeddings_of(model: PreTrainedModel, source: str) -> int:
    """Return how many embeddings a backbone has, after it has computed with some tokens.

    Raises:
        UsageError: it does not compute with token ids alone.
    """
    if getattr(model.config, "num_hidden_layers", 1) < 1:
        raise UsageError(f"{source} has {model.config.num_hidden_layers} layers", rule="a backbone has one at least")
    ones = torch.ones(1, 4, dtype=torch.long)
    try:
        with torch.inference_mode():
            model.eval()(input_ids=ones, attention_mask=ones)
        return int(model.get_input_embeddings().num_embeddings)
    except Exception as error:  # whatever stands in its way
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(
            f"{source}: a {model.config.model_type} of this configuration does not compute with a text ({reason})",
            rule="a model is an encoder or a decoder of text",
        ) from None


def template_of(tokenizer: tokenizers.Tokenizer, source: str) -> Template:
    """Return what an encoder's tokenizer puts around and between two texts; raises UsageError."""
    tokenizer.no_truncation(), tokenizer.no_padding()  # some come with both, and padding is no part of a template
    encoded = tokenizer.encode("a", "b")
    texts = encoded.sequence_ids
    if 0 not in texts or 1 not in texts:
        raise UsageError(f"{source}: the tokenizer does not take two texts", rule="an encoder reads pairs of texts")
    ends = texts.index(0), len(texts) - texts[::-1].index(0), texts.index(1), len(texts) - texts[::-1].index(1)
    ids = encoded.ids
    try:
        return Template(tuple(ids[: ends[0]]), tuple(ids[ends[1] : ends[2]]), tuple(ids[ends[3] :]))
    except ValueError as error:
        raise UsageError(
            f"{source}: {error}", rule="an encoder's tokenizer puts its special tokens around a text",
            remedy="give its tokenizer.json the post_processor it was trained with",
        ) from None  # fmt: skip


def _set_dropout(config: Any, rate: float | None) -> None:
    if rate is None:
        return
    for name, value in list(vars(config).items()):
        is_rate = name.endswith(("dropout", "dropout_prob")) or name in ("attn_pdrop", "embd_pdrop", "resid_pdrop")
        if is_rate and type(value) in (int, float):
            setattr(config, name, rate)


@contextmanager
def silent() -> Iterator[None]:
    """Keep transformers from printing while weights are loaded; what is missing raises an error here."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
