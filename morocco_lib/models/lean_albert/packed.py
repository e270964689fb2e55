"""A lean_albert without padding: the tokens of a batch are the rows of one matrix, as in `transformer.packed`."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from morocco_lib.models.lean_albert.modeling import LeanAlbertLayer, LeanAlbertModel, normed, rotate, rotation_of
from morocco_lib.models.transformer.packed import activation_of, attend
from morocco_lib.models.transformer.packing import Packing
from morocco_lib.models.transformer.sequences import EncodedSequence


class PackedLean:
    """A model's backbone; see `packed.Packed`. Same answers as the model's own forward, to rounding.

    Args:
        model: Its weights are computed with where they are.
        pooling: One of `options.POOLINGS`.
    """

    max_length = 2**31  # positions are rotated: there is no table of them

    def __init__(self, model: LeanAlbertModel, pooling: str):
        self.model, self.pooling, self.hidden = model, pooling, model.config.hidden_size
        weight = model.matrices.qkv_weight
        self.device, self.gather = weight.device, weight.device.type == "cuda"
        self.activation = activation_of("gelu_new", weight.device, weight.dtype)

    @torch.inference_mode()
    def features(self, batch: Sequence[EncodedSequence]) -> torch.Tensor:
        """Return features; see `sequences.Backend`."""
        model, packing = self.model, Packing(batch, False, self.device)
        wanted = packing.wanted(self.pooling)
        x = model.embeddings(packing.ids, packing.types.clamp(max=model.config.type_vocab_size - 1)).float()
        longest, size = max(len(one.ids) for one in batch), self.hidden // model.config.num_attention_heads
        turns = rotation_of(longest, size, model.config.rotary_embedding_base, self.device)
        rotation = tuple(turn[packing.positions][:, None] for turn in turns)
        blocks = packing.blocks(self.gather)
        for layer in model.layers[:-1]:
            x = self._pass(layer, x, rotation, blocks)
        if wanted is not None:
            blocks = packing.blocks(self.gather, wanted)
        x = self._pass(model.layers[-1], x, rotation, blocks, None if wanted is None else packing.rows_of(wanted))
        return packing.pool(normed(x, model.norm).float(), self.pooling, wanted)

    def _pass(self, layer: LeanAlbertLayer, x, rotation, blocks, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """Return what a layer makes of rows, of the wanted ones alone if any are named."""
        shared = self.model.matrices
        rows = functional.linear(normed(x, layer.attention_norm), shared.qkv_weight, layer.qkv_bias)
        queries, keys, values = rows.view(len(x), 3, layer.heads, -1).unbind(1)
        queries, keys = rotate(queries, rotation), rotate(keys, rotation)
        if wanted is not None:
            x, queries = x[wanted], queries[wanted]
        mixed = torch.cat([attend(queries, keys, values, block) for block in blocks])
        x = x + functional.linear(mixed, shared.out_weight, layer.out_bias)
        up = functional.linear(normed(x, layer.ffn_norm), shared.up_weight, layer.up_bias)
        gate, value = up.chunk(2, dim=-1)
        return x.add_(functional.linear(self.activation(gate).mul_(value), shared.down_weight, layer.down_bias))
