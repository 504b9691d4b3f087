"""The gradient reversal of DANN, the schedules of its strength, and the loss of the domain classifier."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from rdfia.adaptation.scores import entropy

Schedule = Literal["ganin", "constant", "linear", "off"]


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, strength: float | Tensor) -> Tensor:
        context.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradient, None


def reverse_gradient(x: Tensor, strength: float | Tensor) -> Tensor:
    """Return ``x`` as it is; its gradient is multiplied by ``-strength`` on the way back.

    Args:
        x: Any shape.
        strength: A number, or a tensor that broadcasts with ``x``; -1 leaves the gradient as it is.
    """
    reversed_: Tensor = _ReverseGradient.apply(x, strength)
    return reversed_


def ganin(progress: float) -> float:
    """Rise from 0 to 1 as ``2 / (1 + exp(-10 p)) - 1``: the domain classifier first learns what it tells."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


# Lambda as a function of progress in [0, 1].
SCHEDULES: dict[Schedule, Callable[[float], float]] = {
    "ganin": ganin,
    "constant": lambda progress: 1.0,
    "linear": lambda progress: progress,
    "off": lambda progress: 0.0,
}


def certainty(logits: Tensor) -> Tensor:
    """Return weights (B,) of mean 1 that fall with the entropy H of a prediction, as 1 + exp(-H).

    Args:
        logits: Of classes (B, K); no gradient flows through them.
    """
    weights = 1 + torch.exp(-entropy(logits.detach().float().softmax(1)))
    return weights / weights.mean()


def domain_loss(
    source_logits: Tensor, target_logits: Tensor, *, weights: Sequence[Tensor | float] = (1.0, 1.0)
) -> Tensor:
    """Return the binary cross-entropy of logits (B,) that are large for target images.

    Args:
        source_logits: (B,).
        target_logits: (B,).
        weights: Of the images of each domain, (B,).
    """
    source, target = functional.softplus(source_logits.float()), functional.softplus(-target_logits.float())
    return ((weights[0] * source).mean() + (weights[1] * target).mean()) / 2


def domain_losses(source_logits: Tensor, target_logits: Tensor, *weights: Tensor) -> dict[str, Tensor]:
    """Return `domain_loss` of logits (B,) that are large for target images, and how often they are right.

    Args:
        source_logits: (B,).
        target_logits: (B,).
        *weights: Those of `domain_loss`, or none.
    """
    right = ((source_logits < 0).float().mean() + (target_logits > 0).float().mean()) / 2
    return {
        "domain_loss": domain_loss(source_logits, target_logits, weights=weights or (1.0, 1.0)),
        "domain_accuracy": right,
    }


def doubt(classes: Tensor) -> Tensor:
    """Return the mean entropy of predictions, of logits (B, K) through which no gradient flows."""
    return entropy(classes.detach().float().softmax(1)).mean()
