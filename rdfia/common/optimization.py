"""What several techniques train with: falling rates, averaged weights."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

Decay = Literal["none", "ganin", "linear", "cosine"]


def lr_factor(progress: float, decay: Decay) -> float:
    """Return what the learning rate is multiplied with at ``progress`` in [0, 1].

    ``ganin`` is ``(1 + 10 p) ** -0.75``; ``linear`` keeps the rate for the first half, then falls to 0 at the
    end along a line; ``cosine`` falls to 0 from the start on.
    """
    if decay == "ganin":
        return math.pow(1 + 10 * progress, -0.75)
    if decay == "linear":
        return min(1.0, 2 * (1 - progress))
    return (1 + math.cos(math.pi * progress)) / 2 if decay == "cosine" else 1.0


def set_lr(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all that an optimizer trains; in place where it is a tensor.

    A group of parameters that has a ``factor`` gets that times the rate.
    """
    for group in optimizer.param_groups:
        own = rate * group.get("factor", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def average_weight(decay: float, step: int) -> float:
    """Return how far an average moves towards the weights after a step: 1 minus its decay.

    The decay rises to ``decay`` as ``(1 + step) / (10 + step)``, so that the random weights of the first
    steps are soon forgotten.
    """
    return 1 - min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, weight: float | Tensor) -> None:
    """Move ``average``'s parameters to ``model``'s by ``weight``, see `average_weight`; copy its buffers.

    Without the buffers the average would normalise with the statistics of the first steps.
    """
    kept: list[Tensor] = list(average.parameters())
    current: list[Tensor] = list(model.parameters())
    if isinstance(weight, Tensor):
        change = torch._foreach_sub(current, kept)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(kept, change)
    else:
        torch._foreach_lerp_(kept, current, weight)
    if buffers := list(average.buffers()):  # there is BatchNorm
        torch._foreach_copy_(buffers, list(model.buffers()))
