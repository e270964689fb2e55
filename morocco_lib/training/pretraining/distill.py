"""The loss of learning from a teacher's probabilities (Hinton et al., 2015)."""

import torch
from torch.nn import functional


def between(first: float, last: float, step: int, steps: int) -> float:
    """Return a value that moves in a straight line from first to last over all updates."""
    return first + (last - first) * min(step / max(steps - 1, 1), 1.0)


def loss(
    logits: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, factor: float, temperature: float
) -> torch.Tensor:
    """Return the summed cross-entropy of a student over the tokens to be told.

    Args:
        logits, teacher: Shape (tokens, vocabulary).
        labels: Shape (tokens,).
        factor: Weight of the teacher's probabilities; the rest is that of the true labels.
        temperature: The teacher's logits are divided by it, the student's are not.
    """
    logs = functional.log_softmax(logits.float(), dim=1)
    wanted = functional.softmax(teacher.float() if temperature == 1 else teacher.float() / temperature, dim=1)
    taught = -torch.dot(wanted.flatten(), logs.flatten()) if factor > 0 else 0.0  # without a matrix of products
    told = functional.nll_loss(logs, labels, reduction="sum") if factor < 1 else 0.0
    return factor * taught + (1 - factor) * told
