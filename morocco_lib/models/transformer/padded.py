"""Any model that transformers loads, fed with padded batches: for architectures that `packed` does not know.

Some of them mix tokens along the sequence whatever the attention mask says (FNet, convolutions, approximations of attention): what
padding would change is computed in batches of equal length.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from morocco_lib.models.transformer.packing import groups
from morocco_lib.models.transformer.pooling import pool
from morocco_lib.models.transformer.sequences import EncodedSequence
from morocco_lib.options import POOLINGS

KEYS_AND_VALUES = ("DynamicLayer", "DynamicSlidingWindowLayer")  # transformers' caches of attention alone
FLOAT = "__float__"
PROBES = 6, 40  # tokens of a short and a long sequence
ROUNDING, HALF_ROUNDING = 1e-4, 0.05  # of the spread of states: what it may change, in fp32 and in bf16 or fp16
WORTH_IT = 1024  # tokens that need not be computed anew: fewer save less than passes of their own cost


def backbone_of(config: Mapping[str, Any], backbone: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Return transformers' model of a configuration with these weights, ready to answer, on the CPU.

    Raises:
        ValueError: an architecture that the installed transformers does not know, or weights that do not fit it, by
            their names.
    """
    from transformers import AutoModel

    kind = config["model_type"]
    model = AutoModel.from_config(_as_transformers_has_it(config))  # SDPA where the architecture has it
    try:
        missing, unknown = model.load_state_dict(dict(backbone), strict=False)
    except RuntimeError as error:  # torch lists the shapes
        raise ValueError(f"the weights do not fit a {kind}: {error}") from None
    missing = [name for name in missing if not name.startswith("pooler.")]
    if missing or unknown:
        faults = [f"lacks {name}" for name in missing] + [f"does not know {name}" for name in unknown]
        raise ValueError(f"the weights do not fit a {kind}: it {', '.join(faults[:3])}")
    return model.eval()


def hidden_size(config: Mapping[str, Any]) -> int:
    """Return the width of a backbone's last hidden states, whatever its architecture calls it."""
    return config.get("hidden_size") or config.get("n_embd") or _as_transformers_has_it(config).hidden_size


