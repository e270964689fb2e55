"""Any model that transformers loads, fed with padded batches: for architectures that `packed` does not know.

Some of them mix tokens along the sequence whatever the attention mask says (FNet, convolutions, approximations of attention): what
padding would change is computed in batches of equal length.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from morocco_lib.models import lean_albert
from morocco_lib.models.transformer.packing import groups
from morocco_lib.models.transformer.pooling import pad, pool
from morocco_lib.models.transformer.sequences import EncodedSequence, check_lengths

KEYS_AND_VALUES = ("DynamicLayer", "DynamicSlidingWindowLayer")  # transformers' caches of attention alone
FLOAT = "__float__"
PROBES = 6, 40  # tokens of a short and a long sequence
ROUNDING, HALF_ROUNDING = 1e-4, 0.05  # of the spread of states: what it may change, in fp32 and in bf16 or fp16
MIN_SHARED_TOKENS = 1024  # tokens saved by sharing; fewer save less than the additional passes cost


def backbone_of(config: Mapping[str, Any], backbone: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Return transformers' model of a configuration with these weights, ready to answer, on the CPU.

    Raises:
        ValueError: an architecture that the installed transformers does not know, or weights that do not fit it, by
            their names.
    """
    from transformers import AutoConfig, AutoModel

    lean_albert.register()
    values = _floats(dict(config))
    kind = values.pop("model_type")
    model = AutoModel.from_config(AutoConfig.for_model(kind, **values))  # SDPA where the architecture has it
    try:
        missing, unknown = model.load_state_dict(dict(backbone), strict=False)
    except RuntimeError as error:  # torch lists the shapes
        raise ValueError(f"the weights do not fit a {kind}: {error}") from None
    missing = [name for name in missing if not name.startswith("pooler.")]
    if missing or unknown:
        faults = [f"lacks {name}" for name in missing] + [f"does not know {name}" for name in unknown]
        raise ValueError(f"the weights do not fit a {kind}: it {', '.join(faults[:3])}")
    return model.eval()


def _floats(value: Any) -> Any:
    """Return a value of a configuration with infinity and the like as transformers writes them in JSON read back."""
    if isinstance(value, dict):
        return float(value[FLOAT]) if set(value) == {FLOAT} else {name: _floats(one) for name, one in value.items()}
    return [_floats(one) for one in value] if isinstance(value, list) else value


class Padded:
    """A model's backbone as transformers computes it, each batch padded to its longest sequence.

    Args:
        model: A transformers backbone whose first output are the last hidden states, shape (sequences, tokens, hidden).
        pooling: One of `options.POOLINGS`; mean and max are over all tokens of a sequence.
        share: Compute once with the leading tokens that sequences of a batch share: of decoders that keep keys and values.
    """

    share = False

    def __init__(self, model: torch.nn.Module, pooling: str, share: bool = False):
        self.model, self.pooling = model.eval(), pooling
        self.device = next(model.parameters()).device
        config, taken = model.config, inspect.signature(model.forward).parameters
        self.hidden = config.hidden_size
        self.padding = getattr(config, "pad_token_id", None) or 0
        # GPT-2 takes token types as well, but as words: only a table of their own makes them segments.
        self.segments = "token_type_ids" in taken and (getattr(config, "type_vocab_size", None) or 0) > 1
        self.options = {"use_cache": False} if "use_cache" in taken else {}
        self.share = share and {"use_cache", "past_key_values"} <= taken.keys()
        self.max_length = positions_of(self.model)
        self.vocabulary = getattr(config, "vocab_size", 0) or 2
        whole = next(model.parameters()).dtype == torch.float32
        self.padded = self.ignores_padding(PROBES, ROUNDING if whole else HALF_ROUNDING)

    @torch.inference_mode()
    def ignores_padding(self, probes: tuple[int, int], rounding: float) -> bool:
        """Tell whether a short sequence has the same states beside a long one as alone.

        Args:
            probes: Tokens of the short and of the long sequence.
            rounding: What may differ, as a share of the states' standard deviation.
        """
        ids = [[(self.padding + 1 + k) % self.vocabulary for k in range(min(n, self.max_length))] for n in probes]
        short, long = (EncodedSequence(some, len(some)) for some in ids)
        alone, beside = (
            self.states(self._inputs(batch)[0])[0, : len(short.ids)].clone() for batch in ([short], [short, long])
        )
        return bool((alone - beside).abs().max() <= rounding * alone.std())

    @torch.inference_mode()
    def features(self, batch: Sequence[EncodedSequence]) -> torch.Tensor:
        """Return features; see `sequences.Backend`."""
        check_lengths(batch, self.max_length)
        found: dict[int, torch.Tensor] = {}
        for size, group in groups(batch) if self.share else ():
            if (
                size * (len(group) - 1) >= MIN_SHARED_TOKENS
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
        inputs, spans = self._inputs(batch)
        return pool(self.states(inputs), inputs["attention_mask"], self.pooling, spans)

    def _after(self, size: int, batch: Sequence[EncodedSequence]) -> torch.Tensor | None:
        """Return features of sequences whose first `size` tokens are the same; None if the backbone keeps other things."""
        inputs, spans = self._inputs(batch)
        ids, real = inputs["input_ids"], inputs["attention_mask"]
        before = self.model(input_ids=ids[:1, :size], attention_mask=real[:1, :size], use_cache=True)
        kept = before.past_key_values
        if any(type(layer).__name__ not in KEYS_AND_VALUES for layer in getattr(kept, "layers", [None])):
            self.share = False
            return None
        kept.batch_repeat_interleave(len(batch))
        after = self.model(input_ids=ids[:, size:], attention_mask=real, past_key_values=kept, use_cache=True)
        states = torch.cat([before[0].expand(len(batch), -1, -1), after[0]], dim=1).float()
        return pool(states, real, self.pooling, spans)

    def _inputs(self, batch: Sequence[EncodedSequence]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        inputs, spans = pad(batch, self.padding, self.segments)
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}, spans.to(self.device)

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
