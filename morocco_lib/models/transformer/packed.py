"""BERT-likes and GPT-2-likes without padding: the tokens of a batch are the rows of one matrix.

Sequences lie one after another, like lengths side by side, so that attention takes views of the matrix and needs no
mask. Of the last layer only what is pooled is computed. Leading tokens that sequences of a decoder share are computed
with once. Same answers as transformers' forward, to rounding; nothing of transformers is imported.

Source of the architectures: transformers' `modeling_bert`, `modeling_roberta`, `modeling_electra`, `modeling_gpt2`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from morocco_lib.models.transformer.packing import Block, Packing
from morocco_lib.models.transformer.sequences import EncodedSequence, check_lengths

ROBERTAS = {"roberta", "xlm-roberta", "camembert"}
ENCODERS = ROBERTAS | {"bert", "electra"}
TANH_GELUS = {"gelu_new", "gelu_pytorch_tanh", "gelu_fast"}  # one function, written in three ways
ACTIVATIONS = TANH_GELUS | {"gelu", "relu"}
LAYER = re.compile(r"(?:h|encoder\.layer)\.(\d+)\.")
Affine = tuple[torch.Tensor, torch.Tensor]  # weight (outputs, inputs), or (hidden,) of a norm, and bias


@dataclass(frozen=True)
class Shape:
    """What the passage through a model depends on, read from its configuration."""

    kind: str
    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    embedding: int
    positions: int
    first_position: int
    types: int
    activation: str
    epsilon: float

    @property
    def causal(self) -> bool:
        return self.kind == "gpt2"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """Read transformers' configuration.

        Raises:
            ValueError: a size is missing.
        """
        kind = config["model_type"]
        try:
            if kind == "gpt2":
                hidden = config["n_embd"]
                inner = config.get("n_inner") or 4 * hidden
                sizes = hidden, config["n_layer"], config["n_head"], inner, config["vocab_size"], hidden
                rest = config["n_positions"], 0, 0, config.get("activation_function", "gelu_new")
                return cls(kind, *sizes, *rest, config.get("layer_norm_epsilon", 1e-5))
            names = "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"
            sizes = [config[name] for name in names]
            embedding = config["embedding_size"] if kind == "electra" else config["hidden_size"]
            first = config.get("pad_token_id", 1) + 1 if kind in ROBERTAS else 0
            rest = config["max_position_embeddings"], first, config.get("type_vocab_size", 2)
            return cls(
                kind, *sizes, embedding, *rest, config.get("hidden_act", "gelu"), config.get("layer_norm_eps", 1e-12)
            )
        except KeyError as error:
            raise ValueError(f"the configuration of a {kind} lacks {error.args[0]}") from None


@dataclass(frozen=True)
class Layer:
    """The weights of one layer; `inputs` gives queries, keys and values."""

    inputs: Affine
    output: Affine
    norm: Affine
    up: Affine
    down: Affine
    end_norm: Affine


class Packed:
    """A model's backbone.

    Args:
        config: As transformers writes it; one that `supports` accepts.
        backbone: The weights by the names of transformers' backbone (`BertModel`, `GPT2Model`, ...); others are not looked at.
        pooling: One of `options.POOLINGS`; mean and max are over all tokens of a sequence.
        dtype: In which to compute; weights are cast once.
        device: Where to compute.
        gather: Attend with gathered, padded and masked rows instead of run by run of equal lengths: few large steps
            instead of many small ones. By default on a GPU only.
    Raises:
        ValueError: unknown architecture; a weight that is missing or of another shape, by its name.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        backbone: Mapping[str, torch.Tensor],
        pooling: str,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        gather: bool | None = None,
    ):
        if not self.supports(config):
            raise ValueError(f"a {config.get('model_type')} of this configuration is not computed without padding")
        self.device, self.pooling = torch.device(device), pooling
        self.gather = self.device.type == "cuda" if gather is None else gather
        self.shape = Shape.of(config)
        self.max_length, self.hidden = self.shape.positions - self.shape.first_position, self.shape.hidden
        self.activation = activation_of(self.shape.activation, self.device, dtype)
        weights = Weights(backbone, dtype, self.device)
        weights.check_layers(self.shape.layers)
        read = weights.gpt2 if self.shape.causal else weights.bert
        tables, self.first_norm, self.project, self.layers, self.last_norm = read(self.shape)
        self.words, self.positions, self.types = tables

    @staticmethod
    def supports(config: Mapping[str, Any]) -> bool:
        """Tell whether the architecture of a configuration is known here, down to its options."""
        kind = config.get("model_type")
        if kind == "gpt2":
            exotic = ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention")
            width, heads, activation = config.get("n_embd"), config.get("n_head"), config.get("activation_function")
            known = config.get("scale_attn_weights", True) and (activation or "gelu_new") in ACTIVATIONS
        elif kind in ENCODERS:
            exotic = ("is_decoder", "add_cross_attention", "pruned_heads")
            width, heads = config.get("hidden_size"), config.get("num_attention_heads")
            absolute = (config.get("position_embedding_type") or "absolute") == "absolute"
            known = absolute and config.get("hidden_act", "gelu") in ACTIVATIONS
        else:
            return False
        return bool(known and width and heads and width % heads == 0 and not any(config.get(name) for name in exotic))

    @torch.inference_mode()
    def features(self, batch: Sequence[EncodedSequence]) -> torch.Tensor:
        """Return features; see `sequences.Backend`.

        Memory: a few matrices of all tokens by the inner size, and what attention takes; none is kept.
        """
        check_lengths(batch, self.max_length)
        packing = Packing(batch, self.shape.causal, self.device)
        wanted = packing.wanted(self.pooling)
        rows = self._embed(packing)
        blocks = packing.blocks(self.gather)
        for layer in self.layers[:-1]:
            rows = self._pass(layer, rows, blocks)
        if wanted is not None:
            blocks = packing.blocks(self.gather, wanted)
        rows = self._pass(self.layers[-1], rows, blocks, None if wanted is None else packing.rows_of(wanted))
        return packing.pool(self._norm(rows, self.last_norm).float(), self.pooling, wanted)

    def _embed(self, packing: Packing) -> torch.Tensor:
        positions = packing.positions
        if self.shape.kind in ROBERTAS:
            # As transformers counts: a padding token inside a text has the padding's position and is not counted.
            padding = self.shape.first_position - 1
            real = packing.ids != padding
            counted = real.cumsum(0)
            before = (counted - real.long())[packing.starts].repeat_interleave(packing.lengths)
            positions = (counted - before) * real + padding
        rows = functional.embedding(packing.ids, self.words)
        if self.types is not None:
            rows += functional.embedding(packing.types.clamp(max=len(self.types) - 1), self.types)
        rows += functional.embedding(positions, self.positions)
        rows = self._norm(rows, self.first_norm)
        return rows if self.project is None else functional.linear(rows, *self.project)

    def _norm(self, rows: torch.Tensor, norm: Affine | None) -> torch.Tensor:
        return rows if norm is None else functional.layer_norm(rows, rows.shape[1:], *norm, self.shape.epsilon)

    def _pass(
        self, layer: Layer, rows: torch.Tensor, blocks: Sequence[Block], wanted: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what a layer makes of rows, which it overwrites; of the wanted rows alone, if any are named."""
        before = self.shape.causal  # GPT-2 norms before attention and before the inner layers, BERT after them
        hidden, heads = self.shape.hidden, self.shape.heads
        read = self._norm(rows, layer.norm) if before else rows
        weight, bias = layer.inputs
        if wanted is None:
            queries, keys, values = linear(read, weight, bias).contiguous().view(len(read), 3, heads, -1).unbind(1)
        else:
            both = linear(read, outputs_of(weight, hidden, 3 * hidden), bias[hidden:])
            keys, values = both.contiguous().view(len(read), 2, heads, -1).unbind(1)
            rows, read = rows[wanted], read[wanted]
            queries = linear(read, outputs_of(weight, 0, hidden), bias[:hidden]).contiguous().view(len(read), heads, -1)
        mixed = [attend(queries, keys, values, block) for block in blocks]
        rows = add_linear_(rows, torch.cat(mixed) if len(mixed) > 1 else mixed[0], layer.output)
        if before:
            inner = self.activation(linear(self._norm(rows, layer.end_norm), *layer.up))
            return add_linear_(rows, inner, layer.down)
        rows = self._norm(rows, layer.norm)
        inner = self.activation(linear(rows, *layer.up))
        return self._norm(add_linear_(rows, inner, layer.down), layer.end_norm)


def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block: Block) -> torch.Tensor:
    """Return the attention of a block's queries, shape (its rows, hidden); arguments have shape (rows, heads, size)."""

    def take(rows: torch.Tensor, which: slice | torch.Tensor) -> torch.Tensor:
        picked = rows[which]
        return picked.view(block.count, -1, *rows.shape[1:]).transpose(1, 2)

    mixed = functional.scaled_dot_product_attention(
        take(queries, block.queries),
        take(keys, block.keys),
        take(values, block.keys),
        attn_mask=block.mask,
        is_causal=block.causal,
    )
    mixed = mixed.transpose(1, 2).flatten(2).flatten(0, 1)
    return mixed if block.real is None else mixed[block.real]


def linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return a linear layer's outputs, shape (rows, outputs); of a weight kept as CSR as the transpose of (outputs, rows)."""
    if weight.layout == torch.strided:
        return functional.linear(rows, weight, bias)
    columns = rows.t().contiguous()  # MKL is five times as slow with rows
    return (weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)).t()


