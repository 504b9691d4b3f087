"""MCD: two classifiers that disagree on target images, and features that leave them nothing to disagree on.

Saito et al., "Maximum classifier discrepancy for unsupervised domain adaptation", CVPR 2018, in its form with
a gradient reversal: one step in place of three.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.adaptation.domain_statistics import of_source
from rdfia.adaptation.losses import reverse_gradient
from rdfia.adaptation.module import AdaptationModule, Seen
from rdfia.adaptation.network import DomainAdversarialNetwork


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean absolute difference of the probabilities of two classifiers' logits (B, K)."""
    return (first.float().softmax(1) - second.float().softmax(1)).abs().mean()


class TwoClassifiers(nn.Module):
    """Two classifiers of features; together they give the logarithm of their mean probability.

    Args:
        first: Maps features (B, F) to logits (B, K).
        second: Too, from other random weights.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def both(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B, K) of each."""
        return self.first(features), self.second(features)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, F) to logits (B, K)."""
        logits = torch.stack(self.both(features)).float().log_softmax(-1)
        return logits.logsumexp(0) - math.log(2)


class MCDModule(AdaptationModule):
    """MCD; see `AdaptationModule`.

    Example:
        >>> import torch
        >>> MCDModule(classes=5).eval()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    target_gradient = False

    def make_network(self, trunk: str | nn.Module, **settings: object) -> DomainAdversarialNetwork:
        """Return the network, with two classifiers."""
        network = super().make_network(trunk, **settings)
        network.classifier = TwoClassifiers(network.classifier, network.new_classifier())
        return network

    def losses_of_source(self, source: Seen, labels: Tensor) -> dict[str, Tensor]:
        """Return the summed cross-entropies of both classifiers: each has to be right on the source."""
        with of_source(self.network):
            both = cast(TwoClassifiers, self.network.classifier).both(source.features)
        loss = sum(functional.cross_entropy(logits.float(), labels) for logits in both)
        return self.class_losses(source.logits, labels) | {"class_loss": cast(Tensor, loss)}

    def compare(
        self, source: Seen, target: Seen, *more: Tensor, strength: float | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return minus the disagreement, which the classifiers raise and, reversed, the features lower."""
        classifiers = cast(TwoClassifiers, self.network.classifier)
        loss = disagreement(*classifiers.both(reverse_gradient(target.features, strength)))
        return -loss, {"adaptation_loss": loss}
