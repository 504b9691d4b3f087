"""Self-training by consistency: what is certain of an image holds for another view of it.

Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence", NeurIPS 2020,
with labelled images of one domain and unlabelled ones of another.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rdfia.adaptation.module import AdaptationModule, Seen
from rdfia.common.parallel import share
from rdfia.common.views import jittered


def consistency_loss(logits: Tensor, given: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy with labels that another view gave, and the share of images that have one.

    The mean over all images: those without a label count as 0.

    Args:
        logits: (B, K), of the view that is trained on.
        given: (B, K), logits of the other view; no gradient flows through them.
        threshold: Least probability of a label.
    """
    confidence, labels = given.detach().float().softmax(1).max(1)
    kept = confidence >= threshold
    losses = functional.cross_entropy(logits.float(), labels, reduction="none")
    return (losses * kept).mean(), kept.float().mean()


class SelfTrainingModule(AdaptationModule):
    """Self-training by consistency; see `AdaptationModule`.

    Labels come from images as they are, and are learned on views of them: augmented as ``augment`` says, or
    jittered (`rdfia.common.views.jittered`); of features that were made before, one of the views.

    Args:
        threshold: Least probability of a label.
        shared: See `AdaptationModule`.

    Example:
        >>> import torch
        >>> SelfTrainingModule(classes=5).eval()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 5])
    """

    found_by_method = ("adaptation_loss", "coverage")

    def __init__(self, *, threshold: float = 0.9, **shared: Any) -> None:
        super().__init__(**shared)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold lies between 0 and 1, got {threshold}")
        self.threshold = threshold

    def views_of_target(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the view that is trained on, and images as they are."""
        if images.ndim == 3:  # features of several views, the first of which is the image as it is
            return self.view(images, 1), images[:, 0]
        if images.ndim == 2:  # of one view alone, which is all that there is to be learned on
            return images, images
        if self.augment:
            return self.view(images, 1), images
        return jittered(images, (self.seed, self.trainer.global_step, 1), **share()), images

    def compare(
        self, source: Seen, target: Seen, *more: Tensor, strength: float | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss on the labels that the network gives to the images as they are."""
        with torch.no_grad():
            given = self.network(more[0])
        loss, coverage = consistency_loss(target.logits, given, self.threshold)
        return strength * loss, {"adaptation_loss": loss, "coverage": coverage}
