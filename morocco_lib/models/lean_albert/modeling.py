"""RuLeanALBERT: layers with norms and biases of their own over one set of four large matrices.

    x = W (norm(words + types))                          embeddings, narrow at first
    x = x + W_out attention(rotary(W_qkv norm(x)))       each layer, with its own norms, and a bias after every matrix
    x = x + W_down (gelu(a) * b),  [a | b] = W_up norm(x)
    y = norm(x)

x is kept in float32 whatever the weights are: it is a sum of as many terms as there are layers, twice.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, initialization
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput
from transformers.models.albert.modeling_albert import AlbertForPreTrainingOutput, AlbertSOPHead
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from morocco_lib.models.lean_albert.configuration import LeanAlbertConfig

Rotation = tuple[torch.Tensor, torch.Tensor]


def gelu(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


def rotation_of(length: int, size: int, base: float, device: torch.device) -> Rotation:
    """Return cosines and sines, shape (length, size), of the angles by which each place turns a head's pairs."""
    frequencies = base ** -(torch.arange(0, size, 2, device=device) / size)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Return x, shape (..., length, size), with the pairs (k, k + size / 2) turned."""
    cos, sin = rotation
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-right, left], dim=-1) * sin).to(x.dtype)


class LeanAlbertEmbeddings(nn.Module):
    def __init__(self, config: LeanAlbertConfig):
        super().__init__()
        size = config.embedding_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        same = size == config.hidden_size
        self.embedding_hidden_mapping = nn.Identity() if same else nn.Linear(size, config.hidden_size)

    def forward(self, ids: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
        types = torch.zeros_like(ids) if types is None else types
        narrow = self.layer_norm(self.word_embeddings(ids) + self.token_type_embeddings(types))
        return self.embedding_hidden_mapping(self.dropout(narrow))


class LeanAlbertMatrices(nn.Module):
    """The weights that all layers share."""

    def __init__(self, config: LeanAlbertConfig):
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.qkv_weight = nn.Parameter(torch.empty(3 * hidden, hidden))
        self.out_weight = nn.Parameter(torch.empty(hidden, hidden))
        self.up_weight = nn.Parameter(torch.empty(2 * inner, hidden))
        self.down_weight = nn.Parameter(torch.empty(hidden, inner))


class LeanAlbertLayer(GradientCheckpointingLayer):
    """What a layer has of its own."""

    def __init__(self, config: LeanAlbertConfig):
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.heads, self.attention_dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.attention_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.qkv_bias = nn.Parameter(torch.zeros(3 * hidden))
        self.out_bias = nn.Parameter(torch.zeros(hidden))
        self.ffn_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.up_bias = nn.Parameter(torch.zeros(2 * inner))
        self.down_bias = nn.Parameter(torch.zeros(hidden))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, x: torch.Tensor, shared: LeanAlbertMatrices, rotation: Rotation, mask: torch.Tensor | None
    ) -> torch.Tensor:
        x = x + self.dropout(self._attention(normed(x, self.attention_norm), shared, rotation, mask))
        return x + self.dropout(self._feed_forward(normed(x, self.ffn_norm), shared))

    def _attention(self, x, shared, rotation, mask) -> torch.Tensor:
        each = functional.linear(x, shared.qkv_weight, self.qkv_bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = each.permute(2, 0, 3, 1, 4)  # of (sequences, heads, tokens, size) each
        seen = functional.scaled_dot_product_attention(
            rotate(q, rotation), rotate(k, rotation), v, mask, self.attention_dropout if self.training else 0.0
        )
        return functional.linear(seen.transpose(1, 2).flatten(2), shared.out_weight, self.out_bias)

    def _feed_forward(self, x, shared) -> torch.Tensor:
        gate, value = functional.linear(x, shared.up_weight, self.up_bias).chunk(2, dim=-1)
        return functional.linear(gelu(gate) * value, shared.down_weight, self.down_bias)


def normed(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    return norm(x.to(norm.weight.dtype))


class LeanAlbertPooler(nn.Module):
    def __init__(self, config: LeanAlbertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.dense(states[:, 0]).tanh()


class LeanAlbertPredictions(nn.Module):
    """Logits of the hidden words; the decoder's weight is that of the word embeddings."""

    def __init__(self, config: LeanAlbertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.layer_norm = nn.LayerNorm(config.embedding_size)  # with an eps of its own, 1e-5
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.layer_norm(gelu(self.dense(states))))


