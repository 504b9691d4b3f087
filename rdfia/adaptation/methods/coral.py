"""Deep CORAL: the outputs of both domains get the same covariance.

Sun & Saenko, "Deep CORAL: correlation alignment for deep domain adaptation", ECCV workshops 2016.
"""

import torch
from torch import Tensor

from rdfia.adaptation.module import AdaptationModule, Seen


def covariance(values: Tensor) -> Tensor:
    """Return the covariance (F, F) of values (B, F), by B - 1."""
    centred = values - values.mean(0)
    return centred.T @ centred / (len(values) - 1)


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance of the covariances of values (B, F), divided by 4 F²."""
    difference = covariance(source.float()) - covariance(target.float())
    return difference.square().sum() / (4 * source.shape[1] ** 2)


class CORALModule(AdaptationModule):
    """Deep CORAL, on the class logits as in the paper; see `AdaptationModule`.

    Example:
        >>> import torch
        >>> CORALModule(classes=5).eval()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    def compare(
        self, source: Seen, target: Seen, *more: Tensor, strength: float | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted distance of the logits' covariances."""
        with torch.autocast(source.logits.device.type, enabled=False):
            loss = coral_loss(source.logits, target.logits)
        return strength * loss, {"adaptation_loss": loss}
