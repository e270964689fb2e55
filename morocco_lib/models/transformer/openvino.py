"""Any backbone that transformers loads, computed by OpenVINO on the CPU, each batch padded to its longest sequence.

It is traced and compiled when it is made; nothing is written to disk. An architecture that `packed` knows is traced from
its weights as they are read there: importing transformers would take longer than all the rest.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional

from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.models.transformer.packed import ROBERTAS, TANH_GELUS, Packed
from morocco_lib.models.transformer.padded import HALF_ROUNDING, ROUNDING, Padded, backbone_of

TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
PROBES = 6, 1024  # tokens: of a short and a long sequence; padding lies beyond sliding windows, too
PRECISION = "INFERENCE_PRECISION_HINT"
States = Callable[..., torch.Tensor]  # ids, mask, token types if there are any -> the last hidden states


def runtime(name: str = "openvino") -> ModuleType:
    """Return the installed OpenVINO, or its nncf, without the package that tells their makers of every import.

    Raises:
        EnvironmentFailure: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # to OpenVINO, as if it were not installed
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            f"{error.name} is not installed",
            rule="the backend openvino needs the `openvino` extra",
            remedy="run `make setup-torch`, or use --backend torch",
        ) from None


class OpenVINO(Padded):
    """A model's backbone.

    Args:
        config: As transformers writes it.
        backbone: The weights by the names of transformers' backbone.
        pooling: One of `options.POOLINGS`.
        precision: In which to compute: fp32 | bf16 | fp16. Always set: OpenVINO's own default is bf16 where a CPU has it.
            int8: weights are kept in it, and computed with in fp32, or in int8 where a CPU has dot products of it.
    Raises:
        ValueError: unknown architecture, or weights that do not fit it.
        UsageError: an architecture that OpenVINO cannot trace, or whose answers depend on the padding.
        EnvironmentFailure: OpenVINO is not installed, or computes in another precision on this CPU.
    """

    def __init__(self, config: Mapping[str, Any], backbone: Mapping[str, torch.Tensor], pooling: str, precision: str):
        openvino = runtime()
        self.kind = config["model_type"]
        known = Packed.supports(config)
        if known:
            states = self._known(Packed(config, backbone, pooling), config)
        else:
            plain = Padded(backbone_of(config, backbone).requires_grad_(False), pooling)
            vars(self).update(vars(plain))  # how to feed it is the same
            states = by_transformers(self.model, self.options)
            self.model = None  # what is computed with are the compiled weights
        try:
            graph = traced(openvino, states, self.segments)
            if precision == "int8":
                with redirect_stdout(sys.stderr):  # it prints how far it is; stdout is for predictions
                    graph = runtime("nncf").compress_weights(graph)
            self.compiled = openvino.Core().compile_model(graph, "CPU", settings(precision))
        except EnvironmentFailure:
            raise
        except Exception as error:  # whatever stands in the way of tracing and converting
            raise refused(self.kind, error) from None
        check_precision(self.precision, precision)
        self.request = self.compiled.create_infer_request()
        rounding = ROUNDING if precision == "fp32" else HALF_ROUNDING
        if not known and not (self.padded and self.ignores_padding(PROBES, rounding)):
            raise UsageError(
                f"OpenVINO does not compute a {self.kind} correctly: padding changes its answers",
                remedy="use --backend torch",
            )

    def _known(self, packed: Packed, config: Mapping[str, Any]) -> States:
        self.pooling, self.device, self.max_length, self.padded = packed.pooling, packed.device, packed.max_length, True
        self.padding, self.hidden = config.get("pad_token_id") or 0, packed.hidden
        self.segments = packed.types is not None and len(packed.types) > 1
        return by_weights(packed)

    @property
    def precision(self) -> str:
        """The type that OpenVINO computes in, by its name for it: f32, bf16, f16."""
        return self.compiled.get_property(PRECISION).to_string()

    def states(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the last hidden states, shape (sequences, tokens, hidden); they last until the next call."""
        arrays = [tensor.numpy() for tensor in inputs.values()]
        try:
            found = self.request.infer(arrays, share_inputs=True, share_outputs=True)[0]
            if len(found) != len(arrays[0]):  # what tracing made of a loop over tokens
                raise RuntimeError(f"{len(found)} sequences came of {len(arrays[0])}")
            return torch.from_numpy(found)
        except RuntimeError as error:
            raise refused(self.kind, error) from None


def refused(kind: str, error: Exception) -> UsageError:
    """Return what a user reads of an architecture that OpenVINO does not compute."""
    reason = " ".join(str(error).split())[:200]
    return UsageError(
        f"OpenVINO does not compute a {kind} ({type(error).__name__}: {reason})", remedy="use --backend torch"
    )


def settings(precision: str) -> dict[str, Any]:
    """Return how to compile: as many threads as torch would take, free to move where other programs leave a core."""
    return {
        PRECISION: TYPES[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
    }


def check_precision(compiled: str, requested: str) -> None:
    """Raise EnvironmentFailure where OpenVINO (its name for it: f32) took another precision than requested (fp32)."""
    if compiled != TYPES[requested]:
        raise EnvironmentFailure(
            f"OpenVINO computes in {compiled} on this CPU where {requested} was asked for",
            rule="a result is of the precision it names",
            remedy="use --precision fp32, or --backend torch",
        )


def by_transformers(backbone: torch.nn.Module, options: dict[str, Any]) -> States:
    """Return what a transformers backbone does."""

    def states(ids, mask, types=None):
        named = {} if types is None else {"token_type_ids": types}
        found = backbone(input_ids=ids, attention_mask=mask, **named, **options)[0]
        return found.masked_fill(mask[..., None] == 0, 0)  # padding that sees nothing comes out as NaN

    return states


def by_weights(known: Packed) -> States:
    """Return what a backbone does with padded batches, by the weights of `packed`."""
    shape = known.shape
    gelu = partial(functional.gelu, approximate="tanh" if shape.activation in TANH_GELUS else "none")
    activation = torch.relu if shape.activation == "relu" else gelu

    def norm(rows, weights):
        return rows if weights is None else functional.layer_norm(rows, rows.shape[-1:], *weights, shape.epsilon)

    def attended(rows, layer, seen):
        queries, keys, values = (
            part.unflatten(2, (shape.heads, -1)).transpose(1, 2)
            for part in functional.linear(rows, *layer.inputs).chunk(3, dim=2)
        )
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
        return functional.linear(mixed.transpose(1, 2).flatten(2), *layer.output)

    def inner(rows, layer):
        return functional.linear(activation(functional.linear(rows, *layer.up)), *layer.down)

    def states(ids, mask, types=None):
        places = torch.ones_like(ids).cumsum(1) - 1
        seen = mask.bool()[:, None, None]
        if shape.causal:
            seen = seen & (places[:, None, None] <= places[:, None, :, None])
        positions = places
        if shape.kind in ROBERTAS:
            padding = shape.first_position - 1
            real = (ids != padding).long()
            positions = real.cumsum(1) * real + padding
        rows = functional.embedding(ids, known.words) + functional.embedding(positions, known.positions)
        if known.types is not None:
            rows = rows + functional.embedding(ids * 0 if types is None else types, known.types)
        rows = norm(rows, known.first_norm)
        if known.project is not None:
            rows = functional.linear(rows, *known.project)
        for layer in known.layers:
            if shape.causal:
                rows = rows + attended(norm(rows, layer.norm), layer, seen)
                rows = rows + inner(norm(rows, layer.end_norm), layer)
            else:
                rows = norm(rows + attended(rows, layer, seen), layer.norm)
                rows = norm(rows + inner(rows, layer), layer.end_norm)
        return norm(rows, known.last_norm)

    return states


def traced(openvino: ModuleType, states: States, segments: bool) -> Any:
    """Return OpenVINO's model of a function for batches of any shape."""
    ids = torch.ones(2, 8, dtype=torch.long)
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0  # with padding, or the passage that handles it would not be traced
    example = (ids, mask, ids * 0) if segments else (ids, mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what tracing leaves out; the answers are compared in the tests
        script = torch.jit.trace(states, example, check_trace=False)
    return openvino.convert_model(script, example_input=example)
