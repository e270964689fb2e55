"""Padded batches: made of sequences, and what a head sees of their hidden states."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from morocco_lib.models.transformer.sequences import EncodedSequence


def pad(batch: Sequence[EncodedSequence], padding: int, segments: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the arguments of transformers' forward for sequences, padded to the longest, and their spans for `pool`.

    Args:
        padding: The id to fill up with.
        segments: The model knows token types.
    """
    rows = [torch.tensor(one.ids) for one in batch]
    inputs = {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=padding),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    }
    if segments:
        types = [(torch.arange(len(one.ids)) >= one.second).long() for one in batch]
        for row, one in zip(types, batch, strict=True):
            for place, kind in one.types:
                row[place] = kind
        inputs["token_type_ids"] = pad_sequence(types, batch_first=True)
    spans = torch.tensor([one.spans for one in batch], dtype=torch.long).view(len(batch), -1, 2)
    return inputs, spans


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str, spans: torch.Tensor) -> torch.Tensor:
    """Return the pooled vector of each sequence, then the mean of each span.

    Args:
        hidden: Shape (sequences, length, hidden), padded on the right.
        mask: Shape (sequences, length), 1 where a token is.
        pooling: first | last (the last real token) | mean | max.
        spans: Shape (sequences, spans, 2), places (start, exclusive end); no span may be empty.
    Returns:
        Shape (sequences, (1 + spans) x hidden).
    """
    rows = torch.arange(len(hidden), device=hidden.device)
    if pooling == "first":
        pooled = hidden[:, 0]
    elif pooling == "last":
        pooled = hidden[rows, mask.sum(1) - 1]
    elif pooling == "mean":
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    else:
        pooled = hidden.masked_fill(mask[..., None] == 0, torch.finfo(hidden.dtype).min).amax(1)
    places = torch.arange(hidden.shape[1], device=hidden.device)
    inside = (places >= spans[..., :1]) & (places < spans[..., 1:])  # (sequences, spans, length)
    weights = inside.to(hidden.dtype) / inside.sum(2, keepdim=True)
    return torch.cat([pooled, (weights @ hidden).flatten(1)], dim=1)
