"""Information maximisation: predictions on the target are certain, and all classes occur.

Gomes et al., NeurIPS 2010; as in SHOT-IM (Liang et al., "Do we really need to access the source data?", ICML
2020), here with the source beside it.
"""

import math

import torch
from torch import Tensor

from rdfia.adaptation.module import AdaptationModule, Seen


def information_loss(logits: Tensor) -> Tensor:
    """Return minus the mutual information, in nats, of image and predicted class of logits (B, K).

    By logarithms of softmax, so that a certain prediction has a gradient that is a number.
    """
    logarithms = logits.float().log_softmax(1)
    doubt = -(logarithms.exp() * logarithms).sum(1).mean()
    balance = torch.logsumexp(logarithms, 0) - math.log(len(logits))  # log of the mean probability
    return doubt + (balance.exp() * balance).sum()


class InformationModule(AdaptationModule):
    """Entropy minimisation with a balance of classes; see `AdaptationModule`.

    Example:
        >>> import torch
        >>> InformationModule(classes=5).eval()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    def adaptation_loss(self, source: Seen, target: Seen) -> Tensor:
        """Return minus the mutual information of image and predicted class, over the batch."""
        return information_loss(target.logits)
