"""Several processes: which this one is, and gradients that a module averages itself.

DDP expects all weights to have a gradient in each backward pass. The two losses of a GAN leave the other's
network without, and so do frozen layers; to look for such weights (``find_unused_parameters``) costs a walk
over the graph in each pass, and all of both networks is sent twice. What has gradients is known here.
"""

from collections.abc import Iterable
from typing import Any

import lightning
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


def place() -> tuple[int, int]:
    """Return this process's rank and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def share() -> dict[str, Any]:
    """Return `place` as keywords of what draws random numbers for this process alone."""
    rank, world_size = place()
    return {"rank": rank, "world_size": world_size}


def leave_gradients(trainer: lightning.Trainer) -> None:
    """Let DDP leave gradients as they are, as in its ``no_sync``, until `average_gradients`.

    To be said in each training step: Lightning asks for them again after it.
    """
    if isinstance(trainer.strategy.model, DistributedDataParallel):
        trainer.strategy.model.require_backward_grad_sync = False


def average_gradients(parameters: Iterable[nn.Parameter], world_size: int) -> None:
    """Give all processes the mean of their gradients, in one message."""
    if world_size == 1:
        return
    gradients: list[Tensor] = [weight.grad for weight in parameters if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = flat.div_(world_size).split([gradient.numel() for gradient in gradients])
    shaped = [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
    torch._foreach_copy_(gradients, shaped)


def sum_over_processes(values: Tensor, world_size: int) -> Tensor:
    """Return the sum of all processes' values, in place."""
    if world_size > 1:
        distributed.all_reduce(values)
    return values


def broadcast_buffers(module: nn.Module, world_size: int) -> None:
    """Give all processes the first one's buffers, such as BatchNorm's statistics: checkpoints hold those."""
    if world_size > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, 0)
