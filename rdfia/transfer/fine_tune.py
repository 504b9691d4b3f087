"""Fine-tuning: a new head on a pretrained CNN, the CNN frozen, or unfrozen from the top down in stages.

Yosinski et al., "How transferable are features in deep neural networks?", NeurIPS 2014; the stages and the
lower rates of lower layers as in Howard & Ruder, "Universal language model fine-tuning", ACL 2018.
"""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassStatScores,
)

from rdfia.common.backbones import load_backbone
from rdfia.common.batches import images_and_labels, images_of
from rdfia.common.checks import check_batch, check_classes
from rdfia.common.draws import Ahead, drawn
from rdfia.common.features import layer_features, train_up_to
from rdfia.common.parallel import average_gradients, leave_gradients, share, sum_over_processes
from rdfia.common.step_log import LogsSteps
from rdfia.common.views import Augmentation, augmented, check_augmentations

Stage = Literal["head", "top", "all"]


def stage_of(epoch: int, unfreeze_top_at: int | None, unfreeze_all_at: int | None) -> Stage:
    """Return what is trained in an epoch, from 0: the head, the top layers too, or all."""
    if unfreeze_all_at is not None and epoch >= unfreeze_all_at:
        return "all"
    return "top" if unfreeze_top_at is not None and epoch >= unfreeze_top_at else "head"


class BalancedAccuracy(MulticlassStatScores):
    """Mean over the classes that labels hold of the share of each that is right.

    `MulticlassAccuracy` counts a class of which there is no image as all wrong, once it is predicted.
    """

    def compute(self) -> Tensor:
        """Return a scalar."""
        found = super().compute()
        right, count = found[:, 0], found[:, 4]
        mean: Tensor = (right[count > 0] / count[count > 0]).mean()
        return mean


