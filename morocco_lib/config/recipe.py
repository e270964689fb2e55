"""Recipes: how a transformer is trained (params/recipes)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from morocco_lib.options import HEADS, LINEAR, POOLINGS, PRECISIONS

Deciding = Literal["mean", "first", "last"]
Share = Annotated[float, Field(ge=0, lt=1)]


class Recipe(BaseModel):
    """A way of training; `tasks` changes it for some tasks.

    Attributes:
        epochs: Passes over the train split at most.
        learning_rate: Its peak; AdamW.
        schedule: What follows the warm-up.
        warmup: Share of all steps in which the learning rate rises.
        batch_size: Examples of a step, on all devices together: a sequence, or a record where its sequences compete.
        accumulation: Steps of a device whose gradients are added up before one update; they divide `batch_size`.
        head: What makes logits of features; others than the kit's own are for three marked spans: see `models.transformer.layers`.
        dropout: Before the kit's own head.
        body_dropout: Of the backbone, attention included; None leaves what its configuration says.
        max_length: Tokens of a sequence.
        pooling: What of a sequence the head reads; None is the first token of encoders and the last of decoders.
        precision: Of the computations; weights and optimizer are fp32.
        eval_every: Updates between two evaluations on val; 0 is once an epoch.
        max_evals: Evaluations after which training ends; 0 is no limit.
        select: The evaluation whose weights are kept: the best, or the last at the end of training.
        select_by: Which of the task's metrics is best: their mean, the first or the last.
        choose_by: The same for the seed that is kept of several.
        patience: Evaluations without a better score after which training ends; 0 is no limit.
        val_records: Records of val that are evaluated, the first ones; 0 is all.
        report_to: Where transformers sends its curves (tensorboard, wandb ...); "none" sends nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: float = Field(default=3, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Share = 0.1
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    batch_size: StrictInt = Field(default=32, ge=1)
    accumulation: StrictInt = Field(default=1, ge=1)
    head: Literal[HEADS] = LINEAR
    dropout: Share = 0.1
    body_dropout: Share | None = None
    max_length: StrictInt = Field(default=256, ge=16)
    pooling: Literal[POOLINGS] | None = None
    precision: Literal[PRECISIONS] = "fp32"
    group_by_length: StrictBool = False
    eval_every: StrictInt = Field(default=0, ge=0)
    max_evals: StrictInt = Field(default=0, ge=0)
    select: Literal["best", "last"] = "best"
    select_by: Deciding = "mean"
    choose_by: Deciding = "mean"
    patience: StrictInt = Field(default=0, ge=0)
    val_records: StrictInt = Field(default=0, ge=0)
    report_to: str = "none"
    tasks: dict[str, dict[str, Any]] = {}

    def of_task(self, task: str) -> "Recipe":
        """Return the recipe for one task; raises pydantic's ValidationError."""
        own = self.model_dump(exclude={"tasks"}) | self.tasks.get(task, {})
        return Recipe.model_validate(own)
