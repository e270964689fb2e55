"""Choices that have names: the kind of a model, how a transformer computes, records made by the kit."""

import difflib
from typing import NamedTuple

from morocco_lib.errors import UsageError

SYNTHETIC = "synthetic"  # as a data folder: records made by the kit
KINDS = {
    "majority": "majority.Majority",
    "tfidf": "tfidf.Tfidf",
    "transformer": "transformer.model.Transformer",
}  # kind -> class in `models`
PRECISIONS, BACKENDS = ("fp32", "bf16", "fp16"), ("torch", OPENVINO := "openvino", "sparse")
INFERENCE_PRECISIONS = (*PRECISIONS, INT8 := "int8")  # of weights, by openvino
HEADS = (LINEAR := "linear", "concat", "mul", "segment", "segment-init")  # `models.transformer.layers`
POOLINGS = ("first", "last", "mean", "max")


class Options(NamedTuple):
    """One of `INFERENCE_PRECISIONS` and one of `BACKENDS`. Kinds other than transformers have only the default."""

    precision: str = "fp32"
    backend: str = "torch"


def check_kind(kind: str) -> None:
    """Raise UsageError if there is no such kind of model; the nearest known one is named."""
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise UsageError(
            f"no model {kind!r}",
            rule=f"models: {', '.join(KINDS)}",
            remedy=f"did you mean {near[0]!r}?" if near else "",
        )
