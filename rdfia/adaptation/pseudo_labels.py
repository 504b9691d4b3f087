"""Self-training: a classifier's own confident predictions on the target become its labels.

Lee, "Pseudo-Label: the simple and efficient semi-supervised learning method for deep neural networks", ICML
workshop 2013; after domain adaptation, in rounds, as Zou et al., "Unsupervised domain adaptation for semantic
segmentation via class-balanced self-training", ECCV 2018. Two forms:

* Rounds: label the target's training images once, keep the confident ones, train on source and those
  together, label again. Labels are frozen within a round.
* Mixed batches: label the images of each batch as it comes, and let the weight of their loss rise.

    python scripts/train_dann.py --pseudo-label-rounds 2
"""

import functools
import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from rdfia.adaptation.dann import DANNModule
from rdfia.adaptation.domain_statistics import freeze_running_stats, of_source
from rdfia.adaptation.module import AdaptationModule, Batch
from rdfia.common.batches import domains_of, images_and_labels, images_of, labels_of
from rdfia.common.draws import Ahead, drawn
from rdfia.common.literals import validate_literals
from rdfia.common.parallel import share
from rdfia.common.views import jittered


def confident(
    probabilities: Tensor, threshold: float = 0.9, *, balanced: bool = True
) -> tuple[Tensor, Tensor]:
    """Return which images can be labelled by their predictions, and the labels.

    Args:
        probabilities: (N, K).
        threshold: The least probability of a label.
        balanced: Of a class with more images than the average class, keep the most confident ones only, so
            that a class that is predicted too often does not grow from round to round.

    Returns:
        Numbers (M,) of images, ascending, and their labels (M,), both int64.

    Raises:
        ValueError: No prediction is confident, or one is not a number.
    """
    if not probabilities.isfinite().all():
        raise ValueError("predictions hold nan: the training diverged")
    confidence, labels = probabilities.max(1)
    kept = confidence >= threshold
    if not kept.any():
        raise ValueError(
            f"no prediction reaches {threshold}, the most confident has {confidence.max():.3f}; "
            "lower --threshold"
        )
    if balanced:
        quota = math.ceil(int(kept.sum()) / probabilities.shape[1])
        for label in range(probabilities.shape[1]):
            numbers = (kept & (labels == label)).nonzero()[:, 0]
            order = confidence[numbers].argsort(descending=True, stable=True)
            kept[numbers[order[quota:]]] = False
    numbers = kept.nonzero()[:, 0]
    return numbers, labels[numbers]


def rising_weight(progress: float, *, start: float = 0.1, end: float = 0.6, final: float = 3.0) -> float:
    """Return Lee's alpha: 0 until ``start``, then a line up to ``final`` at ``end``, then constant.

    Args:
        progress: Part of the training that is done, in [0, 1].
        start: Where the weight leaves 0: predictions of an untrained network are no labels.
        end: Where it reaches ``final``.
        final: The last weight.
    """
    return final * min(max((progress - start) / (end - start), 0.0), 1.0)


class PseudoLabelModule(DANNModule):
    """Trains a classifier on labelled source images and pseudo-labelled target images.

    Start from an adapted network: ``module.begin_with(adapted)``. Source and target go through the network
    one after the other; BatchNorm keeps running statistics of each.

    Args:
        form: ``rounds``: the target's labels in a batch are pseudo-labels, made before. ``mixed``: they are
            not looked at, the network labels each batch itself, and the weight of its loss rises.
        threshold: Least probability of a pseudo-label that is used, in the mixed form.
        weight: Of the target's loss, at the end in the mixed form.
        jitter: Turn, scale and shift the images of each batch: the labels must hold for those too.
        dann: See `AdaptationModule`.

    Example:
        >>> module = PseudoLabelModule(threshold=0.0)
        >>> module.begin_with(DANNModule())  # one that is trained
        >>> module.label(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2])
    """

    loaded_as = "DANNModule"
    can_use_graphs = False  # labels are made, and weights rise, within a step

    def __init__(
        self,
        *,
        form: Literal["rounds", "mixed"] = "rounds",
        threshold: float = 0.9,
        weight: float = 1.0,
        jitter: bool = True,
        **dann: Any,
    ) -> None:
        validate_literals(PseudoLabelModule.__init__, {"form": form})
        super().__init__(**(dann | {"adapt": False}))
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold lies between 0 and 1, got {threshold}")
        self.form, self.threshold, self.weight = form, threshold, weight
        self.jitter = jitter
        self.moves = [Ahead(functools.partial(self._draw_moves, domain)) for domain in (0, 1)]

    def _draw_moves(self, domain: int, count: int, step: int) -> Tensor:
        return drawn(count, 4, (self.seed, step, domain), **share())

    def begin_with(self, adapted: AdaptationModule) -> None:
        """Take over features and classifier that ``adapted`` is evaluated by."""
        trained = adapted.evaluated.state_dict()
        for network in (self.network, self.average):
            if network is not None:
                own = network.state_dict()
                fits = all(trained[name].shape == own[name].shape for name in trained.keys() & own.keys())
                # The domain classifier, which nothing trains here, may be of another shape.
                kept = {} if fits else {n: v for n, v in own.items() if "domain_classifier" in n}
                network.load_state_dict(own | trained | kept)

    @torch.no_grad()
    def label(self, images: Tensor) -> Tensor:
        """Return the evaluated network's labels (B,) of images, -1 where it is not confident."""
        network = self.evaluated
        was_training = network.training
        confidence, labels = network.eval()(images).float().softmax(1).max(1)
        network.train(was_training)
        return torch.where(confidence >= self.threshold, labels, -1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the source's loss plus the weighted one of the target."""
        domains = domains_of(batch)
        (source, labels), target = images_and_labels(domains["source"]), images_of(domains["target"])
        given = labels_of(domains["target"])
        if given is None:
            given = torch.full((len(target),), -1, device=target.device)
        self.check(source, labels, batch_idx)
        known = given.clamp(min=0) if self.form == "rounds" else None  # -1: no label
        self.check(target, known, batch_idx)
        given_views = source, target
        if target.ndim == 3:  # features of several views, the first of which is the image as it is
            source, target = source[:, 0], target[:, 0]
        with torch.no_grad():
            # BatchNorm's statistics, of the images as they are tested: jitter blurs, which changes them.
            self.network(target)
            with of_source(self.network):
                self.network(source)
        weight = self.weight
        if self.form == "mixed":
            given = self.label(target)
            weight = rising_weight(self.progress(), final=self.weight)
        if given_views[1].ndim == 3:
            source, target = (self.view(images, domain) for domain, images in enumerate(given_views))
        elif self.jitter and target.ndim == 4:
            source, target = (
                jittered(images, (), numbers=moves.at(images.device, len(images), self.trainer.global_step))
                for images, moves in zip((source, target), self.moves, strict=True)
            )
        with freeze_running_stats(self.network):
            logits, target_logits = self.network(source), self.network(target)
        found = self.class_losses(logits, labels)
        # The mean over all images of the batch: those without a label count as 0, and none divides by 0.
        losses = functional.cross_entropy(target_logits.float(), given, ignore_index=-1, reduction="none")
        found |= {"coverage": (given >= 0).float().mean(), "pseudo_label_loss": losses.mean()}
        self.log_found(found, torch.stack([*found.values()]), {"pseudo_label_weight": weight})
        return found["class_loss"] + weight * losses.mean()