class LeanAlbertPreTrainedModel(PreTrainedModel):
    config: LeanAlbertConfig
    config_class = LeanAlbertConfig
    base_model_prefix = "albert"
    _input_embed_layer = "word_embeddings"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": LeanAlbertLayer}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        spread = self.config.initializer_range or (2 / (5 * self.config.hidden_size)) ** 0.5
        if isinstance(module, LeanAlbertMatrices | LeanAlbertLayer):
            for name, one in module.named_parameters(recurse=False):
                initialization.zeros_(one) if name.endswith("bias") else initialization.normal_(one, std=spread)
        elif isinstance(module, nn.Linear):
            initialization.normal_(module.weight, std=spread)
            initialization.zeros_(module.bias)
        else:
            super()._init_weights(module)


class LeanAlbertModel(LeanAlbertPreTrainedModel):
    """The backbone.

    Args:
        add_pooling_layer: With the layer over the first token that the sentences' order is read from.
    """

    def __init__(self, config: LeanAlbertConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = LeanAlbertEmbeddings(config)
        self.matrices = LeanAlbertMatrices(config)
        self.layers = nn.ModuleList(LeanAlbertLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = LeanAlbertPooler(config) if add_pooling_layer else None
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Return states; all arguments have the shape (sequences, tokens), the mask is 1 where a token is."""
        config = self.config
        x = self.embeddings(input_ids, token_type_ids).float()
        size = config.hidden_size // config.num_attention_heads
        rotation = rotation_of(input_ids.shape[1], size, config.rotary_embedding_base, input_ids.device)
        mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        for layer in self.layers:
            x = layer(x, self.matrices, rotation, mask)
        states = normed(x, self.norm)
        return BaseModelOutputWithPooling(states, None if self.pooler is None else self.pooler(states))


class LeanAlbertForMaskedLM(LeanAlbertPreTrainedModel):
    """The backbone that tells hidden words."""

    _tied_weights_keys = {"predictions.decoder.weight": "albert.embeddings.word_embeddings.weight"}  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = ["albert.pooler", "sop_classifier"]  # noqa: RUF012

    def __init__(self, config: LeanAlbertConfig, add_pooling_layer: bool = False):
        super().__init__(config)
        self.albert = LeanAlbertModel(config, add_pooling_layer)
        self.predictions = LeanAlbertPredictions(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.predictions.decoder = value

    @can_return_tuple
    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None, **kwargs) -> MaskedLMOutput:
        """Return logits and, of labels (-100 where none is asked for), the loss."""
        found = self.albert(input_ids, attention_mask, token_type_ids, **kwargs)
        logits = self.predictions(found.last_hidden_state)
        loss = None if labels is None else functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return MaskedLMOutput(loss, logits, found.hidden_states)


class LeanAlbertForPreTraining(LeanAlbertForMaskedLM):
    """The backbone that tells hidden words, and whether two texts are swapped (label 1): what was published."""

    _keys_to_ignore_on_load_unexpected = None

    def __init__(self, config: LeanAlbertConfig):
        super().__init__(config, add_pooling_layer=True)
        self.sop_classifier = AlbertSOPHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids, attention_mask=None, token_type_ids=None, labels=None, sentence_order_label=None, **kwargs
    ) -> AlbertForPreTrainingOutput:
        """Return logits and the sum of the losses of what labels are given of."""
        found = self.albert(input_ids, attention_mask, token_type_ids, **kwargs)
        words, order = self.predictions(found.last_hidden_state), self.sop_classifier(found.pooler_output)
        asked = [(words.flatten(0, 1), labels), (order, sentence_order_label)]
        losses = [functional.cross_entropy(one.float(), to.flatten()) for one, to in asked if to is not None]
        return AlbertForPreTrainingOutput(sum(losses) if losses else None, words, order, found.hidden_states)
