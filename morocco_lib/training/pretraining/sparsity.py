"""Weights that are off: which, how many, and that they stay zero. Static masks, RigL, gradual pruning by magnitude.

The weights themselves stay dense tensors, so that their gradients are (RigL needs those of weights that are off); what is off
is set to zero after every update. Sources: Zhu & Gupta 2017 (gradual pruning), Evci et al. 2020 (RigL).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from morocco_lib import foreign
from morocco_lib.errors import UsageError

FILE = "sparsity.safetensors"  # beside the weights
ENCODER, FEED_FORWARD, FULLY = "encoder", "feed_forward", "fully"


def chosen(model: nn.Module, what: str) -> dict[str, nn.Parameter]:
    """Return the weights that may be off, by name in the backbone, of a BERT-like model.

    Args:
        what: ENCODER: all linear layers of the encoder; FEED_FORWARD: its feed-forward ones; FULLY: all of them and the word
            embeddings (and with them the decoder that is tied to them). Never norms, biases, positions, pooler, heads.
    """
    model = getattr(model, "base_model", model)
    linear = {
        f"{name}.weight": m.weight
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and ".layer." in name
    }
    if what == FEED_FORWARD:
        return {name: weight for name, weight in linear.items() if "attention" not in name}
    if what == FULLY:
        words = model.get_input_embeddings()
        name = next(name for name, module in model.named_modules() if module is words)
        return {f"{name}.weight": words.weight, **linear}
    return linear


def kept(columns: int, sparsity: float) -> int:
    """Return how many weights of a row are on."""
    return round((1 - sparsity) * columns)


def level_for(wished: int, model: nn.Module, what: str) -> float:
    """Return the sparsity of the chosen weights at which the model has about `wished` weights that are on."""
    may = sum(weight.numel() for weight in chosen(model, what).values())
    dense = count(model) - may
    level = 1 - (wished - dense) / may
    if not 0 <= level < 1:
        raise UsageError(f"{wished:,} weights on", rule=f"between {dense:,} and {dense + may:,} are possible")
    return level


def count(model: nn.Module) -> int:
    """Return how many weights a model has, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass
class Masks:
    """Which weights are on.

    Attributes:
        on: Name of a weight -> bool tensor of its shape.
    """

    on: dict[str, torch.Tensor]

    @classmethod
    def drawn(cls, model: nn.Module, what: str, sparsity: float | Mapping[str, float], seed: int) -> "Masks":
        """Return masks with the same number of weights on in each row, drawn at random."""
        generator, on = torch.Generator().manual_seed(seed), {}
        weights = chosen(model, what)
        levels = sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(weights, sparsity)
        if missing := [name for name in weights if name not in levels]:
            raise UsageError(f"no sparsity for {missing[0]}", rule="each layer has one")
        for name, weight in weights.items():
            places = (
                torch.rand(weight.shape, generator=generator).topk(kept(weight.shape[1], levels[name]), dim=1).indices
            )
            on[name] = torch.zeros(weight.shape, dtype=torch.bool).scatter_(1, places, True)
        return cls(on)

    @classmethod
    def dense(cls, model: nn.Module, what: str) -> "Masks":
        return cls({name: torch.ones_like(weight, dtype=torch.bool) for name, weight in chosen(model, what).items()})

    @classmethod
    def load(cls, folder: Path) -> "Masks | None":
        """Return the masks beside a model's weights, None where there are none."""
        path = Path(folder) / FILE
        return cls(load_file(foreign.check(path))) if path.is_file() else None

    def save(self, folder: Path) -> None:
        save_file({name: mask.contiguous().cpu() for name, mask in self.on.items()}, Path(folder) / FILE)

    def apply(self, model: nn.Module) -> None:
        """Set what is off to zero, in the backbone that masks were made for or in a model around it."""
        with torch.no_grad():
            for weight, mask in self._pairs(model):
                weight.mul_(mask.view(torch.uint8))  # twice as fast as by booleans

    def _pairs(self, model: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
        parameters = dict(model.named_parameters())
        found = []
        for name, mask in self.on.items():
            match = [full for full in parameters if full == name or full.endswith(f".{name}")]
            if len(match) != 1 or parameters[match[0]].shape != mask.shape:
                raise UsageError(f"no weight {name} of shape {tuple(mask.shape)}", rule="masks belong to their model")
            self.on[name] = mask.to(parameters[match[0]].device)  # where it stays
            found.append((parameters[match[0]], self.on[name]))
        return found

    def density(self) -> dict[str, float]:
        """Return the share of weights that are on, by name."""
        return {name: mask.float().mean().item() for name, mask in self.on.items()}

    def weights_on(self) -> int:
        return sum(int(mask.sum()) for mask in self.on.values())

    def weights_off(self) -> int:
        return sum(int((~mask).sum()) for mask in self.on.values())

    def regrow(self, model: nn.Module, share: float) -> int:
        """Turn off the share of weights on that are smallest, and on as many that are off, by their gradients: RigL.

        Both are ranked over all masks together. New weights begin at zero, and their moments are left as they are.
        """
        pairs = self._pairs(model)
        moved = int(share * self.weights_on())
        if not moved:
            return 0
        with torch.no_grad():
            size = torch.cat([torch.where(m, w.abs(), math.inf).flatten() for w, m in pairs])
            self._set(pairs, size.topk(moved, largest=False).indices, False)
            self.apply(model)
            gain = torch.cat([torch.where(m, -1.0, w.grad.abs()).flatten() for w, m in pairs])
            self._set(pairs, gain.topk(moved).indices, True)
        return moved

    def prune_to(self, model: nn.Module, total_on: int) -> None:
        """Turn off the smallest weights that are on, over all masks together, until so many are on."""
        pairs = self._pairs(model)
        surplus = self.weights_on() - total_on
        if surplus > 0:
            with torch.no_grad():
                size = torch.cat([torch.where(m, w.abs(), math.inf).flatten() for w, m in pairs])
                self._set(pairs, size.topk(surplus, largest=False).indices, False)
            self.apply(model)

    def _set(self, pairs: Sequence[tuple[nn.Parameter, torch.Tensor]], places: torch.Tensor, value: bool) -> None:
        """Set masks at places of all of them, counted one after the other."""
        places, first = places.sort().values, 0
        for _, mask in pairs:
            inside = places[(places >= first) & (places < first + mask.numel())] - first
            mask.view(-1)[inside] = value
            first += mask.numel()


def rigl_share(step: int, steps: int, share: float, warmup: int) -> float:
    """Return which share of the weights on is moved at an update: a cosine from `share` after the warm-up to 0 at the end."""
    if step < warmup:
        return 0.0
    return 0.5 * share * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup - 1, 1)))


def gradual_on(step: int, steps: int, first: int, last: int) -> int:
    """Return how many weights are on at an update of gradual pruning: a cubic from first to last."""
    done = min(step / steps, 1.0)
    return round(last + (first - last) * (1 - done) ** 3)
