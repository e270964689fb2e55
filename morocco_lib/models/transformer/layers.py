"""How a head makes logits of a backbone's features, by the names of `options.HEADS`.

`concat`, `mul` and `segment` are those of the founding project on GAP: of a pronoun and two names they read the first token alone,
and give the logits of neither, A, B. They have no dropout.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from morocco_lib.errors import UsageError
from morocco_lib.models.transformer.heads import Head
from morocco_lib.models.transformer.sequences import EncodedSequence
from morocco_lib.options import LINEAR

SPREAD = 0.02  # of new weights, as in BERT
MENTIONS = 3


class Linear(nn.Linear):
    """One layer over the whole, each marked span, and of each two spans their product and distance: for any task."""

    def __init__(self, head: Head, hidden: int, dropout: float = 0.0, backbone: nn.Module | None = None):
        super().__init__(head.width(hidden), head.outputs)
        _begin(self)
        self.inputs, self.dropout = head.inputs, nn.Dropout(dropout)

    @staticmethod
    def mark(sequence: EncodedSequence) -> EncodedSequence:
        """Return the sequence as the head reads it."""
        return sequence

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(self.dropout(self.inputs(features)))


class Concat(nn.Linear):
    """One layer over pronoun, A and B side by side."""

    def __init__(self, head: Head, hidden: int, dropout: float = 0.0, backbone: nn.Module | None = None):
        super().__init__(MENTIONS * hidden, head.outputs)
        _begin(self)

    @staticmethod
    def mark(sequence: EncodedSequence) -> EncodedSequence:
        return replace(sequence, spans=tuple((start, start + 1) for start, _ in sequence.spans))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features[:, -self.in_features :])


class Mul(nn.Module):
    """The pronoun's products with a vector that stands for neither, with A and with B, divided by the root of the width."""

    mark = staticmethod(Concat.mark)

    def __init__(self, head: Head, hidden: int, dropout: float = 0.0, backbone: nn.Module | None = None):
        super().__init__()
        self.neither = nn.Parameter(torch.randn(hidden))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        _, pronoun, a, b = features.chunk(1 + MENTIONS, dim=1)
        others = torch.stack([self.neither.expand_as(a), a, b], dim=1)
        return (others @ pronoun[:, :, None])[:, :, 0] / len(self.neither) ** 0.5


class Segment(nn.Module):
    """One layer over the backbone's pooled first token; the mentions are known by token types of their own, 1 to 3."""

    near: ClassVar[bool] = False  # new token types begin beside the one that all tokens had

    def __init__(self, head: Head, hidden: int, dropout: float = 0.0, backbone: nn.Module | None = None):
        super().__init__()
        self.pooler, self.classifier = nn.Linear(hidden, hidden), nn.Linear(hidden, head.outputs)
        _begin(self.pooler), _begin(self.classifier)
        if backbone is not None:
            self._extend(backbone)

    @staticmethod
    def mark(sequence: EncodedSequence) -> EncodedSequence:
        types = tuple((start, kind) for kind, (start, _) in enumerate(sequence.spans, start=1))
        return replace(sequence, second=len(sequence.ids), spans=(), types=types)

    def _extend(self, backbone: nn.Module) -> None:
        """Give the backbone new token types, and take its pooler if it has one."""
        known = getattr(getattr(backbone, "embeddings", None), "token_type_embeddings", None)
        if known is None:
            raise UsageError(
                f"a {backbone.config.model_type} has no token types", rule="the head segment marks names by token types",
                remedy="take another head, or a BERT",
            )  # fmt: skip
        table = nn.Embedding(1 + MENTIONS, known.embedding_dim)
        words = backbone.get_input_embeddings().weight
        with torch.no_grad():
            nn.init.normal_(table.weight, std=words.std().item() if self.near else SPREAD)
            table.weight[1:] += known.weight[0] if self.near else 0
            table.weight[0] = known.weight[0]
        backbone.embeddings.token_type_embeddings = table
        backbone.config.type_vocab_size = 1 + MENTIONS
        if getattr(backbone, "pooler", None) is not None:
            self.pooler, backbone.pooler = backbone.pooler.dense, None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pooler(features).tanh())


class SegmentInit(Segment):
    """`Segment` whose token types begin as the known one and a step as long as a word's."""

    near = True


LAYERS = {LINEAR: Linear, "concat": Concat, "mul": Mul, "segment": Segment, "segment-init": SegmentInit}


def layers_of(name: str, head: Head) -> type[nn.Module]:
    """Return the layers with a name; raises UsageError if there are none, or they are for tasks of another form."""
    if name not in LAYERS:
        raise UsageError(f"no head {name!r}", rule=f"heads: {', '.join(LAYERS)}")
    if name != LINEAR and (head.spans, head.outputs) != (MENTIONS, MENTIONS):
        raise UsageError(
            f"{head.task.title} has {head.spans} marked spans and {head.outputs} logits",
            rule=f"the head {name} is for tasks with three of each",
            remedy=f"take head: {LINEAR}",
        )
    return LAYERS[name]


def load_layers(name: str, head: Head, hidden: int, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """Return layers with the weights of a folder; raises ValueError if these do not fit."""
    made = layers_of(name, head)(head, hidden)
    weights = {key.removeprefix("head."): one.float() for key, one in tensors.items() if key.startswith("head.")}
    found, wanted = (
        {key: tuple(one.shape) for key, one in sorted(some.items())} for some in (weights, made.state_dict())
    )
    if found != wanted:
        raise ValueError(f"a head {name} with {found} does not fit {head.task.title}, which takes {wanted}")
    made.load_state_dict(weights)
    return made.requires_grad_(False).eval()


def _begin(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=SPREAD)
    nn.init.zeros_(layer.bias)
