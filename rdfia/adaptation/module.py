"""What all methods of unsupervised domain adaptation share: networks, loops, rates, scores.

A method is a subclass that overrides `AdaptationModule.adaptation_loss`, or `AdaptationModule.compare` where
it needs more than features and logits of both domains; see `rdfia.adaptation.methods`.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.adaptation.domain_statistics import of_source
from rdfia.adaptation.evaluation import ScoredOnBothDomains
from rdfia.adaptation.losses import SCHEDULES, Schedule, doubt
from rdfia.adaptation.network import DomainAdversarialNetwork
from rdfia.common.batches import domains_of, images_and_labels, images_of
from rdfia.common.checks import check_settings
from rdfia.common.draws import Ahead, drawn
from rdfia.common.literals import validate_literals
from rdfia.common.optimization import average_weight, lr_factor, set_lr, update_average
from rdfia.common.parallel import share
from rdfia.common.views import Augmentation, augmented, check_augmentations

Batch = Any  # of source and of target, see `rdfia.common.batches.domains_of`


class Seen(NamedTuple):
    """What a network makes of a batch: features (B, F) and class logits (B, K)."""

    features: Tensor
    logits: Tensor


class AdaptationModule(ScoredOnBothDomains):
    """Source-only training, and what methods of adaptation add to it, see `compare`.

    * ``adapt=False``: source only. The target images are never looked at.
    * ``adapt=False, labelled="target"``: trained on the target's labels, the upper bound.

    A training batch is ``{"source": (images, labels), "target": images}``, or a list of the two; of labels of
    the target none is used, but for that upper bound. Validation and test take two loaders, source and
    target; a target whose labels are -1 has none, and is scored by what needs no labels. Where the network is
    a pretrained one of which nothing is trained, features (B, F) that it made before are taken in place of
    images, and in training several views of each image (B, V, F), of which a step takes one.

    Progress, on which lambda and learning rate depend, is the steps done over those planned: right after
    a resume and on several processes, and it needs ``max_epochs`` or ``max_steps``.

    Args:
        network: ``paper`` or ``modern``, a pretrained network up to a layer (``resnet50/avgpool``), or a
            module of your own, which is not saved in the hyperparameters:
            ``DANNModule.load_from_checkpoint(path, network=...)``. This and those down
            to ``data_dir``, see `DomainAdversarialNetwork`.
        scaling: ``auto``, ``none``, ``symmetric`` or ``standardized``.
        batch_norm: After each layer.
        dropout: Probability.
        bottleneck: Width of a layer before a linear classifier; None: 256 on a pretrained network, else 0.
        domain_width: Hidden units of the domain classifier.
        domain_layers: Its hidden layers.
        initialization: ``pytorch`` or ``he``.
        trunk_trained: Of a pretrained network: ``all``, ``none``, or the layer from which on.
        trunk_batch_norm: ``kept`` or ``adapted``: BatchNorm of a pretrained network.
        weights: Of a pretrained network.
        data_dir: Where ``weights/`` lies.
        adapt: Train against the domain classifier.
        reversal: Reverse its gradient.
        labelled: Which domain's labels are trained on.
        lambda_schedule: Schedule of lambda over training, see `SCHEDULES`.
        lambda_max: Largest value of lambda, which weighs what a method adds to the loss; where there is a
            domain classifier, the reversed gradient only: the domain classifier itself learns at full rate.
        bn_passes: ``separate``: source and target go through the network one after the other, so BatchNorm
            normalises each by its own statistics, in the domain classifier too. Each domain is evaluated
            under running statistics of its own; a call of the module takes those of the target, which it is
            for (Li et al., AdaBN, 2018). ``concatenated``: in one batch, normalised together, which leaves
            what differs in the means for the domain classifier to see.
        optimizer: ``adam``, or ``sgd`` as in the paper.
        lr: Initial learning rate.
        trunk_lr: Of a pretrained network, times that of the rest.
        momentum: Momentum of SGD, or beta1 of Adam; 0.5 keeps the two sides from oscillating.
        nesterov: SGD looks ahead, see `torch.optim.SGD`.
        weight_decay: L2 penalty of all weights.
        lr_schedule: Decay of the learning rate, see `lr_factor`.
        ema_decay: Decay of the exponential moving average of the weights, which is evaluated; 0 disables it.
        classes: Their number.
        channels: Of the images.
        image_size: Side of the images.
        class_names: Names of the classes, kept with the checkpoint.
        resize: How images became square, see `datamodules.InMemoryDataModule.resized`; kept too.
        augment: Names of augmentations of the training images, see `rdfia.common.views.augmented`.
        seed: Of the views of the images.
    """

    compiled: tuple[str, ...] = ("network.features", "network.classifier")
    domain_inputs = 0  # of the domain classifier, in numbers of features; 0: there is none
    target_gradient = True  # what the method asks of the target goes through the classifier
    found_by_method: tuple[str, ...] = ("adaptation_loss",)

    on_bar: tuple[str, ...] = ("train/class_loss",)

    def __init__(
        self,
        *,
        network: str | nn.Module = "modern",
        scaling: Literal["auto", "none", "symmetric", "standardized"] = "auto",
        batch_norm: bool = True,
        dropout: float = 0.5,
        bottleneck: int | None = None,
        domain_width: int = 100,
        domain_layers: int = 1,
        initialization: Literal["pytorch", "he"] = "pytorch",
        trunk_trained: str = "all",
        trunk_batch_norm: Literal["kept", "adapted"] = "kept",
        weights: str = "imagenet",
        data_dir: str | None = None,
        adapt: bool = True,
        reversal: bool = True,
        labelled: Literal["source", "target"] = "source",
        lambda_schedule: Schedule = "ganin",
        lambda_max: float = 1.0,
        bn_passes: Literal["separate", "concatenated"] = "separate",
        optimizer: Literal["adam", "sgd"] = "adam",
        lr: float = 1e-3,
        trunk_lr: float = 0.1,
        momentum: float = 0.5,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        lr_schedule: Literal["none", "ganin", "cosine"] = "cosine",
        ema_decay: float = 0.999,
        classes: int = 10,
        channels: int = 3,
        image_size: int = 28,
        class_names: Sequence[str] = (),
        resize: Literal["squash", "crop", "pad", "frame", "cut"] = "squash",
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        validate_literals(AdaptationModule.__init__, locals())
        if adapt and labelled == "target":
            raise ValueError("with the target's labels there is nothing to adapt; take adapt=False")
        amounts = ("lr", "trunk_lr", "lambda_max", "weight_decay", "domain_layers")
        check_settings(locals(), amounts=amounts, shares=("dropout", "momentum", "ema_decay"))
        augment, class_names = check_augmentations(augment), list(class_names)
        data_dir, weights = None if data_dir is None else str(data_dir), str(weights)
        own = ["network"] if isinstance(network, nn.Module) else []
        self.save_hyperparameters(ignore=[*own, "members"])  # members are those of stacked ones
        # As they are saved: a subclass was given them as they came.
        self.hparams.update({"data_dir": data_dir, "weights": weights, "augment": augment})
        self.adapt, self.reversal, self.labelled = adapt, reversal, labelled
        self.lambda_schedule, self.lambda_max, self.bn_passes = (
            SCHEDULES[lambda_schedule],
            lambda_max,
            bn_passes,
        )
        self.optimizer, self.lr, self.momentum, self.lr_schedule = optimizer, lr, momentum, lr_schedule
        self.trunk_lr, self.nesterov, self.weight_decay = trunk_lr, nesterov, weight_decay
        self.rate = lr  # of this step
        self.augment, self.seed = augment, seed
        self.draws = [Ahead(partial(self._drawn, domain)) for domain in (0, 1)]
        self.ema_decay = ema_decay
        self.classes = classes
        self.network = self.make_network(
            network,
            scaling=scaling,
            batch_norm=batch_norm,
            dropout=dropout,
            bottleneck=bottleneck,
            domain_width=domain_width,
            domain_layers=domain_layers,
            domain_inputs=self.domain_inputs,
            initialization=initialization,
            trunk_trained=trunk_trained,
            trunk_batch_norm=trunk_batch_norm,
            weights=weights,
            data_dir=data_dir,
            classes=classes,
            channels=channels,
            image_size=image_size,
        )
        if not adapt and self.network.domain_classifier is not None:
            # DDP waits for gradients of all that is trainable.
            self.network.domain_classifier.requires_grad_(False)
        self.average = copy.deepcopy(self.network).requires_grad_(False) if ema_decay else None

    def make_network(self, trunk: str | nn.Module, **settings: Any) -> DomainAdversarialNetwork:
        """Return the network, with random heads; of it the average of the weights is a copy."""
        return DomainAdversarialNetwork(trunk, **settings)

    def compare(
        self, source: Seen, target: Seen, *more: Tensor, strength: float | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what a method adds to the loss, and what is logged by the names of ``found_by_method``.

        By default lambda times `adaptation_loss`, in full precision.

        Args:
            source: What the network makes of source images.
            target: Of target images.
            *more: Of the views of the target that `views_of_target` returns, those after the first.
            strength: Lambda of this step.
        """
        with torch.autocast(target.logits.device.type, enabled=False):
            loss = self.adaptation_loss(source, target)
        return strength * loss, {"adaptation_loss": loss}

    def adaptation_loss(self, source: Seen, target: Seen) -> Tensor:
        """Return the loss () of a method that is weighed by lambda."""
        raise ValueError("this module adapts to nothing; take adapt=False, or a method as DANNModule")

    def views_of_target(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what of a batch of target images a training step looks at."""
        return (self.view(images, 1),)

    def progress(self) -> float:
        """Return the part of the training that is done, from 0 to 1.

        Raises:
            ValueError: The trainer has no end.
        """
        planned = self.trainer.estimated_stepping_batches
        if math.isinf(planned):
            raise ValueError(
                "lambda and learning rate follow progress: give the trainer max_epochs or max_steps"
            )
        return self.trainer.global_step / planned

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of this step.

        Here and not by a scheduler, which would count steps of its own: a run that resumes has the same rates
        as one that was never interrupted.
        """
        self.rate = self.lr * lr_factor(self.progress(), self.lr_schedule)
        for optimizer in self.trainer.optimizers:
            set_lr(optimizer, self.rate)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss; log it and what it is made of."""
        domains = domains_of(batch)
        inputs: tuple[Tensor, ...]
        numbers: dict[str, Any] = {}
        if not self.adapt:
            inputs = images_and_labels(domains[self.labelled])
        elif len(domains) < 2:
            raise ValueError("batches of source and target are needed: give two data loaders, or adapt=False")
        else:
            inputs = (*images_and_labels(domains["source"]), images_of(domains["target"]))
            numbers["strength"] = self.lambda_max * self.lambda_schedule(self.progress())
            if not self.reversal:
                numbers["strength"] = -1.0
        self.check(inputs[0], inputs[1], batch_idx)
        targets = inputs[2:]
        for target in targets:
            self.check(target, None, batch_idx)
        inputs = (self.view(inputs[0], 0), inputs[1])
        for target in targets:
            inputs += self.views_of_target(target)
        if self.graphs is None:
            loss, found = self._losses(*inputs, **numbers)
            values = torch.stack([*found.values()])
        else:
            weight = {"weight": average_weight(self.ema_decay, self.trainer.global_step)}
            loss, *rest = self.graphs("step", self._whole_step, inputs, numbers | weight)
            values = torch.stack(rest)
        self.log_found(self.logged, values, {"lambda": numbers["strength"]} if numbers else {})
        return loss.sum()

    def _drawn(self, domain: int, count: int, step: int) -> Tensor:
        return drawn(count, 5, (self.seed, step, domain), **share())

    def view(self, images: Tensor, domain: int) -> Tensor:
        """Return images as a step sees them, at random: augmented, or of features (B, V, F) one view each."""
        if not self.augment and images.ndim != 3:
            return images
        step = self.trainer.global_step
        numbers = self.draws[domain].at(images.device, len(images), step)
        if images.ndim == 3:
            chosen = (numbers[:, 0] * images.shape[1]).long()
            return images[torch.arange(len(images), device=images.device), chosen]
        return augmented(images, self.augment, (self.seed, step, domain), **share(), numbers=numbers)

    @property
    def logged(self) -> tuple[str, ...]:
        """Names of what `training_step` finds."""
        of_method = (*self.found_by_method, "target_entropy") if self.adapt else ()
        return ("class_loss", f"{self.labelled}_accuracy", *of_method)

    def log_found(self, names: Iterable[str], values: Tensor, known: Mapping[str, float]) -> None:
        """Log what a step has found, and what it knew before."""
        numbers = {"batch": float(self.trainer.global_step), "lr": self.rate, **known}
        named = {f"train/{name}": value for name, value in numbers.items()}
        self.log_step([f"train/{name}" for name in names], values, named)

    def class_losses(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return loss and accuracy of labelled images, as they are logged."""
        loss = functional.cross_entropy(logits.float(), labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"class_loss": loss, f"{self.labelled}_accuracy": accuracy}

    def losses_of_source(self, source: Seen, labels: Tensor) -> dict[str, Tensor]:
        """Return `class_losses` of the source beside which a method adapts."""
        found: dict[str, Tensor] = self.each(self.class_losses)(source.logits, labels)
        return found

    def seen(self, source: Tensor, target: Tensor) -> tuple[Seen, Seen]:
        """Return what the network makes of images of both domains."""
        if self.bn_passes == "separate":
            with of_source(self.network):
                source_features = self.network.extract(source)
                source_logits = self.network.classifier(source_features)
            target_features = self.network.extract(target)
        else:
            images = -4 if source.ndim > 3 else -2  # dimension of the images, or of their features
            both = self.network.extract(torch.cat([source, target], images))
            source_features, target_features = both.split([source.shape[images], target.shape[images]], -2)
            with of_source(self.network):
                source_logits = self.network.classifier(source_features)
        # Without a gradient it is for the log, and for BatchNorm's statistics.
        with torch.set_grad_enabled(self.target_gradient and torch.is_grad_enabled()):
            target_logits = self.network.classifier(target_features)
        return Seen(source_features, source_logits), Seen(target_features, target_logits)

    def _losses(
        self, source: Tensor, labels: Tensor, *targets: Tensor, strength: float | Tensor = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and what is logged by the names of `logged`."""
        if not targets:
            found = self.each(self.class_losses)(self.network(source), labels)
            return found["class_loss"], found
        of_the_source, of_target = self.seen(source, targets[0])
        found = self.losses_of_source(of_the_source, labels)
        added, more = self.compare(of_the_source, of_target, *targets[1:], strength=strength)
        more["target_entropy"] = self.each(doubt)(of_target.logits)
        return found["class_loss"] + added, found | more

    def _whole_step(self, *inputs: Tensor, weight: Tensor, **numbers: Tensor) -> Tensor:
        """Update the network and its average; return the loss and what is logged."""
        optimizer = self.trainer.optimizers[0]
        optimizer.zero_grad()
        loss, found = self._losses(*inputs, **numbers)
        with torch.autocast(self.device.type, enabled=False):  # as Lightning's backward
            loss.sum().backward()
        optimizer.step()
        if self.average is not None:
            update_average(self.average, self.network, weight)
        return torch.stack([loss, *found.values()]).detach()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Go back through the step; in a graph that is done."""
        if self.graphs is None:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, *args: Any) -> None:
        """Forget the gradients; in a graph that is done."""
        if self.graphs is None:
            super().optimizer_zero_grad(*args)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Step, then move the average; before any checkpoint of this step is written."""
        if self.graphs is not None:
            optimizer_closure()  # `training_step`, which is all of it
            return
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.average is not None:
            weight = average_weight(self.ema_decay, self.trainer.global_step)
            update_average(self.average, self.network, weight)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam or SGD; the rates are set as each step starts, that of a pretrained network times its own."""
        trunk = self.network.trunk
        of_trunk = {id(weight) for weight in (trunk.parameters() if trunk is not None else ())}
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        groups: list[dict[str, Any]] = [{"params": [one for one in weights if id(one) not in of_trunk]}]
        if slow := [one for one in weights if id(one) in of_trunk]:
            groups.append({"params": slow, "factor": self.trunk_lr})
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "fused": True}
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov, **options)
        return torch.optim.Adam(groups, betas=(self.momentum, 0.999), **options)
