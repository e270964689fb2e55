"""Any model that transformers loads, fed with padded batches: for architectures that `packed` does not know."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from morocco_lib.models.pooling import pool
from morocco_lib.models.tokens import POOLINGS, Tokens


def body_of(config: Mapping[str, Any], body: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Return transformers' model of a configuration with these weights, ready to answer, on the CPU.

    Raises:
        ValueError: an architecture that the installed transformers does not know, or weights that do not fit it, by
            their names.
    """
    from transformers import AutoModel

    kind = config["model_type"]
    model = AutoModel.from_config(_as_transformers_has_it(config), attn_implementation="sdpa")
    try:
        missing, unknown = model.load_state_dict(dict(body), strict=False)
    except RuntimeError as error:  # torch lists the shapes
        raise ValueError(f"the weights do not fit a {kind}: {error}") from None
    missing = [name for name in missing if not name.startswith("pooler.")]
    if missing or unknown:
        faults = [f"lacks {name}" for name in missing] + [f"does not know {name}" for name in unknown]
        raise ValueError(f"the weights do not fit a {kind}: it {', '.join(faults[:3])}")
    return model.eval()


def hidden_size(config: Mapping[str, Any]) -> int:
    """Return the width of a body's last hidden states, whatever its architecture calls it."""
    return config.get("hidden_size") or config.get("n_embd") or _as_transformers_has_it(config).hidden_size


def _as_transformers_has_it(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    values = dict(config)
    return AutoConfig.for_model(values.pop("model_type"), **values)


class Padded:
    """A model's body as transformers computes it, each batch padded to its longest sequence.

    Args:
        model: A transformers body whose first output are the last hidden states, shape (sequences, tokens, hidden).
        pooling: One of `POOLINGS`; mean and max are over all tokens of a sequence.
    """

    def __init__(self, model: torch.nn.Module, pooling: str):
        if pooling not in POOLINGS:
            raise ValueError(f"no pooling {pooling!r}; there are {', '.join(POOLINGS)}")
        self.model, self.pooling = model.eval(), pooling
        self.device = next(model.parameters()).device
        config, taken = model.config, inspect.signature(model.forward).parameters
        self.padding = getattr(config, "pad_token_id", None) or 0
        # GPT-2 takes token types as well, but as words: only a table of their own makes them segments.
        self.segments = "token_type_ids" in taken and (getattr(config, "type_vocab_size", None) or 0) > 1
        self.options = {"use_cache": False} if "use_cache" in taken else {}
        self.max_length = positions_of(config)

    @torch.inference_mode()
    def features(self, batch: Sequence[Tokens]) -> torch.Tensor:
        """Return features; see `tokens.Engine`."""
        lengths = [len(one.ids) for one in batch]
        longest = max(lengths)
        if longest > self.max_length:
            raise ValueError(f"a sequence has {longest} tokens; this model reads {self.max_length} at most")
        device = self.device
        ids = torch.tensor([one.ids + [self.padding] * (longest - len(one.ids)) for one in batch], device=device)
        places = torch.arange(longest, device=device)
        real = (places < torch.tensor(lengths, device=device)[:, None]).long()
        inputs = {"input_ids": ids, "attention_mask": real}
        if self.segments:
            second = torch.tensor([one.second for one in batch], device=device)[:, None]
            inputs["token_type_ids"] = (places >= second).long() * real
        states = self.states(inputs)
        spans = torch.tensor([one.spans for one in batch], dtype=torch.long, device=device).view(len(batch), -1, 2)
        return pool(states, real, self.pooling, spans)

    def states(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the last hidden states as float32, shape (sequences, tokens, hidden), of a padded batch's arguments."""
        return self.model(**inputs, **self.options)[0].float()


def positions_of(config: Any) -> int:
    """Return how many tokens a transformers model reads, 2**31 where its configuration names no limit."""
    size = getattr(config, "max_position_embeddings", None)
    if not isinstance(size, int) or size < 1:
        return 2**31
    # RoBERTa and its kin count positions from behind that of the padding.
    shifted = config.model_type in {
        "roberta",
        "xlm-roberta",
        "camembert",
        "xlm-roberta-xl",
        "roberta-prelayernorm",
        "xmod",
    }
    return size - (config.pad_token_id or 0) - 1 if shifted else size
