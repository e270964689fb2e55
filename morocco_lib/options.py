"""How a transformer computes: part of the operating point."""

from typing import NamedTuple

PRECISIONS, BACKENDS = ("fp32", "bf16", "fp16"), ("torch", "openvino")
POOLINGS = ("first", "last", "mean", "max")


class Options(NamedTuple):
    """One of `PRECISIONS` and one of `BACKENDS`. Other kinds of models have but the default."""

    precision: str = "fp32"
    backend: str = "torch"
