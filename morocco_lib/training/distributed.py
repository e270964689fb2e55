"""The processes that torchrun started together, which train one model.

What one of them decides alone would leave the others waiting forever: which seeds an earlier attempt finished, that a loss
is not finite, that a checkpoint may be removed. `accelerate.utils` gathers and broadcasts; in one process it does nothing.
"""

import os
from contextlib import suppress

import accelerate
import torch
from accelerate.utils import reduce


def rank() -> int:
    """Return this process's number; 0 alone."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """Return how many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join() -> None:
    """Make the processes a group, as the Trainer would."""
    accelerate.PartialState(cpu=not torch.cuda.is_available())


def any_true(flag: torch.Tensor) -> bool:
    """Tell whether a flag of one element is set in any process."""
    return bool(reduce(flag.to(torch.int32), "sum"))


def peer_ended(error: BaseException) -> bool:
    """Tell whether an error is torch's of another process that is gone."""
    return world() > 1 and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error))


def leave() -> None:
    """Leave the group; each process ends for itself."""
    with suppress(RuntimeError):
        accelerate.PartialState().destroy_process_group()
