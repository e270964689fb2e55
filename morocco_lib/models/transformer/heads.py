"""From the logits of a record's sequences to its prediction, and to the loss in training: one head a way of answering."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch.nn import functional

from morocco_lib.models.transformer.inputs import ENCODINGS
from morocco_lib.tasks.base import Prediction, Task
from morocco_lib.tasks.jsonl import Record


@dataclass(frozen=True)
class Head(ABC):
    """A linear layer over what is known of each sequence, and what its outputs mean."""

    task: Task
    outputs: int = 1  # logits of a sequence
    spans: int = 0  # marked texts of a sequence
    together = False  # the sequences of a record are learnt from together

    def width(self, hidden: int) -> int:
        """Return how many inputs the linear layer has over a body of this width."""
        return hidden * (5 if self.spans == 2 else 1 + self.spans)

    def inputs(self, features: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the linear layer from an engine's features, shape (sequences, width).

        Of two marked texts their product and distance are added (Conneau et al. 2017): that two words mean the same, or
        that an answer fits its question, is no sum of what each of them means.
        """
        if self.spans != 2:
            return features
        _, one, other = features.chunk(3, dim=1)
        return torch.cat([features, one * other, (one - other).abs()], dim=1)

    @abstractmethod
    def targets(self, record: Record) -> list[int]:
        """Return what is right of each sequence of a labelled record: its class, or 1 and 0."""

    def loss(self, logits: torch.Tensor, targets: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        """Return the mean loss.

        Args:
            logits: Shape (sequences, outputs).
            targets: Shape (sequences,), integers.
            sizes: Sequences of each record, if they are learnt from together.
        """
        return functional.binary_cross_entropy_with_logits(logits[:, 0].float(), targets.float())

    @abstractmethod
    def predict(self, record: Record, logits: torch.Tensor) -> Prediction:
        """Return the prediction for a record from the logits of its sequences, shape (sequences, outputs)."""


class Classes(Head):
    """One sequence, a logit a label; the highest wins."""

    def targets(self, record: Record) -> list[int]:
        return [self.task.labels.index(self.task.gold(record)["label"])]

    def loss(self, logits: torch.Tensor, targets: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        return functional.cross_entropy(logits.float(), targets)

    def predict(self, record: Record, logits: torch.Tensor) -> Prediction:
        return {"idx": self.task.key(record), "label": self.task.labels[int(logits[0].argmax())]}


class Options(Head):
    """A sequence an option, a logit each; the highest wins, the first of equal ones.

    Learnt by the probability that the softmax over a record's options gives to the right ones; a record without a right
    option teaches nothing.
    """

    together = True

    def loss(self, logits: torch.Tensor, targets: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        losses = []
        for one, right in zip(logits[:, 0].float().split(sizes), targets.bool().split(sizes), strict=True):
            if right.any():
                losses.append(one.logsumexp(0) - one[right].logsumexp(0))
        return torch.stack(losses).mean() if losses else logits.sum() * 0

    @abstractmethod
    def names(self, record: Record) -> list:
        """Return the answers there are, in the order of the sequences."""

    def predict(self, record: Record, logits: torch.Tensor) -> Prediction:
        return {"idx": self.task.key(record), "label": self.names(record)[int(logits[:, 0].argmax())]}


class Choice(Options):
    """PARus: the labels are the choices."""

    def names(self, record: Record) -> list:
        return list(self.task.labels)

    def targets(self, record: Record) -> list[int]:
        right = self.task.gold(record)["label"]
        return [int(label == right) for label in self.task.labels]


class Candidates(Options):
    """RuCoS: the options are the entities; any right mention is right."""

    def names(self, record: Record) -> list:
        return list(dict.fromkeys(self.task.entities(record)))

    def targets(self, record: Record) -> list[int]:
        right = set(self.task.gold(record)["answers"])
        return [int(name in right) for name in self.names(record)]


class Answers(Head):
    """A sequence an answer; right where its logit is above 0."""

    def targets(self, record: Record) -> list[int]:
        return self.task.labels_in(self.task.gold(record))

    def predict(self, record: Record, logits: torch.Tensor) -> Prediction:
        right = iter((logits[:, 0] > 0).int().tolist())
        questions = [
            {"idx": q["idx"], "answers": [{"idx": a["idx"], "label": next(right)} for a in q["answers"]]}
            for q in record["passage"]["questions"]
        ]
        return {"idx": self.task.key(record), "passage": {"questions": questions}}


HEADS = {"parus": Choice, "muserc": Answers, "rucos": Candidates}


def head_of(task: Task) -> Head:
    """Return the head of a task; tasks with one label a record have one logit a label."""
    spans = ENCODINGS[task.name].spans
    return HEADS[task.name](task, spans=spans) if task.name in HEADS else Classes(task, len(task.labels), spans)