def _as_transformers_has_it(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    values = _floats(dict(config))
    return AutoConfig.for_model(values.pop("model_type"), **values)


def _floats(value: Any) -> Any:
    """Return a value of a configuration with infinity and the like as transformers writes them in JSON read back."""
    if isinstance(value, dict):
        return float(value[FLOAT]) if set(value) == {FLOAT} else {name: _floats(one) for name, one in value.items()}
    return [_floats(one) for one in value] if isinstance(value, list) else value


class Padded:
    """A model's backbone as transformers computes it, each batch padded to its longest sequence.

    Args:
        model: A transformers backbone whose first output are the last hidden states, shape (sequences, tokens, hidden).
        pooling: One of `POOLINGS`; mean and max are over all tokens of a sequence.
        share: Compute once with what sequences of a batch begin with alike: of decoders that keep keys and values.
    """

    share = False

    def __init__(self, model: torch.nn.Module, pooling: str, share: bool = False):
        if pooling not in POOLINGS:
            raise ValueError(f"no pooling {pooling!r}; there are {', '.join(POOLINGS)}")
        self.model, self.pooling = model.eval(), pooling
        self.device = next(model.parameters()).device
        config, taken = model.config, inspect.signature(model.forward).parameters
        self.padding = getattr(config, "pad_token_id", None) or 0
        # GPT-2 takes token types as well, but as words: only a table of their own makes them segments.
        self.segments = "token_type_ids" in taken and (getattr(config, "type_vocab_size", None) or 0) > 1
        self.options = {"use_cache": False} if "use_cache" in taken else {}
        self.share = share and {"use_cache", "past_key_values"} <= taken.keys()
        self.max_length = positions_of(self.model)
        self.vocabulary = getattr(config, "vocab_size", 0) or 2
        whole = next(model.parameters()).dtype == torch.float32
        self.padded = self.keeps_padding_apart(PROBES, ROUNDING if whole else HALF_ROUNDING)

    @torch.inference_mode()
    def keeps_padding_apart(self, probes: tuple[int, int], rounding: float) -> bool:
        """Tell whether a short sequence has the same states beside a long one as alone.

        Args:
            probes: Tokens of the short and of the long sequence.
            rounding: What may differ, as a share of the states' standard deviation.
        """
        short, long = (
            [(self.padding + 1 + k) % self.vocabulary for k in range(min(n, self.max_length))] for n in probes
        )
        alone, beside = (
            self._states_of([EncodedSequence(ids, len(ids)) for ids in batch])[0, : len(short)].clone()
            for batch in ([short], [short, long])
        )
        return bool((alone - beside).abs().max() <= rounding * alone.std())

    @torch.inference_mode()
    def features(self, batch: Sequence[EncodedSequence]) -> torch.Tensor:
        """Return features; see `sequences.Backend`."""
        longest = max(len(one.ids) for one in batch)
        if longest > self.max_length:
            raise ValueError(f"a sequence has {longest} tokens; this model reads {self.max_length} at most")
        found: dict[int, torch.Tensor] = {}
        for size, group in groups(batch) if self.share else ():
            if (
                size * (len(group) - 1) >= WORTH_IT
                and (features := self._after(size, [batch[place] for place in group])) is not None
            ):
                found.update(zip(group, features, strict=True))
        rest: dict[int, list[int]] = {}
        for place in range(len(batch)):
            if place not in found:
                rest.setdefault(0 if self.padded else len(batch[place].ids), []).append(place)
        for places in rest.values():
            found.update(zip(places, self._whole([batch[place] for place in places]), strict=True))
        return torch.stack([found[place] for place in range(len(batch))])

    def _whole(self, batch: Sequence[EncodedSequence]) -> torch.Tensor:
        _, real = self._filled([one.ids for one in batch])
        return pool(self._states_of(batch), real, self.pooling, self._spans(batch))

    def _states_of(self, batch: Sequence[EncodedSequence]) -> torch.Tensor:
        ids, real = self._filled([one.ids for one in batch])
        inputs = {"input_ids": ids, "attention_mask": real}
        if self.segments:
            second = torch.tensor([one.second for one in batch], device=self.device)[:, None]
            inputs["token_type_ids"] = (torch.arange(ids.shape[1], device=self.device) >= second).long() * real
        return self.states(inputs)

    def _after(self, size: int, batch: Sequence[EncodedSequence]) -> torch.Tensor | None:
        """Return features of sequences whose first `size` tokens are the same; None if the backbone keeps other things."""
        ids, real = self._filled([one.ids for one in batch])
        before = self.model(input_ids=ids[:1, :size], attention_mask=real[:1, :size], use_cache=True)
        kept = before.past_key_values
        if any(type(layer).__name__ not in KEYS_AND_VALUES for layer in getattr(kept, "layers", [None])):
            self.share = False
            return None
        kept.batch_repeat_interleave(len(batch))
        after = self.model(input_ids=ids[:, size:], attention_mask=real, past_key_values=kept, use_cache=True)
        states = torch.cat([before[0].expand(len(batch), -1, -1), after[0]], dim=1).float()
        return pool(states, real, self.pooling, self._spans(batch))

    def _filled(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids filled up to the longest row, and 1 where a token is real."""
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self.padding] * (longest - len(row)) for row in rows], device=self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        return ids, (torch.arange(longest, device=self.device) < lengths[:, None]).long()

    def _spans(self, batch: Sequence[EncodedSequence]) -> torch.Tensor:
        return torch.tensor([one.spans for one in batch], dtype=torch.long, device=self.device).view(len(batch), -1, 2)

    def states(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the last hidden states as float32, shape (sequences, tokens, hidden), of a padded batch's arguments."""
        return self.model(**inputs, **self.options)[0].float()


def positions_of(model: torch.nn.Module) -> int:
    """Return how many tokens a transformers model reads, 2**31 where its configuration names no limit."""
    size = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(size, int) or size < 1:
        return 2**31
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            return table.num_embeddings - table.padding_idx - 1  # RoBERTa and its kin count from behind the padding's
    return size
