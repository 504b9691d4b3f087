"""CDAN: a domain classifier that sees features and predictions together.

Long et al., "Conditional adversarial domain adaptation", NeurIPS 2018. Its input is the outer product of
features and class probabilities, so that it compares the domains class by class; CDAN+E weighs images by how
certain their prediction is.
"""

from torch import Tensor, nn

from rdfia.adaptation.dann import DANNModule
from rdfia.adaptation.losses import certainty
from rdfia.adaptation.module import Seen
from rdfia.adaptation.network import DomainAdversarialNetwork


def products(features: Tensor, logits: Tensor) -> Tensor:
    """Return the products of features (B, F) and class probabilities of logits (B, K): (B, K F).

    The probabilities are taken as they are: no gradient flows through them.
    """
    probabilities = logits.detach().float().softmax(1).to(features.dtype)
    return (probabilities[:, :, None] * features[:, None]).flatten(1)


class CDANModule(DANNModule):
    """CDAN: DANN with another input of its domain classifier; see `AdaptationModule`.

    Example:
        >>> import torch
        >>> CDANModule(classes=5).eval()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    def make_network(self, trunk: str | nn.Module, **settings: object) -> DomainAdversarialNetwork:
        """Return the network, its domain classifier on products of features and probabilities."""
        return super().make_network(trunk, **{**settings, "domain_inputs": self.classes})

    def told(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the products of features and probabilities, (B, K F)."""
        return products(features, logits)


class CDANEModule(CDANModule):
    """CDAN+E: images whose prediction is certain count more; see `AdaptationModule`.

    Example:
        >>> import torch
        >>> CDANEModule(classes=5).eval()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    def weights(self, source: Seen, target: Seen) -> tuple[Tensor, ...]:
        """Return how certain the predictions of each domain are."""
        return certainty(source.logits), certainty(target.logits)
