"""The loop: sequences in an order that the seed decides, one update a step, evaluations, checkpoints to go on from.

An update is the same whatever number of processes and passes shares it: the loss is a sum over the tokens to be told of all of
them, divided by their number. Run by torchrun the first process alone writes.
"""

import ctypes
import math
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate.utils import gather_object
from torch import nn
from torch.nn import functional

from morocco_lib.config.pretraining import RANGE_TEST, PretrainRecipe
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.training import heartbeat
from morocco_lib.training.distributed import rank, world
from morocco_lib.training.pretraining import distill, lamb, schedules, sparsity
from morocco_lib.training.pretraining.corpus import Sequences
from morocco_lib.training.pretraining.masking import Batch, Masker
from morocco_lib.training.pretraining.sparsity import Masks

CHECKPOINT = "checkpoint.pt"
EVALUATED = 64  # sequences computed with at once
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def keep_freed_memory() -> None:
    """Let the C library keep what is freed: fetching logits anew from the system takes a fifth of an update on a CPU."""
    with suppress(AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        if libc.mallopt(M_MMAP_THRESHOLD, 2**30):  # refused by an older one
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class Net(nn.Module):
    """A masked language model that computes logits of the tokens to be told alone.

    Args:
        order: Whether it tells which pairs of texts are swapped, too.
    """

    def __init__(self, model: transformers.PreTrainedModel, order: bool = False):
        super().__init__()
        heads = (getattr(model, name, None) for name in ("cls", "lm_head", "predictions"))
        self.model, self.head, self.order = model, next(head for head in heads if head is not None), order

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return logits, shapes (tokens to be told, vocabulary) and, of the order, (sequences, 2)."""
        types = {"token_type_ids": batch.types} if self.order else {}
        found = self.model.base_model(input_ids=batch.ids, attention_mask=batch.attention, **types)
        order = self.model.sop_classifier(found.pooler_output) if self.order else None
        return self.head(found.last_hidden_state[batch.hidden]), order


@dataclass
class Progress:
    """Where a training is: updates done, and what was seen at evaluations."""

    step: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    hidden: int = 0  # tokens told so far, and all tokens that were not padding
    tokens: int = 0


class Pretraining:
    """Pre-training of one model.

    Args:
        model: With random weights, or those to go on from.
        train, val: See `corpus.encode`.
        folder: Gets checkpoints; what an interrupted attempt left there is gone on from.
        teacher: For `recipe.distill`.
        say: Called with progress messages.
    """

    def __init__(
        self,
        recipe: PretrainRecipe,
        model: transformers.PreTrainedModel,
        masker: Masker,
        train: Sequences,
        val: Sequences,
        folder: Path,
        *,
        seed: int,
        teacher: transformers.PreTrainedModel | None = None,
        say=lambda text: None,
    ):
        if recipe.batch_size % (world() * recipe.accumulation):
            raise UsageError(
                f"a batch of {recipe.batch_size} cannot be shared by {world()} processes x {recipe.accumulation} passes",
                rule="batch_size is of all devices together", remedy="choose a multiple",
            )  # fmt: skip
        self.recipe, self.masker, self.train, self.val, self.folder, self.seed, self.say = (
            recipe, masker, train, val, Path(folder), seed, say
        )  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        )
        self.model, self.net = model, Net(model, recipe.sentence_order).to(self.device)
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        self.teacher = Net(teacher).to(self.device).eval().requires_grad_(False) if teacher else None
        self.progress = Progress()
        self._epoch: tuple[int, np.ndarray] = -1, np.empty(0, int)
        self.masks = self._first_masks()
        self.optimizer = self.make_optimizer(self.groups(self.model))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.wrapped = nn.parallel.DistributedDataParallel(self.net) if world() > 1 else self.net

    # -- what is set up once -------------------------------------------------------------------------------------
    def _first_masks(self) -> Masks | None:
        recipe = self.recipe
        if recipe.gradual:
            return Masks.dense(self.model, recipe.gradual.what)
        if not (given := recipe.sparsity):
            return None
        level = given.level
        if given.weights_on is not None:
            level = sparsity.level_for(given.weights_on, self.model.base_model, given.what)
        masks = Masks.drawn(self.model, given.what, level, self.seed)
        masks.apply(self.model)
        return masks

    def groups(self, model: nn.Module) -> list[dict]:
        """Return a model's weights, those that decay and those (biases, norms) that do not."""
        parameters = list(model.parameters())
        return [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]

    def make_optimizer(self, groups) -> torch.optim.Optimizer:
        """Return the recipe's optimiser of groups of weights."""
        recipe = self.recipe
        settings = {"lr": recipe.learning_rate, "betas": recipe.betas, "eps": recipe.eps}
        if recipe.optimizer == "adamw":
            return torch.optim.AdamW(groups, **settings, fused=True)
        reason = lamb.why_not_8_bits(self.device) if recipe.optimizer == "lamb_8bit" else ""
        if reason:
            self.say(f"LAMB keeps its moments in 32 bits: {reason}")
        return lamb.Lamb(groups, **settings, eight_bits=recipe.optimizer == "lamb_8bit" and not reason)

    # -- one update ----------------------------------------------------------------------------------------------
    def run(self) -> Progress:
        """Train to the last update.

        A range test ends where the loss has diverged.

        Raises:
            InvalidResult: a loss is not finite.
        """
        recipe = self.recipe
        keep_freed_memory()
        torch.manual_seed(self.seed * 1009 + rank())
        self._resume()
        began = time.monotonic()
        while self.progress.step < recipe.steps:
            self._beat()
            try:
                loss = self._update(self.progress.step)
            except InvalidResult:
                if recipe.schedule == RANGE_TEST and self.progress.evaluations:
                    break
                raise
            self.progress.step += 1
            step, last = self.progress.step, self.progress.step == recipe.steps
            if last or (recipe.eval_every and step % recipe.eval_every == 0):
                found = self.evaluate()
                self.progress.evaluations.append(
                    {
                        "step": step,
                        "train_loss": loss,
                        "seconds": time.monotonic() - began,
                        "learning_rate": self.optimizer.param_groups[0]["lr"],
                        **found,
                    }
                )
                self.say(
                    f"update {step} of {recipe.steps}: loss {found['loss']:.4f}, perplexity {found['perplexity']:.2f}"
                )
            if last or (recipe.save_every and step % recipe.save_every == 0):
                self.save()
            if recipe.schedule == RANGE_TEST and schedules.has_diverged(self.progress.evaluations):
                break
        if rank() == 0:
            heartbeat.pause(self.folder)
        return self.progress

    def _beat(self) -> None:
        if rank() == 0:
            heartbeat.beat(self.folder)

    def _update(self, step: int) -> float:
        """Make one update; returns the mean loss over its tokens."""
        recipe = self.recipe
        self._set_rate(step)
        self.wrapped.train()
        passes = [batch.to(self.device) for batch in self._batches(step)]
        told = torch.tensor([sum(len(batch.labels) for batch in passes), sum(int(b.attention.sum()) for b in passes)])
        told = self._summed(told)
        self.progress.hidden, self.progress.tokens = (
            self.progress.hidden + int(told[0]),
            self.progress.tokens + int(told[1]),
        )
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for place, batch in enumerate(passes):
            shared = place == len(passes) - 1 or world() == 1
            with nullcontext() if shared else self.wrapped.no_sync():
                loss = self.loss(batch, step, int(told[0]) / recipe.batch_size)
                self.scaler.scale(loss * (world() / told[0].item())).backward()
            total += loss.detach().double()
        mean = self._summed(total).item() / told[0].item()
        if not math.isfinite(mean):
            raise InvalidResult(
                f"the loss is {mean} at update {step + 1}", rule="training continues as long as the loss is finite",
                remedy="lower learning_rate, or train in fp32 or bf16",
            )  # fmt: skip
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.net.parameters(), recipe.max_grad_norm)
        self._move_masks(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.masks:
            self.masks.apply(self.model)
        return mean

    def factor(self, step: int) -> float:
        """Return the share of its peak that the learning rate is at an update."""
        recipe = self.recipe
        if recipe.schedule == schedules.ONE_CYCLE:
            return schedules.one_cycle(step, recipe.steps, recipe.rise)
        if recipe.schedule == RANGE_TEST:
            return schedules.range_test(step, recipe.steps, recipe.lowest / recipe.learning_rate)
        return schedules.linear(step, recipe.steps, recipe.warmup, recipe.idle, recipe.floor)

    def _set_rate(self, step: int) -> None:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * self.factor(step)
            if recipe.schedule == schedules.ONE_CYCLE:
                group["betas"] = (schedules.one_cycle_beta(step, recipe.steps, recipe.rise), group["betas"][1])

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (sequence numbers, places in the endless stream of epochs) of an update, whoever computes them."""
        stream = np.arange(step * self.recipe.batch_size, (step + 1) * self.recipe.batch_size)
        numbers = np.empty_like(stream)
        for epoch in np.unique(stream // len(self.train)):
            inside = stream // len(self.train) == epoch
            numbers[inside] = self._order(int(epoch))[stream[inside] % len(self.train)]
        return numbers, stream

    def _order(self, epoch: int) -> np.ndarray:
        """Return the numbers of all sequences as an epoch has them: seconds for millions, so the last one is kept."""
        if self._epoch[0] != epoch:
            self._epoch = epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.train))
        return self._epoch[1]

    def _batches(self, step: int) -> list[Batch]:
        """Return this process's share of an update, pass by pass."""
        numbers, stream = (values[rank() :: world()] for values in self.places(step))
        parts = zip(
            np.split(numbers, self.recipe.accumulation), np.split(stream, self.recipe.accumulation), strict=True
        )
        return [self.masker(self.train.part(n), s, self.seed) for n, s in parts]

    def loss(self, batch: Batch, step: int, told: float) -> torch.Tensor:
        """Return the loss summed over the tokens to be told; that of a pair's order counts as so many."""
        with self._autocast():
            logits, order = self.wrapped(batch)
        if order is not None:
            order = functional.cross_entropy(order.float(), batch.swapped, reduction="sum") * told
        if not self.recipe.distill:
            words = functional.cross_entropy(logits.float(), batch.labels, reduction="sum")
            return words if order is None else words + order
        with self._autocast(), torch.no_grad():
            teacher, _ = self.teacher(batch)
        factor, temperature = (
            distill.between(*ends, step, self.recipe.steps)
            for ends in (self.recipe.distill.factor, self.recipe.distill.temperature)
        )
        return distill.loss(logits, teacher, batch.labels, factor, temperature)

    def _autocast(self):
        dtype = DTYPES.get(self.recipe.precision)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def _move_masks(self, step: int) -> None:
        """RigL and gradual pruning, once an update, by the gradient of that update's own batch."""
        rigl, gradual = self.recipe.rigl, self.recipe.gradual
        if rigl and step % rigl.every == 0:
            share = sparsity.rigl_share(step, self.recipe.steps, rigl.share, rigl.every)
            self.masks.regrow(self.model, share)
        elif gradual and (step % gradual.every == 0 or step + 1 == self.recipe.steps):
            may = sum(mask.numel() for mask in self.masks.on.values())
            self.masks.prune_to(
                self.model, sparsity.gradual_on(step + 1, self.recipe.steps, may, round((1 - gradual.level) * may))
            )

    def _summed(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes."""
        if world() == 1:
            return value
        value = value.to(self.device)
        torch.distributed.all_reduce(value)
        return value

    # -- evaluation ----------------------------------------------------------------------------------------------
    def evaluate(self) -> dict[str, float]:
        """Return loss and perplexity of the validation sequences: over all their hidden tokens, which are the same each time."""
        self.wrapped.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        mine = np.arange(len(self.val))[rank() :: world()]
        with torch.inference_mode(), self._autocast():
            for first in range(0, len(mine), EVALUATED):
                self._beat()
                some = mine[first : first + EVALUATED]
                batch = self.masker(self.val.part(some), some, 0).to(self.device)
                logits, order = self.net(batch)
                losses = functional.cross_entropy(logits.float(), batch.labels, reduction="none")
                sums[0] += losses.double().sum().cpu()
                sums[1] += len(batch.labels)
                if order is not None:
                    sums[2] += (order.argmax(1) == batch.swapped).sum().cpu()
        total, count, right = self._summed(sums).tolist()
        found = {"loss": total / count, "perplexity": math.exp(min(total / count, 700.0)), "tokens": int(count)}
        return {**found, "order_accuracy": right / len(self.val)} if self.net.order else found

    # -- checkpoints ---------------------------------------------------------------------------------------------
    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}

    def save(self) -> None:
        """Write a checkpoint beside the last one, then take its place."""
        rngs = gather_object([torch.get_rng_state()]) if world() > 1 else [torch.get_rng_state()]
        if rank() > 0:
            return
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"rngs": rngs, "masks": self.masks and self.masks.on, "progress": vars(self.progress)}
        new = self.folder / f"{CHECKPOINT}.new"
        torch.save(state, new)
        new.rename(self.folder / CHECKPOINT)

    def _resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not (place := self.folder / CHECKPOINT).is_file():
            return
        state = torch.load(place, map_location="cpu", weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.progress = Progress(**state["progress"])
        if self.masks:
            self.masks = Masks(state["masks"])
        torch.set_rng_state(state["rngs"][rank()])
        self.say(f"going on after update {self.progress.step}")
