"""Which tokens are hidden: whole words, by the number of the sequence alone, whatever batch and process it is in."""

import string
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from tokenizers import Tokenizer

from morocco_lib.training.pretraining.corpus import Sequences

WORD = "▁"  # begins the pieces of a SentencePiece tokenizer that begin a word


@dataclass(frozen=True)
class Batch:
    """What a step computes with.

    Attributes:
        ids: Shape (sequences, length), some tokens hidden.
        types: The same shape, 1 in the second of two texts.
        attention: The same shape, 0 for padding.
        hidden: The same shape, True where a token is to be told.
        labels: Shape (tokens to be told,).
        swapped: Shape (sequences,), 1 where two texts are swapped.
    """

    ids: torch.Tensor
    types: torch.Tensor
    attention: torch.Tensor
    hidden: torch.Tensor
    labels: torch.Tensor
    swapped: torch.Tensor

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
        self.end = vocabulary.get("[SEP]", -1)  # of a text
        self.continues = np.zeros(self.size, bool)
        if whole_words:
            marked = any(piece.startswith(WORD) for piece in vocabulary)
            self.continues[[id for piece, id in vocabulary.items() if _continues(piece, marked)]] = True
        self.ordinary = np.flatnonzero(~self.special)
        self.probability = probability

    def __call__(self, sequences: Sequences, numbers: np.ndarray, seed: int) -> Batch:
        """Return sequences with hidden tokens; their numbers and the seed decide which."""
        lengths, width = sequences.lengths, int(sequences.lengths.max())
        shown, hidden = np.array(sequences.ids[:, :width], np.int64), np.zeros((len(sequences), width), bool)
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
        ends = labels == self.end
        types = (ends.cumsum(1) - ends > 0) & attention
        tensors = shown, types.astype(np.int64), attention.astype(np.int64), hidden, labels[hidden]
        return Batch(*map(torch.from_numpy, (*tensors, np.array(sequences.swapped, np.int64))))

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


def _continues(piece: str, marked: bool) -> bool:
    """Tell whether a piece goes on a word, by "##", or by the lack of a mark that begins one."""
    if not marked:
        return piece.startswith("##")
    return not (piece.startswith((WORD, "<", "[")) or piece in string.punctuation)
