"""Recipes of pre-training (params/pretraining): a model, what hides, how it learns. One may extend another."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from morocco_lib.config.schema import Count, CountOrFound, Schema, extended, read_yaml, validate
from morocco_lib.errors import UsageError
from morocco_lib.options import PRECISIONS

RANGE_TEST = "range_test"
Share = Annotated[float, Field(ge=0, lt=1)]
ABOVE_0 = Annotated[float, Field(gt=0)]
SIZES = "num_attention_heads", "num_hidden_layers", "hidden_size", "intermediate_size", "max_position_embeddings"
SHAPES = {  # heads, layers, hidden, feed-forward, positions of BERT: 4.12 M, 10.6 M, 27.5 M and 108 M weights
    "tiny": (2, 2, 128, 512, 128),
    "mini": (4, 4, 256, 1024, 128),
    "small": (8, 4, 512, 2048, 128),
    "base": (12, 12, 768, 3072, 512),
}


class Sparsity(Schema):
    """Weights that are off; see `training.pretraining.sparsity`.

    Attributes:
        level: Share of each row that is off, or one for each weight by its name in the backbone.
        weights_on: Instead of it: about how many weights of the backbone are on, dense ones included.
    """

    level: Share | dict[str, Share] | None = None
    weights_on: Count | None = None
    what: Literal["encoder", "feed_forward", "fully"] = "fully"

    @model_validator(mode="after")
    def _fits(self) -> "Sparsity":
        if (self.level is None) == (self.weights_on is None):
            raise ValueError("sparsity has either level or weights_on")
        return self


class RigL(Schema):
    """Every so many updates a share of the weights on is moved, less and less."""

    share: Share = 0.3
    every: Count = 100


class Gradual(Schema):
    """Pruning by magnitude from dense to a share of all weights off, every so many updates."""

    level: Share
    every: Count = 100
    what: Literal["encoder", "feed_forward", "fully"] = "fully"


class Distill(Schema):
    """A teacher with the same tokenizer; factor and temperature move in a straight line from the first to the second."""

    teacher: str
    factor: tuple[float, float] = (1.0, 1.0)
    temperature: tuple[ABOVE_0, ABOVE_0] = (1.0, 1.0)


class PretrainRecipe(Schema):
    """A way of pre-training.

    Attributes:
        model: A shape by name, or settings of a BERT's configuration.
        vocabulary: Tokens of a tokenizer that is trained on the corpus, where none is given.
        length: Tokens of a sequence.
        by_line: A document a sequence, instead of concatenated and cut ones.
        sentence_order: A sequence is two neighbouring texts, and whether they are swapped is to be told, too.
        masked, whole_words: Share of tokens to be told, and whether all pieces of a word are.
        validation: Share of the sequences that is held back, the first ones.
        batch_size: Sequences of an update, on all devices together; accumulation: passes that share one.
        optimizer: lamb_8bit keeps its moments in 8 bits where bitsandbytes runs, else in 32, and that is said.
        learning_rate: Its peak.
        schedule: range_test: from `lowest` to the peak, to find how high it may be; leaves no model.
        idle, warmup, floor: Of a linear schedule: updates at rate 0, updates until the peak, and the least share of it
            thereafter; rise: share of one cycle.
        gradient_checkpointing: Compute states again on the way back instead of keeping them: slower, and far less memory.
        eval_every, save_every: Updates; 0: at the end alone.
    """

    model: Literal["tiny", "mini", "small", "base"] | dict[str, Any] = "tiny"
    vocabulary: Count = 28996
    length: Annotated[StrictInt, Field(ge=8)] = 128
    by_line: StrictBool = False
    sentence_order: StrictBool = False
    masked: Annotated[float, Field(gt=0, lt=1)] = 0.15
    whole_words: StrictBool = True
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.05
    steps: Count = 100_000
    batch_size: Count = 256
    accumulation: Count = 1
    optimizer: Literal["adamw", "lamb", "lamb_8bit"] = "adamw"
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: ABOVE_0 = 1e-8
    learning_rate: ABOVE_0 = 1e-4
    schedule: Literal["linear", "one_cycle", RANGE_TEST] = "linear"
    lowest: ABOVE_0 = 1e-6
    idle: CountOrFound = 0
    warmup: CountOrFound = 2000
    floor: Share = 0.0
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: ABOVE_0 = 1.0
    dropout: Share = 0.1
    precision: Literal[PRECISIONS] = "fp32"
    gradient_checkpointing: StrictBool = False
    sparsity: Sparsity | None = None
    rigl: RigL | None = None
    gradual: Gradual | None = None
    distill: Distill | None = None
    eval_every: CountOrFound = 0
    save_every: CountOrFound = 5000

    @model_validator(mode="after")
    def _fits(self) -> "PretrainRecipe":
        if self.sentence_order and self.by_line:
            raise ValueError("sentence_order makes sequences of its own: leave by_line out")
        if self.rigl and not self.sparsity:
            raise ValueError("rigl moves the weights of a sparse model: give sparsity")
        if self.gradual and self.sparsity:
            raise ValueError("gradual pruning begins dense: leave sparsity out")
        if self.batch_size % self.accumulation:
            raise ValueError("accumulation divides batch_size")
        if self.schedule == RANGE_TEST and (self.eval_every != 1 or self.lowest >= self.learning_rate):
            raise ValueError(
                "a range test evaluates each update (eval_every: 1), and begins below learning_rate (lowest)"
            )
        return self


def load_pretraining(name: str, root: Path | None) -> PretrainRecipe:
    """Return params/pretraining/<name>.yaml, or the recipe of a file, with all that it extends.

    Raises:
        UsageError: missing, unknown or impossible, or it extends itself.
    """
    return validate(PretrainRecipe, extended({"extends": name}, lambda one: read_pretraining(one, root)), name)


def read_pretraining(name: str, root: Path | None) -> dict[str, Any]:
    """Return what params/pretraining/<name>.yaml, or a file, holds, and nothing that it extends; raises UsageError."""
    folder = (root or Path()) / "params/pretraining"
    path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise UsageError(f"no recipe {name!r}", rule=f"recipes in {folder}: {known}")
    return read_yaml(path).get("pretraining") or {}
