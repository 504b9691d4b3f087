"""MCC: no two classes are confused on the target.

Jin et al., "Minimum class confusion for versatile domain adaptation", ECCV 2020.
"""

from typing import Any

from torch import Tensor

from rdfia.adaptation.losses import certainty
from rdfia.adaptation.module import AdaptationModule, Seen


def class_confusion(logits: Tensor, temperature: float = 2.5) -> Tensor:
    """Return how much the predictions of logits (B, K) confuse each class with the others, from 0 to 1.

    Args:
        logits: (B, K).
        temperature: Divides the logits: predictions are less certain than they look.
    """
    probabilities = (logits.float() / temperature).softmax(1)
    # Images whose prediction is certain count more.
    confusion = (probabilities * certainty(logits / temperature)[:, None]).T @ probabilities
    confusion = confusion / confusion.sum(1, keepdim=True)
    return 1 - confusion.trace() / len(confusion)


class MCCModule(AdaptationModule):
    """MCC; see `AdaptationModule`.

    Args:
        temperature: See `class_confusion`.
        shared: See `AdaptationModule`.

    Example:
        >>> import torch
        >>> MCCModule(classes=5).eval()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    def __init__(self, *, temperature: float = 2.5, **shared: Any) -> None:
        super().__init__(**shared)
        if not temperature > 0:
            raise ValueError(f"temperature is above 0, got {temperature:g}")
        self.temperature = temperature

    def adaptation_loss(self, source: Seen, target: Seen) -> Tensor:
        """Return the confusion of the target's classes."""
        return class_confusion(target.logits, self.temperature)
