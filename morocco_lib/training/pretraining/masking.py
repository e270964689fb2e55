"""Which tokens are hidden: whole words, by the number of the sequence alone, whatever batch and process it is in."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from tokenizers import Tokenizer

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """What a step computes with.

    Attributes:
        ids: Shape (sequences, length), some tokens hidden.
        attention: The same shape, 0 for padding.
        hidden: The same shape, True where a token is to be told.
        labels: Shape (tokens to be told,).
    """

    ids: torch.Tensor
    attention: torch.Tensor
    hidden: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))


class Masker:
    """Hides whole words: of the tokens of words chosen 80 % become [MASK], 10 % any other, 10 % stay (Devlin et al., 2019).

    Args:
        probability: Share of the tokens of a sequence that are to be told.
        whole_words: Hide all pieces of a word, or each token for itself.
    """

    def __init__(self, tokenizer_text: str, probability: float = 0.15, whole_words: bool = True, mask: str = "[MASK]"):
        tokenizer = Tokenizer.from_str(tokenizer_text)
        vocabulary = tokenizer.get_vocab()
        self.size, self.mask = len(vocabulary), vocabulary[mask]
        special = {id for token, id in vocabulary.items() if token.startswith("[") and token.endswith("]")}
        special |= {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.special = np.zeros(self.size, bool)
        self.special[sorted(special)] = True
        self.continues = np.zeros(self.size, bool)
        if whole_words:
            self.continues[[id for token, id in vocabulary.items() if token.startswith("##")]] = True
        self.ordinary = np.flatnonzero(~self.special)
        self.probability = probability

    def __call__(self, ids: np.ndarray, lengths: np.ndarray, numbers: np.ndarray, seed: int) -> Batch:
        """Return sequences with hidden tokens.

        Args:
            ids, lengths: See `corpus.Sequences`.
            numbers: Of the sequences; with the seed they decide what is hidden.
        """
        width = int(lengths.max())
        shown, hidden = np.array(ids[:, :width], np.int64), np.zeros((len(ids), width), bool)
        labels = shown.copy()
        for row, (length, number) in enumerate(zip(lengths, numbers, strict=True)):
            rng = np.random.default_rng((seed, int(number)))
            places = self._chosen(shown[row, :length], rng)
            hidden[row, places] = True
            fate = rng.random(len(places))
            shown[row, places[fate < 0.8]] = self.mask
            other = places[fate >= 0.9]
            shown[row, other] = rng.choice(self.ordinary, len(other))
        attention = np.arange(width) < np.asarray(lengths)[:, None]
        tensors = shown, attention.astype(np.int64), hidden, labels[hidden]
        return Batch(*map(torch.from_numpy, tensors))

    def _chosen(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the places of the tokens to be told, in order: words at random until there are enough."""
        inside = np.flatnonzero(~self.special[ids])
        begins = ~self.continues[ids[inside]]
        begins[:1] = True
        ends = [*np.flatnonzero(begins).tolist(), len(inside)]
        words = list(pairwise(ends))
        wanted, taken = max(1, round(self.probability * len(inside))), []
        for word in rng.permutation(len(words)):
            first, end = words[word]
            if len(taken) + end - first <= wanted:
                taken += range(first, end)
            if len(taken) >= wanted:
                break
        return inside[sorted(taken or range(*words[0]))]
