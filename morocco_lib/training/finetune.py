"""Fine-tunes a transformer on one task with transformers' Trainer, seed by seed; the weights of the best evaluation on val, or of the last, are kept.

Run by torchrun the processes share each step's examples: the same ones as a single process would take. The first one
alone writes. Test records are never read.
"""

import json
import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from accelerate.utils import gather_object
from tokenizers import Tokenizer
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from morocco_lib.config.recipe import Recipe
from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError
from morocco_lib.models.transformer.heads import Head, head_of
from morocco_lib.models.transformer.inputs import Reader
from morocco_lib.models.transformer.layers import layers_of
from morocco_lib.models.transformer.model import Transformer, device_of, out_of_memory
from morocco_lib.models.transformer.padded import positions_of
from morocco_lib.models.transformer.pooling import pad, pool
from morocco_lib.models.transformer.sequences import EncodedSequence
from morocco_lib.options import LINEAR, Options
from morocco_lib.tasks.base import Task, deciding_value
from morocco_lib.tasks.jsonl import Record
from morocco_lib.training import distributed
from morocco_lib.training.backbones import Backbone
from morocco_lib.training.distributed import world
from morocco_lib.training.trainer import Heartbeat, KeepZero, ScoredTrainer, last_checkpoint


@dataclass(frozen=True)
class Example:
    """What is learnt from at once: a sequence, or the sequences of a record that compete. `number` names it."""

    number: int
    sequences: list[EncodedSequence]
    targets: list[float]


@dataclass
class Fitted:
    """What `models.weights.save` takes of a transformer: see `Transformer`."""

    kind: ClassVar[str] = "transformer"

    values: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    tokenizer_text: str

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.values, {name: tensor.numpy() for name, tensor in self.tensors.items()}


class Net(nn.Module):
    """Backbone (`body` in the names of the weights) and the head's layers."""

    def __init__(self, backbone: nn.Module, head: Head, pooling: str, dropout: float, name: str = LINEAR):
        super().__init__()
        self.body, self.pooling, self._loss = backbone, pooling, head.loss
        self.head = layers_of(name, head)(head, backbone.config.hidden_size, dropout, backbone)

    def forward(self, inputs: dict, spans: torch.Tensor, targets: torch.Tensor, sizes: list[int]) -> dict:
        hidden = self.body(**inputs).last_hidden_state
        features = pool(hidden, inputs["attention_mask"], self.pooling, spans)
        logits = self.head(features)
        return {"loss": self._loss(logits, targets, sizes), "logits": logits}


def collate(examples: Sequence[Example], padding: int, segments: bool) -> dict[str, Any]:
    """Return the arguments of `Net.forward` for examples, padded to the longest sequence."""
    inputs, spans = pad([one for example in examples for one in example.sequences], padding, segments)
    return {
        "inputs": inputs,
        "spans": spans,
        "targets": torch.tensor([target for example in examples for target in example.targets]),
        "sizes": [len(example.sequences) for example in examples],
    }


class Examples(Sequence):
    """What can be learnt from labelled records, in their order.

    Where all sequences of a record compete, which may be dozens of passages, they are encoded again whenever the record
    is drawn: then memory grows with the records' own text alone.

    Attributes:
        lengths: Tokens of each example.
        sequences, truncated: Of all of them.
    """

    def __init__(self, task: Task, head: Head, reader: Reader, records: Sequence[Record]):
        self._task, self._reader, self._records = task, reader, records if head.together else []
        self._kept: list[Example] = []
        self.lengths, self.sequences = array("q"), 0
        for first in range(0, len(records), 1000):
            some = records[first : first + 1000]
            for record, sequences in zip(some, reader([task.parts(r) for r in some]), strict=True):
                self.sequences += len(sequences)
                if head.together:
                    self.lengths.append(sum(len(one.ids) for one in sequences))
                    continue
                for one, target in zip(sequences, task.targets(record), strict=True):
                    self._kept.append(Example(len(self._kept), [one], [target]))
                    self.lengths.append(len(one.ids))
        self.truncated = reader.truncated

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Example:
        if not self._records:
            return self._kept[number]
        record = self._records[number]
        (sequences,) = self._reader([self._task.parts(record)])
        return Example(number, sequences, self._task.targets(record))


