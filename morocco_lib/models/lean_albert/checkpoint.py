"""A RuLeanALBERT as its authors publish it: a folder with state.pth, config.json and tokenizer/, whose weights have other names."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from morocco_lib import foreign
from morocco_lib.errors import UsageError
from morocco_lib.models.lean_albert.configuration import LeanAlbertConfig
from morocco_lib.models.lean_albert.modeling import LeanAlbertModel, LeanAlbertPreTrainedModel

STATES = (
    "state.pth",
    "model_state.pt",
    "state.zip",
)  # published; of an auxiliary peer; of a trainer, which is no archive
TOKENIZER = "tokenizer"
NAMES = (  # theirs, ours
    (r"^albert\.transformer\.layer_groups\.\d+\.layers\.0\.(.*)shared_matrix\.weight$", r"albert.matrices.\1weight"),
    (r"^albert\.transformer\.layer_groups\.(\d+)\.layers\.0\.", r"albert.layers.\1."),
    (r"\.(attention|ffn)\.layer_norm\.", r".\1_norm."),
    (r"\.attention\.dense_(qkv|out)\.", r".\1_"),
    (r"\.ffn\.dense_i2h\.", ".up_"),
    (r"\.ffn\.dense_h2o\.", ".down_"),
    (r"^albert\.transformer\.post_layer_norm\.", "albert.norm."),
    (r"^albert\.pooler\.", "albert.pooler.dense."),
    (r"^predictions\.bias$", "predictions.decoder.bias"),
    (r"^predictions\.decoder\.weight$", "albert.embeddings.word_embeddings.weight"),
)


def state_file(folder: Path) -> Path | None:
    """Return the file of weights of a folder in that form, None of other folders."""
    files = (folder / name for name in STATES if (folder / TOKENIZER).is_dir())
    return next((path for path in files if path.is_file()), None)


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer as its tokenizer.json says, with the special tokens that stand beside it."""
    return PreTrainedTokenizerFast.from_pretrained(folder / TOKENIZER)


def load(
    folder: Path,
    config: LeanAlbertConfig,
    tokens: int,
    kind: type[LeanAlbertPreTrainedModel] = LeanAlbertModel,
    **options: Any,
) -> LeanAlbertPreTrainedModel:
    """Return a model with the weights of a folder.

    Args:
        config: Of config.json.
        tokens: Of the tokenizer: the size of the vocabulary, whatever the configuration says.
        kind: What is made of it; the weights of heads that this does not have are left out.
        options: Further arguments of it.
    Raises:
        UsageError: it holds other things than tensors, or they do not fit the configuration or the tokenizer.
    """
    config.vocab_size = tokens
    with torch.device("meta"):
        model = kind(config, **options)
    path = state_file(folder)
    found, prefix = weights_of(path), "albert." if isinstance(model, LeanAlbertModel) else ""
    wanted = {prefix + name: tuple(one.shape) for name, one in model.named_parameters()}  # tied ones once
    spare = [name for name in found if name.startswith("albert.") and "pooler" not in name and name not in wanted]
    faults = [f"lacks {name}" for name in wanted if name not in found] + [f"has {name} besides" for name in spare]
    faults += [
        f"has {name} of shape {tuple(found[name].shape)} where {shape} is asked for"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    if faults:
        raise UsageError(
            f"{path} {'; '.join(faults[:3])}", rule=f"it fits config.json and the {tokens} tokens of {TOKENIZER}/",
            remedy="take all three of one model",
        )  # fmt: skip
    model.load_state_dict({name.removeprefix(prefix): found[name] for name in wanted}, strict=False, assign=True)
    model.tie_weights()
    return model


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """Return a file's weights by our names, in float32, each once.

    Raises:
        UsageError: it holds other things than tensors, or different ones where all layers share one.
    """
    foreign.check(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what the file makes it raise
        raise UsageError(
            f"{path} is damaged, or holds more than tensors ({' '.join(str(error).split())[:100]})",
            rule="only tensors are read: what else a pickle holds may run code",
            remedy='if you trust it, save its "model" alone',
        ) from None
    weights = state.get("model", state) if isinstance(state, dict) else state  # bare, in backups
    if not isinstance(weights, dict) or not all(isinstance(one, torch.Tensor) for one in weights.values()):
        raise UsageError(f"{path} holds no weights by name", rule='they are under "model", or alone')
    found: dict[str, torch.Tensor] = {}
    for theirs, tensor in weights.items():
        name = theirs
        for pattern, ours in NAMES:
            name = re.sub(pattern, ours, name)
        first = found.setdefault(name, tensor)
        if tensor.data_ptr() != first.data_ptr() and not torch.equal(tensor, first):
            raise UsageError(
                f"{path} has another {theirs} than the one that it shares", rule="one weight stands for all of them",
                remedy="take a checkpoint of the published architecture",
            )  # fmt: skip
    return {name: tensor.float() for name, tensor in found.items()}