class FineTuneModule(LogsSteps):
    """A pretrained CNN up to one layer, and a new head on it.

    The head is trained from the first epoch; ``unfreeze_top_at`` and ``unfreeze_all_at`` name the epochs from
    which the layers ``top`` and the whole CNN are trained too, at rates of their own, all falling along a
    cosine. What is trained follows from the epoch alone, so a resumed run resumes with the stage it was in.

    Under DDP (``strategy="ddp"``) it averages the gradients of what is trained itself.

    Args:
        backbone: See `rdfia.common.backbones.load_backbone`.
        layer: The head takes this layer's output.
        weights: ``imagenet``, ``random`` or a file.
        data_dir: Where ``weights/`` lies.
        classes: Number of classes.
        image_size: Side of the images; a head on whole maps fits one size only.
        grids: The head sees the means of each map over the cells of these grids (1: over all of it).
        hidden: Widths of hidden layers of the head, with ReLU between: none for a linear head.
        top: Names of the layers that are unfrozen first; ``layer`` if not given.
        unfreeze_top_at: Epoch, from 0; None never.
        unfreeze_all_at: Epoch, from 0; None never.
        head_lr: Learning rate of the head (AdamW).
        top_lr: Of the top layers.
        trunk_lr: Of the rest.
        weight_decay: Of all.
        label_smoothing: In the training loss.
        freeze_batch_norm: Keep BatchNorm's statistics as they came; else those of unfrozen layers move.
        augment: Names of augmentations of the training images, see `rdfia.common.views.augmented`.
        class_weights: Of the training loss, one for each class; None for equal ones.
        seed: Of the views.
        class_names: Names of the classes, kept with the checkpoint.
        resize: How images became square, see `datamodules.InMemoryDataModule.resized`; kept too.

    Example:
        >>> import torch
        >>> module = FineTuneModule(backbone="squeezenet1_1", layer="fire9", classes=15)
        >>> module(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 15])
    """

    def __init__(
        self,
        *,
        backbone: str = "squeezenet1_1",
        layer: str = "fire9",
        weights: str = "imagenet",
        data_dir: str | None = None,
        classes: int = 15,
        image_size: int = 224,
        grids: Sequence[int] = (1,),
        hidden: Sequence[int] = (),
        top: Sequence[str] = (),
        unfreeze_top_at: int | None = None,
        unfreeze_all_at: int | None = None,
        head_lr: float = 1e-3,
        top_lr: float = 3e-4,
        trunk_lr: float = 1e-4,
        weight_decay: float = 1e-2,
        label_smoothing: float = 0.1,
        freeze_batch_norm: bool = True,
        augment: Sequence[Augmentation] | bool = ("crop", "flip"),
        class_weights: Sequence[float] | None = None,
        seed: int = 0,
        class_names: Sequence[str] = (),
        resize: Literal["squash", "crop", "pad", "frame", "cut"] = "squash",
    ) -> None:
        super().__init__()
        grids, hidden, top = list(grids), list(hidden), list(top) or [layer]
        class_names = list(class_names)
        wanted: Sequence[Augmentation] = ()
        if augment is True:  # of checkpoints from before there was a choice
            wanted = ("crop", "flip")
        elif augment:
            wanted = augment
        augment = check_augmentations(wanted)
        class_weights = None if class_weights is None else list(class_weights)
        if class_weights is not None and (len(class_weights) != classes or min(class_weights) < 0):
            raise ValueError(f"class_weights are {classes} numbers from 0 on, got {class_weights}")
        data_dir, weights = None if data_dir is None else str(data_dir), str(weights)
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden layers have at least 1 feature, got {hidden}")
        if min(head_lr, top_lr, trunk_lr, weight_decay) < 0:
            rates = f"{head_lr:g}, {top_lr:g}, {trunk_lr:g}, {weight_decay:g}"
            raise ValueError(f"learning rates and weight decay are at least 0, got {rates}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing lies from 0 to 1, got {label_smoothing:g}")
        for name, epoch in (("unfreeze_top_at", unfreeze_top_at), ("unfreeze_all_at", unfreeze_all_at)):
            if epoch is not None and epoch < 0:
                raise ValueError(f"{name} is an epoch, 0 or later, got {epoch}")
        self.save_hyperparameters()
        self.layer, self.grids = layer, grids
        self.unfreeze_at = (unfreeze_top_at, unfreeze_all_at)
        self.weight_decay, self.label_smoothing = weight_decay, label_smoothing
        self.freeze_batch_norm, self.augment, self.seed = freeze_batch_norm, augment, seed
        self.views = Ahead(lambda count, *key: drawn(count, 5, key, **share()))
        self.class_weights = class_weights
        self.backbone = load_backbone(backbone, weights=weights, data_dir=data_dir)
        self.backbone.find_layer(layer)
        with torch.no_grad():
            width = layer_features(
                self.backbone, torch.zeros(1, 3, image_size, image_size), [layer], grids=grids
            )[layer]
        widths = [width.shape[1], *hidden, classes]
        self.head = nn.Sequential()
        for number, (before, after) in enumerate(pairwise(widths)):
            if number:
                self.head.append(nn.ReLU())
            self.head.append(nn.Linear(before, after))
        # Trainable until the first epoch begins: DDP only knows those that are when it starts.
        used = train_up_to(self.backbone, layer, image_size)
        in_top = {id(weight) for name in top for weight in self.backbone.find_layer(name).parameters()}
        tops = [weight for weight in used if id(weight) in in_top]
        if not tops and (top != [layer] or unfreeze_top_at is not None):  # which may only be pooled
            raise ValueError(f"top layers {', '.join(top)} have no weights that {layer} depends on")
        self.groups: dict[Stage, tuple[float, list[nn.Parameter]]] = {
            "head": (head_lr, list(self.head.parameters())),
            "top": (top_lr, tops),
            "all": (trunk_lr, [weight for weight in used if id(weight) not in in_top]),
        }
        # Convolutions are faster with the channels last.
        self.backbone.to(memory_format=torch.channels_last)
        names = ("train", "val", "watched", "test")
        # Metrics look at nothing while they count: to look makes a GPU wait.
        fast: dict[str, Any] = {"validate_args": False}
        shares = {f"{n}_": MulticlassAccuracy(classes, average="micro", **fast) for n in names}
        self.accuracy = nn.ModuleDict(shares)
        means = {f"{n}_": BalancedAccuracy(classes, average=None, **fast) for n in names}
        self.balanced_accuracy = nn.ModuleDict(means)
        self.confusion = MulticlassConfusionMatrix(classes, **fast)
        self.counts: Tensor | None = None
        self.loss = nn.ModuleDict({f"{n}_": MeanMetric(nan_strategy="disable") for n in names})

    def train(self, mode: bool = True) -> "FineTuneModule":
        """Keep the CNN in eval mode, but for BatchNorm of what is being trained, where that is wanted."""
        super().train(mode)
        self.backbone.eval()
        if mode and not self.freeze_batch_norm:
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d) and any(p.requires_grad for p in module.parameters()):
                    module.train()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, classes)."""
        if images.ndim == 4:  # others are named by what follows
            images = images.contiguous(memory_format=torch.channels_last)
        features = layer_features(self.backbone, images, [self.layer], grids=self.grids)[self.layer]
        logits: Tensor = self.head(features.to(next(self.head.parameters()).dtype))
        return logits

    def on_train_start(self) -> None:
        """Enter the stage of a run that resumes within an epoch; Lightning does not start it again."""
        self._enter_stage()

    def on_train_epoch_start(self) -> None:
        """Enter the stage of this epoch."""
        self._enter_stage()

    def _enter_stage(self) -> None:
        """Set what is trained in the current epoch, at which rates."""
        stage = stage_of(self.current_epoch, *self.unfreeze_at)
        trained = {"head": ["head"], "top": ["head", "top"], "all": ["head", "top", "all"]}[stage]
        epochs = self.trainer.max_epochs or 0
        if epochs < 1:
            raise ValueError("stages and rates follow epochs: give the trainer max_epochs")
        fall = (1 + math.cos(math.pi * self.current_epoch / epochs)) / 2
        optimizer = self.optimizers()
        assert isinstance(optimizer, lightning.pytorch.core.optimizer.LightningOptimizer)
        for group, (name, (rate, parameters)) in zip(
            optimizer.param_groups, self.groups.items(), strict=True
        ):
            group["lr"] = rate * fall
            for parameter in parameters:
                parameter.requires_grad_(name in trained)
        self.train()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the smoothed loss, logged batch by batch; train/loss of the epoch is what val/loss is."""
        leave_gradients(self.trainer)
        images, labels = images_and_labels(batch)
        check_batch(images, labels, self.hparams["classes"], batch_idx)
        if self.augment:
            key = (self.seed, self.current_epoch, batch_idx)
            numbers = self.views.at(images.device, len(images), *key)
            images = augmented(images, self.augment, key, **share(), numbers=numbers)
        logits = self(images)
        smoothed: dict[str, Any] = {"label_smoothing": self.label_smoothing}
        if self.class_weights is None:
            loss = functional.cross_entropy(logits, labels, **smoothed)
        else:
            # Torch's own weights would weigh what smoothing takes to the other classes, too.
            weights = logits.new_tensor(self.class_weights)[labels]
            losses = functional.cross_entropy(logits, labels, reduction="none", **smoothed)
            # Gradients are averaged over processes, which may hold other shares of the weights.
            world_size = self.trainer.world_size
            loss = (weights * losses).sum() * world_size / sum_over_processes(weights.sum(), world_size)
        # Not the smoothed loss, which is larger by itself: curves beside each other are to be of one
        # quantity.
        self._note("train", logits.detach(), labels)
        groups = zip(self.groups, self.trainer.optimizers[0].param_groups, strict=True)
        rates = {f"train/lr_{name}": group["lr"] for name, group in groups}
        self.log_step(["train/batch_loss"], loss[None], rates)
        return loss

    def on_after_backward(self) -> None:
        """Average the gradients of what is trained over the processes."""
        average_gradients(self.parameters(), self.trainer.world_size)

    def _score(self, batch: Any, name: str) -> tuple[Tensor, Tensor]:
        images, labels = images_and_labels(batch)
        check_classes(labels, self.hparams["classes"])
        logits: Tensor = self(images)
        self._note(name, logits, labels)
        return logits, labels

    def _note(self, name: str, logits: Tensor, labels: Tensor) -> None:
        """Log the mean over all images of the epoch, whatever the sizes of batches and processes' shares."""
        accuracy, mean_loss = self.accuracy[f"{name}_"], self.loss[f"{name}_"]
        over_classes = self.balanced_accuracy[f"{name}_"]
        assert isinstance(over_classes, Metric)
        over_classes.update(logits, labels)
        assert isinstance(accuracy, Metric)
        assert isinstance(mean_loss, Metric)
        accuracy.update(logits, labels)
        # One loss for each image: torchmetrics 1.9 forgets weights where it does not look for nan.
        mean_loss.update(functional.cross_entropy(logits, labels, reduction="none"))
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "add_dataloader_idx": False}
        self.log(f"{name}/accuracy", accuracy, **options)
        self.log(f"{name}/balanced_accuracy", over_classes, **options)
        self.log(f"{name}/loss", mean_loss, **options)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log loss and accuracy as val/; of a second loader as watched/, to draw and never to choose by."""
        self._score(batch, ("val", "watched")[dataloader_idx])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log test/loss and test/accuracy, and count confusions."""
        self.confusion.update(*self._score(batch, "test"))

    def on_test_epoch_end(self) -> None:
        """Set ``counts``, the confusion matrix (true class, predicted class) over all processes."""
        self.counts = self.confusion.compute().cpu()
        self.confusion.reset()

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return labels (B,) for images (B, 3, H, W), with or without labels beside them."""
        labels: Tensor = self(images_of(batch)).argmax(1)
        return labels

    def _epoch_so_far(self) -> dict[str, Metric]:
        """Return what sums over the images of a training epoch, by name."""
        found: dict[str, Any] = {"accuracy": self.accuracy["train_"], "loss": self.loss["train_"]}
        found["balanced_accuracy"] = self.balanced_accuracy["train_"]
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what an unfinished epoch has summed up, over all processes."""
        super().on_save_checkpoint(checkpoint)
        if not self.trainer.is_last_batch:
            checkpoint["epoch_so_far"] = {}
            for name, metric in self._epoch_so_far().items():
                with metric.sync_context():
                    checkpoint["epoch_so_far"][name] = copy.deepcopy(metric.metric_state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from those sums: the first process, for all of them."""
        for name, state in checkpoint.get("epoch_so_far", {}).items() if self.global_rank == 0 else ():
            metric = self._epoch_so_far()[name]
            for part, value in state.items():
                setattr(metric, part, value.to(metric.device))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with the groups head, top and rest; their rates are set as each epoch starts."""
        groups = [{"params": parameters, "lr": rate} for rate, parameters in self.groups.values()]
        return torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)
