"""What a transformer is fed: token ids of one sequence, and the seam to whatever computes with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class EncodedSequence:
    """One sequence, special tokens included.

    Args:
        ids: Token ids; at least one.
        second: Place of the first token of the second segment (token type 1), `len(ids)` if there is none.
        spans: Places (start, exclusive end) of marked words, not empty; all sequences of a batch have equally many.
        shared: How many leading ids are those of the sequence before or after it in the batch as well, 0 for none. An
            backend may compute with them once; the answers do not change.
        types: (place, token type) of tokens whose type is not that of their segment.
    """

    ids: list[int]
    second: int
    spans: tuple[tuple[int, int], ...] = ()
    shared: int = 0
    types: tuple[tuple[int, int], ...] = ()

    def begins_as(self, other: "EncodedSequence") -> bool:
        """Tell whether the leading ids that both share with their neighbours are the same."""
        return 0 < self.shared == other.shared and self.ids[: self.shared] == other.ids[: other.shared]


def check_lengths(batch: Sequence[EncodedSequence], max_length: int) -> None:
    """Raise ValueError if a sequence is longer than a model reads."""
    longest = max(len(one.ids) for one in batch)
    if longest > max_length:
        raise ValueError(f"a sequence has {longest} tokens; this model reads {max_length} at most")


class Backend(Protocol):
    """Computes with a model's backbone."""

    max_length: int  # tokens of the longest sequence it takes
    hidden: int  # width of the hidden states

    def features(self, batch: Sequence[EncodedSequence]) -> "torch.Tensor":
        """Return float32 features, shape (sequences, (1 + spans) x hidden): the pooled vector, then the mean of each span.

        Raises:
            ValueError: a sequence is longer than `max_length`.
        """
