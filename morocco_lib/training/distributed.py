"""The processes that torchrun started together, which train one model; of one process alone nothing here does anything.

What one of them decides alone would leave the others waiting for it for ever: what is known of earlier attempts, that a
loss is no number, that a checkpoint may go.
"""

import os
from contextlib import suppress
from typing import Any

import torch
from torch import distributed


def rank() -> int:
    """Return this process's number; 0 alone."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """Return how many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join() -> None:
    """Make the processes a group, as the Trainer would; once."""
    if world() > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        distributed.init_process_group(None if torch.cuda.is_available() else "gloo")  # None: gloo and NCCL


def broadcast(value: Any) -> Any:
    """Return what the first process gives, to all."""
    if world() == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def gather(value: Any) -> list[Any]:
    """Return what each process gives, by its number."""
    held: list[Any] = [value]
    if world() > 1:
        held *= world()
        distributed.all_gather_object(held, value)
    return held


def any_true(flag: torch.Tensor) -> bool:
    """Tell whether a flag of one element is set in any process."""
    if world() > 1:
        flag = flag.to(torch.int32)
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def barrier() -> None:
    """Return when all have come here."""
    if world() > 1:
        distributed.barrier()


def peer_ended(error: BaseException) -> bool:
    """Tell whether an error is torch's of another process that is gone."""
    return world() > 1 and (isinstance(error, distributed.DistError) or "gloo" in str(error))


def leave() -> None:
    """Leave the group; each process ends for itself."""
    if distributed.is_available() and distributed.is_initialized():
        with suppress(RuntimeError):
            distributed.destroy_process_group()
