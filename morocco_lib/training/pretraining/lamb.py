"""LAMB (You et al., 2020), whose moments may be kept in 8 bits, block by block (Dettmers et al., 2022)."""

import math
from collections.abc import Callable
from typing import Any

import torch

BLOCK = 4096  # elements that share a scale
LEAST = 65_536  # smaller tensors keep 32 bits
MOMENTS = {"exp_avg": True, "exp_avg_sq": False}  # whether it has a sign


def why_not_8_bits(device: torch.device) -> str:
    """Return why bitsandbytes does not quantise on a device, "" where it does."""
    try:
        from bitsandbytes import functional

        one = torch.linspace(-1, 1, BLOCK, device=device)
        error = (
            (functional.dequantize_blockwise(*functional.quantize_blockwise(one, blocksize=BLOCK)) - one).abs().max()
        )
        return "" if error < 0.05 else f"bitsandbytes is off by {error:.2f} there"
    except ModuleNotFoundError:
        return "the package bitsandbytes is not installed"
    except Exception as error:  # whatever its library for this device makes of it
        return f"bitsandbytes does not run on {device.type} ({' '.join(str(error).split())[:100]})"


class Lamb(torch.optim.Optimizer):
    """Layer-wise adaptive moments: the step of each tensor is scaled to its norm.

        delta = m / (sqrt(v) + eps) + weight_decay * w
        w    -= lr * sqrt(1 - b2^t) / (1 - b1^t) * |w| / |delta| * delta        (ratio 1 where a norm is 0)

    The bias correction comes after eps, as in the optimiser RuLeanALBERT was trained with.

    Args:
        eight_bits: Keep the moments of tensors of `LEAST` elements or more in 8 bits: 2 bytes a weight, and 8 a block of
            `BLOCK`, instead of 8 a weight. Needs bitsandbytes; see `why_not_8_bits`.
    """

    def __init__(
        self,
        params,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        eight_bits: bool = False,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.eight_bits = eight_bits

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> torch.Tensor | None:
        """Make one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, group)
        return loss

    def _step(self, weight: torch.Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[weight], group["betas"]
        state["step"] = state.get("step", torch.zeros(())) + 1
        first, second = (self._read(state, name, weight) for name in MOMENTS)
        first.lerp_(weight.grad, 1 - beta1)
        second.mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
        delta = first / second.sqrt().add_(group["eps"]) + group["weight_decay"] * weight
        norms = weight.norm(), delta.norm()
        ratio = torch.where((norms[0] > 0) & (norms[1] > 0), norms[0] / norms[1], 1.0)
        step = float(state["step"])
        weight.sub_(delta * (group["lr"] * math.sqrt(1 - beta2**step) / (1 - beta1**step) * ratio))
        for name, moment in zip(MOMENTS, (first, second), strict=True):
            self._keep(state, name, moment)

    def _read(self, state: dict[str, Any], name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return a moment, not in 8 bits."""
        if name not in state:
            return torch.zeros_like(weight)
        if f"{name}_scale" not in state:
            return state[name]
        from bitsandbytes import functional

        return functional.dequantize_blockwise(
            state[name], absmax=state[f"{name}_scale"], code=_codes(MOMENTS[name], weight.device), blocksize=BLOCK
        )

    def _keep(self, state: dict[str, Any], name: str, moment: torch.Tensor) -> None:
        if not self.eight_bits or moment.numel() < LEAST:
            state[name] = moment
            return
        from bitsandbytes import functional

        codes = _codes(MOMENTS[name], moment.device)
        state[name], made = functional.quantize_blockwise(moment, code=codes, blocksize=BLOCK)
        state[f"{name}_scale"] = made.absmax

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for state in self.state.values():  # torch makes every tensor the kind of its weight; 0 to 255 survive that
            state.update({name: state[name].to(torch.uint8) for name in MOMENTS if f"{name}_scale" in state})


_CODES: dict[tuple[bool, torch.device], torch.Tensor] = {}


def _codes(signed: bool, device: torch.device) -> torch.Tensor:
    """Return what the 256 codes stand for, in shares of a block's scale."""
    from bitsandbytes import functional

    if (signed, device) not in _CODES:
        _CODES[signed, device] = functional.create_dynamic_map(signed=signed).to(device)
    return _CODES[signed, device]