def add_linear_(rows: torch.Tensor, inputs: torch.Tensor, affine: Affine) -> torch.Tensor:
    """Add a linear layer's outputs to rows in place: no matrix between, one rounding."""
    weight, bias = affine
    if weight.layout != torch.strided:
        return rows.add_(linear(inputs, weight, bias))
    return rows.add_(bias).addmm_(inputs, weight.t())


def outputs_of(weight: torch.Tensor, first: int, end: int) -> torch.Tensor:
    """Return the rows of a linear layer's weight that give some of its outputs."""
    if weight.layout == torch.strided:
        return weight[first:end]
    places = weight.crow_indices()[first : end + 1]
    inside = slice(int(places[0]), int(places[-1]))
    parts = places - places[0], weight.col_indices()[inside], weight.values()[inside]
    return torch.sparse_csr_tensor(*parts, (end - first, weight.shape[1]), check_invariants=False)


def activation_of(name: str, device: torch.device, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return an activation that may overwrite its argument."""
    if name == "relu":
        return torch.relu_
    if name == "gelu":
        return torch.ops.aten.gelu_
    if device.type == "cpu" and dtype == torch.float32:
        slope = torch.tensor(2 * math.sqrt(2 / math.pi))
        return partial(tanh_gelu_, slope=slope)
    return partial(torch.ops.aten.gelu_, approximate="tanh")


def tanh_gelu_(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """GELU's tanh form in place as x * sigmoid(slope * (x + 0.044715 x^3)); on a CPU twice as fast as torch's own."""
    return x.mul_(torch.addcmul(slope, x, x, value=0.044715 * float(slope)).mul_(x).sigmoid_())


@dataclass(frozen=True)
class Weights:
    """Takes weights by name, checks their shapes and casts them."""

    backbone: Mapping[str, torch.Tensor]
    dtype: torch.dtype
    device: torch.device

    def __call__(self, name: str, *shape: int) -> torch.Tensor:
        if name not in self.backbone:
            raise ValueError(f"the weights lack {name}")
        if tuple(self.backbone[name].shape) != shape:
            raise ValueError(f"{name} has shape {tuple(self.backbone[name].shape)}; the configuration asks for {shape}")
        return self.backbone[name].detach().to(self.device, self.dtype)

    def check_layers(self, count: int) -> None:
        """Raise ValueError if the weights have other layers than so many."""
        found = {int(match[1]) for name in self.backbone if (match := LAYER.match(name))}
        if not count or found != set(range(count)):
            raise ValueError(f"the weights have {len(found)} layers; the configuration asks for {count}")

    def norm(self, name: str, size: int) -> Affine:
        return self(f"{name}.weight", size), self(f"{name}.bias", size)

    def linear(self, name: str, outputs: int, inputs: int) -> Affine:
        return self(f"{name}.weight", outputs, inputs), self(f"{name}.bias", outputs)

    def transposed(self, name: str, outputs: int, inputs: int) -> Affine:
        """A linear layer that is written as (inputs, outputs)."""
        return self(f"{name}.weight", inputs, outputs).t().contiguous(), self(f"{name}.bias", outputs)

    def bert(self, shape: Shape) -> tuple:
        hidden, narrow = shape.hidden, shape.embedding
        words = self("embeddings.word_embeddings.weight", shape.vocabulary, narrow)
        positions = self("embeddings.position_embeddings.weight", shape.positions, narrow)
        types = self("embeddings.token_type_embeddings.weight", shape.types, narrow) if shape.types else None
        project = self.linear("embeddings_project", hidden, narrow) if narrow != hidden else None
        layers = []
        for at in (f"encoder.layer.{number}." for number in range(shape.layers)):
            parts = [self.linear(f"{at}attention.self.{part}", hidden, hidden) for part in ("query", "key", "value")]
            weight, bias = (torch.cat(one) for one in zip(*parts, strict=True))
            layers.append(
                Layer(
                    (weight, bias),
                    self.linear(f"{at}attention.output.dense", hidden, hidden),
                    self.norm(f"{at}attention.output.LayerNorm", hidden),
                    self.linear(f"{at}intermediate.dense", shape.inner, hidden),
                    self.linear(f"{at}output.dense", hidden, shape.inner),
                    self.norm(f"{at}output.LayerNorm", hidden),
                )
            )
        return (words, positions, types), self.norm("embeddings.LayerNorm", narrow), project, layers, None

    def gpt2(self, shape: Shape) -> tuple:
        hidden = shape.hidden
        words, positions = self("wte.weight", shape.vocabulary, hidden), self("wpe.weight", shape.positions, hidden)
        layers = [
            Layer(
                self.transposed(f"{at}attn.c_attn", 3 * hidden, hidden),
                self.transposed(f"{at}attn.c_proj", hidden, hidden),
                self.norm(f"{at}ln_1", hidden),
                self.transposed(f"{at}mlp.c_fc", shape.inner, hidden),
                self.transposed(f"{at}mlp.c_proj", hidden, shape.inner),
                self.norm(f"{at}ln_2", hidden),
            )
            for at in (f"h.{number}." for number in range(shape.layers))
        ]
        return (words, positions, None), None, None, layers, self.norm("ln_f", hidden)
