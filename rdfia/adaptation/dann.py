"""Domain-adversarial training of neural networks (DANN).

Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016. Features feed a classifier, trained
on labelled source images, and a domain classifier that tells source from target. Between features and domain
classifier the gradient is reversed: what helps to tell the domains apart is unlearned, so the classifier
comes to work on the target, none of whose labels are used::

    loss = cross_entropy(classifier(f_s), y_s) + domain_loss(domain_classifier(reverse_gradient(f, lambda)))

    python scripts/train_dann.py --data-dir /path/to/data
"""

from typing import Any

import torch
from torch import Tensor

from rdfia.adaptation.domain_statistics import of_source
from rdfia.adaptation.losses import domain_losses, reverse_gradient
from rdfia.adaptation.module import AdaptationModule, Seen

# The recipe of Ganin et al., as keywords of `DANNModule`, but for two things without which the domain
# classifier wins (train_dann.py --ablation): images are standardized one by one, where they subtract the
# mean, and maps are dropped. (Their batches hold 64 images of each domain.)
PAPER: dict[str, Any] = {
    "network": "paper",
    "scaling": "standardized",
    "batch_norm": False,
    "dropout": 0.5,
    "bn_passes": "concatenated",
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "lr_schedule": "ganin",
    "ema_decay": 0.0,
}


# What is usual for photographs and a pretrained network, as keywords of any method: Long et al., NeurIPS 2018
# (CDAN), whose own code passes the domains one after the other, and the Transfer-Learning-Library; but
# BatchNorm of the pretrained network keeps its statistics.
# (Their batches hold 32 images of each domain, of 224 pixels.)
OFFICE: dict[str, Any] = {
    "network": "resnet50/avgpool",
    "bottleneck": 256,
    "dropout": 0.0,
    "domain_width": 1024,
    "domain_layers": 2,
    "bn_passes": "separate",
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-3,
    "lr_schedule": "ganin",
    "ema_decay": 0.0,
    "augment": ("crop", "flip"),
}


class DANNModule(AdaptationModule):
    """DANN, and its controls by flags of the module, see `AdaptationModule`.

    * DANN, as it is.
    * ``adapt=False``: source only. The target images are never looked at.
    * ``reversal=False``: DANN without the gradient reversal. Features are trained to tell the domains apart.
    * ``adapt=False, labelled="target"``: trained on the target's labels, the upper bound.

    The defaults are what works best on digits; ``DANNModule(**PAPER)`` has the settings of the paper, but for
    two, and ``DANNModule(**OFFICE)`` those that are usual on photographs. All keywords are those of
    `AdaptationModule`, where each is explained.

    Example:
        >>> import torch
        >>> module = DANNModule().eval()
        >>> module(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 10])
    """

    compiled: tuple[str, ...] = ("network.features", "network.classifier", "network.domain_classifier")
    domain_inputs = 1
    target_gradient = False
    found_by_method = ("domain_loss", "domain_accuracy")

    def told(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return what the domain classifier sees of images, of features (B, F) and class logits (B, K)."""
        return features

    def weights(self, source: Seen, target: Seen) -> tuple[Tensor, ...]:
        """Return the weights (B,) of the images of each domain, or none."""
        return ()

    def compare(
        self, source: Seen, target: Seen, *more: Tensor, strength: float | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the domain classifier, behind the reversal; and how often it is right."""
        logits = self.tell_both(*(reverse_gradient(self.told(*seen), strength) for seen in (source, target)))
        found: dict[str, Tensor] = self.each(domain_losses)(*logits, *self.weights(source, target))
        return found["domain_loss"], found

    def tell_both(self, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Return what the domain classifier says of its inputs, in one pass or two as ``bn_passes`` says."""
        tell = self.network.tell_domain
        if self.bn_passes == "separate":
            with of_source(self.network):
                source_logits = tell(source)
            return source_logits, tell(target)
        sizes = [source.shape[-2], target.shape[-2]]
        both: tuple[Tensor, ...] = tell(torch.cat([source, target], -2)).split(sizes, -1)
        return both

    def tell_domain(self, features: Tensor, logits: Tensor) -> Tensor | None:
        """Return what the domain classifier says (B,) of features (B, F) and class logits (B, K)."""
        return self.evaluated.tell_domain(self.told(features, logits))
