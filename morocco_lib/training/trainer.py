"""transformers' Trainer as it is used here: scored by the finished model, resumed wherever it was interrupted."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from morocco_lib import fileio
from morocco_lib.errors import InvalidResult
from morocco_lib.training import distributed, heartbeat
from morocco_lib.training.distributed import world
from morocco_lib.training.pretraining.sparsity import Masks

NEWEST = "newest"  # in the folder of checkpoints: the name of the last one that is whole


class KeepZero(TrainerCallback):
    """Sets the weights of a sparse backbone that are off to zero after every update."""

    def __init__(self, masks: Masks):
        self.masks = masks

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        self.masks.apply(model)


class Heartbeat(TrainerCallback):
    """Says that updates follow each other: see `heartbeat`."""

    def __init__(self, work: Path):
        self.work = work

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            (heartbeat.pause if control.should_evaluate else heartbeat.beat)(self.work)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            heartbeat.pause(self.work)

    on_train_begin = on_evaluate = on_step_end


class ScoredTrainer(Trainer):
    """Evaluates val as the finished model would answer it, and stops where a loss is not finite."""

    def __init__(self, *, score, **kwargs):
        super().__init__(**kwargs)
        self._score, self._by_length = score, None

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        self.model.eval()
        scores = self._score(self.accelerator.unwrap_model(self.model))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * world()
        self._by_length = ByLength(batch, self.train_dataset.lengths, self.args.data_seed)
        return self._by_length

    def _run_epoch(self, *, epoch: int, **kwargs) -> None:
        """Train an epoch, unless the checkpoint that is resumed from is of the end: the Trainer would go on from it."""
        if self.state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            self.control.should_training_stop = True
            self.state.best_model_checkpoint = str(self._checkpoint(self.state.best_global_step))  # wherever it is now
            return
        if self._by_length:
            self._by_length.set_epoch(epoch)  # accelerate does not, where several processes skip what is behind them
        super()._run_epoch(epoch=epoch, **kwargs)

    def _save_checkpoint(self, *args) -> None:
        super()._save_checkpoint(*args)
        self.accelerator.wait_for_everyone()  # each has written its random numbers
        if self.args.should_save:
            newest = self._checkpoint(self.state.global_step)
            fileio.write_text(newest.parent / NEWEST, newest.name)
            for folder in set(newest.parent.glob("checkpoint-*")) - {
                newest,
                self._checkpoint(self.state.best_global_step),
            }:
                shutil.rmtree(folder)

    def _checkpoint(self, update: int) -> Path:
        return Path(self.args.output_dir, f"checkpoint-{update}")

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if distributed.any_true(~torch.isfinite(loss)):
            own = f"the loss is {loss.item()}" if not torch.isfinite(loss) else "another process's loss is not finite"
            raise InvalidResult(
                f"{own} at update {self.state.global_step + 1}",
                rule="training continues as long as the loss is finite",
                remedy="lower learning_rate in the recipe, or train in fp32 or bf16 instead of fp16",
            )
        return loss


class ByLength(LengthGroupedSampler):
    """Draws the examples of an update alike in length; which ones depends on seed and epoch alone."""

    def __init__(self, batch_size: int, lengths: Sequence[int], seed: int):
        super().__init__(batch_size, lengths=list(lengths))
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator = torch.Generator().manual_seed(self.seed + epoch)


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that an interrupted attempt left whole."""
    newest = folder / NEWEST
    return str(folder / newest.read_text()) if newest.exists() else None
