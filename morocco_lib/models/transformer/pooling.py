"""What a head sees of padded hidden states."""

import torch


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
    elif pooling == "max":
        pooled = hidden.masked_fill(mask[..., None] == 0, torch.finfo(hidden.dtype).min).amax(1)
    else:
        raise ValueError(f"no pooling {pooling!r}")
    places = torch.arange(hidden.shape[1], device=hidden.device)
    inside = (places >= spans[..., :1]) & (places < spans[..., 1:])  # (sequences, spans, length)
    weights = inside.to(hidden.dtype) / inside.sum(2, keepdim=True)
    return torch.cat([pooled, (weights @ hidden).flatten(1)], dim=1)
