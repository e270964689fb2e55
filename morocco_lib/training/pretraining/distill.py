"""The loss of learning from a teacher's probabilities (Hinton et al., 2015)."""

import torch
from torch.nn import functional

CACHED = 1 << 19  # numbers of a matrix that stays in a CPU's cache


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
    return _CrossEntropy.apply(logits.float(), teacher, labels, factor, temperature)


class _CrossEntropy(torch.autograd.Function):
    """With its gradient, some rows at a time: on a CPU, matrices that leave its cache would take twice as long."""

    @staticmethod
    def forward(ctx, logits, teacher, labels, factor, temperature):
        rows = len(logits) if logits.is_cuda else max(1, CACHED // logits.shape[1])
        gradient, total = torch.empty_like(logits), torch.zeros((), dtype=torch.float64, device=logits.device)
        for some in map(slice, range(0, len(logits), rows), range(rows, len(logits) + rows, rows)):
            logs = functional.log_softmax(logits[some], dim=1)
            wanted = functional.softmax(teacher[some].float() / temperature, dim=1).mul_(factor)
            if factor < 1:
                wanted.scatter_add_(1, labels[some, None], torch.full_like(wanted[:, :1], 1 - factor))
            total -= torch.dot(wanted.flatten(), logs.flatten())
            torch.sub(logs.exp_(), wanted, out=gradient[some])
        ctx.save_for_backward(gradient)
        return total.float()

    @staticmethod
    def backward(ctx, outer):
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(outer), None, None, None, None
