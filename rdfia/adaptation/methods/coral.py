"""Deep CORAL: the outputs of both domains get the same covariance.

Sun & Saenko, "Deep CORAL: correlation alignment for deep domain adaptation", ECCV workshops 2016.
"""

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

    def adaptation_loss(self, source: Seen, target: Seen) -> Tensor:
        """Return the distance of the logits' covariances."""
        return coral_loss(source.logits, target.logits)
