"""Linear layers with many zeros as compressed rows (CSR), multiplied by MKL's kernels on the CPU; all else as `torch` does."""

import warnings
from dataclasses import replace

import torch
from torch import nn

from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.models.transformer.packed import Packed, linear
from morocco_lib.models.transformer.padded import Padded

ZEROS = 0.5  # share of a layer's weights: with fewer, their places take more memory than the zeros did


class SparseLinear(nn.Linear):
    """A linear layer of transformers' whose weight is kept as CSR."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found = linear(rows.flatten(0, -2), self.weight, self.bias)
        return found.contiguous().unflatten(0, rows.shape[:-1])


def compress(backend: Packed | Padded, precision: str) -> None:
    """Keep the linear layers of a backbone on the CPU as CSR where at least `ZEROS` of their weights are zero.

    Raises:
        UsageError: none has so many, or not in fp32.
        EnvironmentFailure: torch has no MKL.
    """
    if precision != "fp32":
        raise UsageError(f"the backend sparse does not compute in {precision}", rule="it computes in fp32")
    if not torch.backends.mkl.is_available():
        raise EnvironmentFailure(
            "this torch was built without MKL",
            rule="the backend sparse multiplies by MKL's kernels",
            remedy="use --backend torch",
        )
    shares: list[float] = []  # of zeros

    def compressed(weight: torch.Tensor) -> torch.Tensor:
        """Return a weight as CSR if it has enough zeros, else as it is."""
        shares.append(1 - weight.count_nonzero().item() / weight.numel())
        if shares[-1] < ZEROS:
            return weight
        made = weight.to_sparse_csr()
        rows, columns = made.crow_indices().int(), made.col_indices().int()  # MKL's own; others would be cast each time
        return torch.sparse_csr_tensor(rows, columns, made.values(), made.shape, check_invariants=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR "is in beta state"; the answers are compared in the tests
        if isinstance(backend, Packed):
            for number, layer in enumerate(backend.layers):
                pairs = {name: getattr(layer, name) for name in ("inputs", "output", "up", "down")}
                made = {name: (compressed(weight), bias) for name, (weight, bias) in pairs.items()}
                backend.layers[number] = replace(layer, **made)
        else:
            for module in backend.model.modules():
                if type(module) is nn.Linear and (weight := compressed(module.weight.detach())).layout != torch.strided:
                    module.weight, module.__class__ = nn.Parameter(weight, requires_grad=False), SparseLinear
    if (most := max(shares, default=0.0)) < ZEROS:
        raise UsageError(
            f"at most {most:.1%} of a linear layer's weights are zero",
            rule=f"the backend sparse is for models with layers of which at least {ZEROS:.0%} are",
            remedy="use --backend torch",
        )
