"""What a RuLeanALBERT is made of; the defaults are the published model's."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from morocco_lib.errors import UsageError

PUBLISHED: dict[str, Any] = {  # what the original makes a choice of, and what alone is built here
    "share_large_matrices": 1, "num_inner_groups": 1, "inner_group_num": 1, "num_inner_matrices": 1,
    "position_embedding_type": "rotary", "hidden_act": "gelu_fused", "hidden_act_gated": True, "sandwich_norm": False,
    "attn_qkv_bias": True, "out_proj_bias": True, "adapter_dim": 0, "lowrank_dim": 0, "block_size": 0, "num_memory_blocks": 0,
}  # fmt: skip


@strict
class LeanAlbertConfig(PreTrainedConfig):
    """Sizes and rates by the names in the published config.json.

    Attributes:
        initializer_range: Of new weights; None is sqrt(2 / (5 x hidden_size)).
    Raises:
        UsageError: it asks for a part that the published model leaves off, or sizes do not fit each other.
    """

    model_type = "lean_albert"

    vocab_size: int = 50005
    embedding_size: int = 128
    hidden_size: int = 4096
    intermediate_size: int = 16384
    num_hidden_layers: int = 32
    num_attention_heads: int = 64
    rotary_embedding_base: int = 10000
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float | None = 0.02
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    classifier_dropout_prob: float | int = 0.1
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | None = 3
    tie_word_embeddings: bool = True

    def __post_init__(self, **others: Any) -> None:
        fixed = {**PUBLISHED, "num_hidden_groups": self.num_hidden_layers, "tie_word_embeddings": True}
        for name, value in fixed.items():
            if (asked := others.get(name, getattr(self, name, value))) not in (value, value or None):
                raise UsageError(
                    f"a lean_albert with {name} {asked!r}", rule=f"the published model is built, with {name} {value!r}",
                    remedy="leave it out, or take a checkpoint without that part",
                )  # fmt: skip
        if self.hidden_size % (2 * self.num_attention_heads):
            raise UsageError(
                f"a lean_albert of width {self.hidden_size} with {self.num_attention_heads} attention heads",
                rule="each takes an equal share, in pairs that are rotated",
            )
        super().__post_init__(**others)
