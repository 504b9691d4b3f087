"""CDAN: a domain classifier that sees features and predictions together.

Long et al., "Conditional adversarial domain adaptation", NeurIPS 2018. Its input is the outer product of
features and class probabilities, so that it compares the domains class by class; CDAN+E weighs images by how
certain their prediction is.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.adaptation.losses import reverse_gradient
from rdfia.adaptation.module import AdaptationModule, Seen
from rdfia.adaptation.network import DomainAdversarialNetwork
from rdfia.adaptation.scores import entropy


def products(features: Tensor, logits: Tensor) -> Tensor:
    """Return the products of features (B, F) and class probabilities of logits (B, K): (B, K F).

    The probabilities are taken as they are: no gradient flows through them.
    """
    probabilities = logits.detach().float().softmax(1).to(features.dtype)
    return (probabilities[:, :, None] * features[:, None]).flatten(1)


def certainty(logits: Tensor) -> Tensor:
    """Return weights (B,) of mean 1 that fall with the entropy H of a prediction, as 1 + exp(-H)."""
    weights = 1 + torch.exp(-entropy(logits.detach().float().softmax(1)))
    return weights / weights.mean()


def weighted_domain_loss(source: Tensor, target: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Return the binary cross-entropy of logits (B,) that are large for target images, weighted by domain."""
    ours, theirs = functional.softplus(source.float()), functional.softplus(-target.float())
    return ((weights[0] * ours).mean() + (weights[1] * theirs).mean()) / 2


class CDANModule(AdaptationModule):
    """CDAN; see `AdaptationModule`.

    Example:
        >>> import torch
        >>> CDANModule(classes=5).eval()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    compiled = ("network.features", "network.classifier", "network.domain_classifier")
    domain_inputs = 1  # times the number of classes, see `make_network`
    target_gradient = False
    found_by_method = ("domain_loss", "domain_accuracy")
    by_certainty = False

    def make_network(self, trunk: str | nn.Module, **settings: object) -> DomainAdversarialNetwork:
        """Return the network, its domain classifier on products of features and probabilities."""
        return super().make_network(trunk, **{**settings, "domain_inputs": self.classes})

    def compare(
        self, source: Seen, target: Seen, *more: Tensor, strength: float | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the domain classifier, behind the reversal; and how often it is right."""
        ours, theirs = self.tell_both(
            reverse_gradient(products(*source), strength), reverse_gradient(products(*target), strength)
        )
        ones = torch.ones_like(ours, dtype=torch.float32), torch.ones_like(theirs, dtype=torch.float32)
        weights = (certainty(source.logits), certainty(target.logits)) if self.by_certainty else ones
        loss = weighted_domain_loss(ours, theirs, weights)
        right = ((ours < 0).float().mean() + (theirs > 0).float().mean()) / 2
        return loss, {"domain_loss": loss, "domain_accuracy": right}

    def tell_domain(self, features: Tensor, logits: Tensor) -> Tensor | None:
        """Return what the domain classifier says (B,) of features (B, F) and logits (B, K)."""
        return self.evaluated.tell_domain(products(features, logits))


class CDANEModule(CDANModule):
    """CDAN+E: images whose prediction is certain count more; see `AdaptationModule`.

    Example:
        >>> import torch
        >>> CDANEModule(classes=5).eval()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    by_certainty = True
