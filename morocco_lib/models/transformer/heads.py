"""From the logits of a record's sequences to its prediction, and to the loss in training: one head for each kind of answer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import combinations

import torch
from torch.nn import functional

from morocco_lib.tasks.base import Prediction, Task
from morocco_lib.tasks.form import AnswerKind
from morocco_lib.tasks.jsonl import Record


@dataclass(frozen=True)
class Head(ABC):
    """A linear layer over what is known of each sequence, and what its outputs mean."""

    task: Task
    outputs: int = 1  # logits of a sequence
    spans: int = 0  # marked texts of a sequence
    together = False  # the sequences of a record are learnt from together

    def width(self, hidden: int) -> int:
        """Return how many inputs the linear layer has over a backbone of this width.

        The whole sequence, each marked span, and of each two spans their product and distance: 1, 2, 5 and 10 times the
        hidden size for 0 to 3 spans.
        """
        return hidden * (1 + self.spans + self.spans * (self.spans - 1))

    def inputs(self, features: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the linear layer from a backend's features, shape (sequences, width).

        Product and distance (Conneau et al. 2017) are there because that two words mean the same, or that an answer fits
        its question, is no sum of what each of them means.
        """
        _, *spans = features.chunk(1 + self.spans, dim=1)
        compared = [part for one, other in combinations(spans, 2) for part in (one * other, (one - other).abs())]
        return torch.cat([features, *compared], dim=1)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        """Return the mean loss.

        Args:
            logits: Shape (sequences, outputs).
            targets: Shape (sequences,): places of labels, 1 and 0, or numbers.
            sizes: Sequences of each record, if they are learnt from together.
        """
        return functional.binary_cross_entropy_with_logits(logits[:, 0].float(), targets.float())

    @abstractmethod
    def chosen(self, logits: torch.Tensor) -> list[float]:
        """Return what `Task.prediction` takes, from the logits of a record's sequences, shape (sequences, outputs)."""

    def predict(self, record: Record, logits: torch.Tensor) -> Prediction:
        """Return the prediction for a record from the logits of its sequences, shape (sequences, outputs)."""
        return self.task.prediction(record, self.chosen(logits))


class ClassHead(Head):
    """One sequence, a logit a label; the highest wins."""

    def loss(self, logits: torch.Tensor, targets: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        return functional.cross_entropy(logits.float(), targets)

    def chosen(self, logits: torch.Tensor) -> list[int]:
        return [int(logits[0].argmax())]


class OneOfHead(Head):
    """A sequence an option, a logit each; the highest wins, the first of equal ones.

    The loss is that of the probability which the softmax over a record's options gives to the right ones; a record without a
    right option teaches nothing.
    """

    together = True

    def loss(self, logits: torch.Tensor, targets: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        losses = []
        for one, right in zip(logits[:, 0].float().split(sizes), targets.bool().split(sizes), strict=True):
            if right.any():
                losses.append(one.logsumexp(0) - one[right].logsumexp(0))
        return torch.stack(losses).mean() if losses else logits.sum() * 0

    def chosen(self, logits: torch.Tensor) -> list[int]:
        return [int(logits[:, 0].argmax())]


class EachOfHead(Head):
    """A sequence for each part; right where its logit is above 0."""

    def chosen(self, logits: torch.Tensor) -> list[int]:
        return (logits[:, 0] > 0).int().tolist()


class NumberHead(Head):
    """One sequence, one output: the number itself, learnt by squared error."""

    def loss(self, logits: torch.Tensor, targets: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        return functional.mse_loss(logits[:, 0].float(), targets.float())

    def chosen(self, logits: torch.Tensor) -> list[float]:
        return [logits[0, 0].item()]


class ProbabilityHead(ClassHead):
    """One sequence, a logit a label; their softmax is the answer."""

    def chosen(self, logits: torch.Tensor) -> list[float]:
        return logits[0].double().softmax(0).tolist()


HEADS = {
    AnswerKind.CLASSES: ClassHead,
    AnswerKind.PROBABILITIES: ProbabilityHead,
    AnswerKind.ONE_OF: OneOfHead,
    AnswerKind.EACH_OF: EachOfHead,
    AnswerKind.NUMBER: NumberHead,
}


def head_of(task: Task) -> Head:
    """Return the head for a task's kind of answer."""
    head = HEADS[task.answer_kind]
    return head(task, len(task.labels) if issubclass(head, ClassHead) else 1, task.spans)