def values_of(backbone: Backbone, task: Task, pooling: str, max_length: int, head: str = LINEAR) -> dict[str, Any]:
    """Return what a weights folder says of a model; `max_length` is bounded by the backbone's positions."""
    config = backbone.model.config
    return {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "pooling": pooling,
        "max_length": min(max_length, positions_of(backbone.model)),
        "template": {name: list(ids) for name, ids in vars(backbone.template).items()},
        "labels": [str(label) for label in task.labels],
        **({"head": head} if head != LINEAR else {}),
    }


def check_reporting(name: str) -> None:
    """Refuse a `report_to` that transformers does not know or that is not installed."""
    try:
        for one in get_reporting_integration_callbacks(name):
            one()
    except ValueError as error:
        raise UsageError(f"report_to: {error}", remedy="name one of these, or none") from None
    except (RuntimeError, ImportError) as error:
        raise EnvironmentFailure(
            f"report_to {name}: {error}", remedy=f"run `pip install {name}`, or take report_to: none"
        ) from None


class Fit:
    """Training of one backbone on one task with one recipe.

    Args:
        make_backbone: Called for every seed with it.
        recipe: Already the task's own: see `Recipe.of_task`.
        work: Folder for checkpoints; what an earlier attempt left there is resumed from.
        say: Called with progress messages.
        callbacks: Further ones of the Trainer.
        backend: What several processes exchange gradients by; None is what suits the device.
    """

    def __init__(
        self, make_backbone, task: Task, recipe: Recipe, train: list[Record], val: list[Record], work: Path, say,
        callbacks: Sequence[TrainerCallback] = (), backend: str | None = None,
    ):  # fmt: skip
        if recipe.batch_size % (world() * recipe.accumulation):
            raise UsageError(
                f"a batch of {recipe.batch_size} cannot be shared by {world()} processes x {recipe.accumulation} accumulated steps",
                rule="batch_size is of all devices together",
                remedy="choose a multiple",
            )
        check_reporting(recipe.report_to)
        layers_of(recipe.head, head_of(task))
        self.make_backbone, self.task, self.recipe, self.work, self.say = make_backbone, task, recipe, work, say
        self.train, self.val = train, val[: recipe.val_records or None]
        self.callbacks, self.backend = callbacks, backend

    def seed(self, seed: int) -> tuple[Fitted, dict[str, Any]]:
        """Train with one seed.

        Returns:
            The model at the evaluation that was kept, and of it for `train.json`: `score` of val, by which seeds are compared;
            the task's `metrics` of val; `looks`, (update, score by which evaluations are compared) of each; `updates`;
            `sequences` and `truncated` of the train split; `batch_size`, examples computed with at once.
        Raises:
            InvalidResult: the loss was not finite.
            EnvironmentFailure: not even one example at a time fits into memory; of several processes, one's share does
                not, or one has ended.
        """
        recipe = self.recipe
        batch, accumulation = recipe.batch_size // (world() * recipe.accumulation), recipe.accumulation
        while True:
            try:
                return self._attempt(seed, batch, accumulation)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if distributed.peer_ended(error):
                    raise EnvironmentFailure(
                        "another of the processes has ended", rule="all train to the end", remedy="read its messages"
                    ) from None
                if not out_of_memory(error):
                    raise
                if batch == 1 or batch % 2 or world() > 1:
                    raise EnvironmentFailure(
                        f"out of memory with {batch} examples at once",
                        remedy="raise accumulation, or lower batch_size or max_length in the recipe",
                    ) from None
            batch, accumulation = batch // 2, accumulation * 2
            self.say(f"out of memory; continuing with {batch} examples at once, {accumulation} times an update")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _attempt(self, seed: int, batch: int, accumulation: int) -> tuple[Fitted, dict[str, Any]]:
        transformers.set_seed(seed)
        recipe, backbone = self.recipe, self.make_backbone(seed)
        config = backbone.model.config
        pooling = recipe.pooling or ("last" if backbone.causal else "first")
        head = head_of(self.task)
        transformers.set_seed(seed)  # making the backbone drew as many random numbers as it has weights
        net = Net(backbone.model, head, pooling, recipe.dropout, recipe.head)
        values = values_of(backbone, self.task, pooling, recipe.max_length, recipe.head)
        try:
            pieces, causal = Tokenizer.from_str(backbone.tokenizer), backbone.causal
            reader = Reader(pieces, backbone.template, values["max_length"], causal, net.head.mark)
        except ValueError as error:
            raise UsageError(f"{backbone.source}: {error}", remedy="a model that reads longer texts") from None
        data = Examples(self.task, head, reader, self.train)
        trainer = ScoredTrainer(
            model=net,
            args=self._arguments(seed, batch, accumulation, len(data)),
            data_collator=partial(
                collate, padding=config.pad_token_id or 0, segments=getattr(config, "type_vocab_size", 0) > 1
            ),
            train_dataset=data,
            eval_dataset=[data[0]],  # required by the Trainer; `evaluate` reads val
            callbacks=[
                *([EarlyStoppingCallback(recipe.patience)] if recipe.patience else []),
                *([KeepZero(backbone.masks)] if backbone.masks else []),
                Heartbeat(self.work),
                *self.callbacks,
            ],
            score=lambda net: self._score(Transformer(self.task, values, net.state_dict(), backbone.tokenizer)),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train(resume_from_checkpoint=last_checkpoint(self._place(seed)))
        # Of an interrupted attempt, too.
        evaluations = [one for one in trainer.state.log_history if "eval_score" in one]
        kept = evaluations[-1] if recipe.select == "last" else max(evaluations, key=lambda one: one["eval_score"])
        metrics = {name: kept[f"eval_{name}"] for name in self.task.metric_names}
        weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
        fitted = Fitted(values, {name: tensor.float().cpu() for name, tensor in weights.items()}, backbone.tokenizer)
        return fitted, {
            "score": deciding_value(self.task, metrics, recipe.choose_by),
            "metrics": metrics,
            "looks": [(one["step"], one["eval_score"]) for one in evaluations],
            "updates": trainer.state.global_step,
            "sequences": data.sequences,
            "truncated": data.truncated,
            "batch_size": batch,
        }

    def _place(self, seed: int) -> Path:
        return self.work / f"seed-{seed}"

    def _arguments(self, seed: int, batch: int, accumulation: int, examples: int) -> TrainingArguments:
        recipe = self.recipe
        each = batch * accumulation * world()
        an_epoch = max(examples // each, 1)
        updates = math.ceil(an_epoch * recipe.epochs)
        every = min(recipe.eval_every or an_epoch, updates)
        if recipe.max_evals:
            updates = min(updates, every * recipe.max_evals)
        return TrainingArguments(
            output_dir=str(self._place(seed)),
            max_steps=updates,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            dataloader_drop_last=examples >= each,  # all batches alike, however many processes share one
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.schedule if recipe.schedule != "constant" else "constant_with_warmup",
            warmup_steps=round(recipe.warmup * updates),
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
            bf16=recipe.precision == "bf16",
            fp16=recipe.precision == "fp16",
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            load_best_model_at_end=recipe.select == "best",
            metric_for_best_model="score",
            greater_is_better=True,
            restore_callback_states_from_checkpoint=True,  # how long the score has not risen, for one
            logging_strategy="steps",
            logging_steps=max(every // 10, 1),
            logging_nan_inf_filter=False,
            report_to=recipe.report_to,
            seed=seed,
            data_seed=seed,
            train_sampling_strategy="group_by_length" if recipe.group_by_length else "random",
            use_cpu=device_of(Options()).type == "cpu",
            ddp_backend=self.backend or ("gloo" if world() > 1 and not torch.cuda.is_available() else None),
            disable_tqdm=not (sys.stderr and sys.stderr.isatty()),
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        )

    def _score(self, model: Transformer) -> dict[str, float]:
        """Return the task's metrics of val, and as `score` what evaluations are compared by; the processes answer a share each."""
        answered: list[Any] = [None] * len(self.val)
        try:
            mine: Any = model.answer(self.val[distributed.rank() :: world()])
        except InvalidResult as error:
            mine = error  # all processes are to know
        for number, share in enumerate(gather_object([mine])):
            if isinstance(share, InvalidResult):
                raise share
            answered[number :: world()] = share
        gold = [self.task.gold(record) for record in self.val]
        scores = self.task.score(gold, answered)
        metrics = {name: scores[name] for name in self.task.metric_names}
        return {"score": deciding_value(self.task, metrics, self.recipe.select_by), **metrics}
