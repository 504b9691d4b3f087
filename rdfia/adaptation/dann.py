"""Domain-adversarial training of neural networks (DANN).

Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016. Features feed a classifier, trained
on labelled source images, and a domain classifier that tells source from target. Between features and domain
classifier the gradient is reversed: what helps to tell the domains apart is unlearned, so the classifier
comes to work on the target, none of whose labels are used:

    loss = cross_entropy(classifier(f_s), y_s) + domain_loss(domain_classifier(reverse_gradient(f, lambda)))

    python scripts/train_dann.py --data-dir /path/to/data
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.adaptation.losses import SCHEDULES, Schedule, domain_losses, reverse_gradient
from rdfia.adaptation.network import DomainAdversarialNetwork, of_source
from rdfia.adaptation.scores import DomainScores
from rdfia.common.batches import domains_of, images_and_labels, images_of, labels_of
from rdfia.common.checks import check_batch, check_images, check_settings
from rdfia.common.graphed import GraphsSteps
from rdfia.common.literals import validate_literals
from rdfia.common.optimization import average_weight, lr_factor, set_lr, update_average
from rdfia.common.parallel import broadcast_buffers

Batch = Any  # of source and of target, see `rdfia.common.batches.domains_of`

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


class DANNModule(GraphsSteps):
    """DANN, and all that it is compared with, by flags of one module.

    * DANN, as it is.
    * ``adapt=False``: source only. The target images are never looked at.
    * ``reversal=False``: DANN without the gradient reversal. Features are trained to tell the domains apart.
    * ``adapt=False, labelled="target"``: trained on the target's labels, the upper bound.

    A training batch is ``{"source": (images, labels), "target": images}``, or a list of the two; of labels of
    the target none is used, but for that upper bound. Validation and test take two loaders, source and
    target; a target whose labels are -1 has none, and is scored by what needs no labels.

    Progress, on which lambda and learning rate depend, is the steps done over those planned: right after
    a resume and on several processes, and it needs ``max_epochs`` or ``max_steps``. The defaults are what
    works best here; ``DANNModule(**PAPER)`` has the settings of the paper, but for two.

    Args:
        network: ``paper`` or ``modern``, or a module of your own, which is not saved in the hyperparameters:
            ``DANNModule.load_from_checkpoint(path, network=...)``. This and the next five, see
            `DomainAdversarialNetwork`.
        scaling: ``none``, ``symmetric`` or ``standardized``.
        batch_norm: After each layer.
        dropout: Probability.
        domain_width: Hidden units of the domain classifier.
        initialization: ``pytorch`` or ``he``.
        adapt: Train against the domain classifier.
        reversal: Reverse its gradient.
        labelled: Which domain's labels are trained on.
        lambda_schedule: Schedule of lambda over training, see `SCHEDULES`.
        lambda_max: Largest value of lambda. It weighs the reversed gradient only: the domain classifier
            itself learns at full rate.
        bn_passes: ``separate``: source and target go through the network one after the other, so BatchNorm
            normalises each by its own statistics, in the domain classifier too. Each domain is evaluated
            under running statistics of its own; a call of the module takes those of the target, which it is
            for (Li et al., AdaBN, 2018). ``concatenated``: in one batch, normalised together, which leaves
            what differs in the means for the domain classifier to see.
        optimizer: ``adam``, or ``sgd`` as in the paper.
        lr: Initial learning rate.
        momentum: Momentum of SGD, or beta1 of Adam; 0.5 keeps the two sides from oscillating.
        lr_schedule: Decay of the learning rate, see `lr_factor`.
        ema_decay: Decay of the exponential moving average of the weights, which is evaluated; 0 disables it.
        classes: Their number.
        channels: Of the images.
        image_size: Side of the images.
        class_names: Names of the classes, kept with the checkpoint.
        resize: How images became square, see `datamodules.InMemoryDataModule.resized`; kept too.

    Example:
        >>> import torch
        >>> module = DANNModule().eval()
        >>> module(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 10])
    """

    compiled: tuple[str, ...] = ("network.features", "network.classifier", "network.domain_classifier")
    on_bar: tuple[str, ...] = ("train/class_loss",)

    def __init__(
        self,
        *,
        network: Literal["paper", "modern"] | nn.Module = "modern",
        scaling: Literal["none", "symmetric", "standardized"] = "standardized",
        batch_norm: bool = True,
        dropout: float = 0.5,
        domain_width: int = 100,
        initialization: Literal["pytorch", "he"] = "pytorch",
        adapt: bool = True,
        reversal: bool = True,
        labelled: Literal["source", "target"] = "source",
        lambda_schedule: Schedule = "ganin",
        lambda_max: float = 1.0,
        bn_passes: Literal["separate", "concatenated"] = "separate",
        optimizer: Literal["adam", "sgd"] = "adam",
        lr: float = 1e-3,
        momentum: float = 0.5,
        lr_schedule: Literal["none", "ganin", "cosine"] = "cosine",
        ema_decay: float = 0.999,
        classes: int = 10,
        channels: int = 3,
        image_size: int = 28,
        class_names: Sequence[str] = (),
        resize: Literal["squash", "crop", "pad", "frame", "cut"] = "squash",
    ) -> None:
        super().__init__()
        validate_literals(DANNModule.__init__, locals())
        if adapt and labelled == "target":
            raise ValueError("with the target's labels there is nothing to adapt; take adapt=False")
        check_settings(locals(), amounts=("lr", "lambda_max"), shares=("dropout", "momentum", "ema_decay"))
        class_names = list(class_names)
        own = ["network"] if isinstance(network, nn.Module) else []
        self.save_hyperparameters(ignore=[*own, "members"])  # members are those of stacked ones
        self.adapt, self.reversal, self.labelled = adapt, reversal, labelled
        self.lambda_schedule, self.lambda_max, self.bn_passes = (
            SCHEDULES[lambda_schedule],
            lambda_max,
            bn_passes,
        )
        self.optimizer, self.lr, self.momentum, self.lr_schedule = optimizer, lr, momentum, lr_schedule
        self.rate = lr  # of this step
        self.ema_decay = ema_decay
        self.network = DomainAdversarialNetwork(
            network,
            scaling=scaling,
            batch_norm=batch_norm,
            dropout=dropout,
            domain_width=domain_width,
            initialization=initialization,
            classes=classes,
            channels=channels,
            image_size=image_size,
        )
        self.classes = classes
        if not adapt:  # DDP waits for gradients of all that is trainable
            self.network.domain_classifier.requires_grad_(False)
        self.average = copy.deepcopy(self.network).requires_grad_(False) if ema_decay else None
        self.source_scores, self.target_scores = DomainScores(is_target=False), DomainScores(is_target=True)

    @property
    def evaluated(self) -> DomainAdversarialNetwork:
        """The network that is evaluated: the average of the weights, if there is one."""
        return self.average or self.network

    def forward(self, images: Tensor) -> Tensor:
        """Map images of the target (B, C, H, H) in [0, 1] to class logits (B, classes)."""
        check_images(images)
        logits: Tensor = self.evaluated(images)
        return logits

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
        for target in inputs[2:]:
            self.check(target, None, batch_idx)
        if self.graphs is None:
            loss, found = self._losses(*inputs, **numbers)
            values = torch.stack([*found.values()])
        else:
            weight = {"weight": average_weight(self.ema_decay, self.trainer.global_step)}
            loss, *rest = self.graphs("step", self._whole_step, inputs, numbers | weight)
            values = torch.stack(rest)
        self.log_found(self.logged, values, {"lambda": numbers["strength"]} if numbers else {})
        return loss.sum()

    def check(self, images: Tensor, labels: Tensor | None, batch_idx: int) -> None:
        """Check a batch, see `check_batch`."""
        check_batch(images, labels, self.classes, batch_idx)

    @property
    def logged(self) -> tuple[str, ...]:
        """Names of what `training_step` finds."""
        of_domains = ("domain_loss", "domain_accuracy", "target_entropy")
        return ("class_loss", f"{self.labelled}_accuracy", *(of_domains if self.adapt else ()))

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

    def _losses(
        self, source: Tensor, labels: Tensor, target: Tensor | None = None, *, strength: float | Tensor = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and what is logged by the names of `logged`."""
        if target is None:
            found = self.each(self.class_losses)(self.network(source), labels)
            return found["class_loss"], found
        tell = self.network.tell_domain
        if self.bn_passes == "separate":
            with of_source(self.network):
                source_features = self.network.extract(source)
                logits = self.network.classifier(source_features)
                source_domain_logits = tell(reverse_gradient(source_features, strength))
            target_features = self.network.extract(target)
            target_domain_logits = tell(reverse_gradient(target_features, strength))
        else:
            features = self.network.extract(torch.cat([source, target], -4))
            sizes = [source.shape[-4], target.shape[-4]]
            source_features, target_features = features.split(sizes, -2)
            domain_logits = tell(reverse_gradient(features, strength))
            source_domain_logits, target_domain_logits = domain_logits.split(sizes, -1)
            with of_source(self.network):
                logits = self.network.classifier(source_features)
        with torch.no_grad():  # for the log, and for BatchNorm's statistics
            target_logits = self.network.classifier(target_features)
        found = self.each(self.class_losses)(logits, labels)
        found |= self.each(domain_losses)(source_domain_logits, target_domain_logits, target_logits)
        return found["class_loss"] + found["domain_loss"], found

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

    def _score(self, batch: Any, domain: int, batch_idx: int) -> None:
        images, labels = images_of(batch), labels_of(batch)
        if labels is None:
            labels = torch.full((len(images),), -1, device=images.device)
        check_batch(images, labels if domain == 0 else labels.clamp(min=0), self.classes, batch_idx)
        with of_source(self.evaluated, domain == 0):
            features = self.evaluated.extract(images)
            logits: Tensor = self.evaluated.classifier(features)
            domain_logits = self.evaluated.tell_domain(features)
        (self.source_scores, self.target_scores)[domain].update(logits, domain_logits, labels)

    def _log_scores(self, stage: str) -> None:
        for name, scores in {"source": self.source_scores, "target": self.target_scores}.items():
            if not scores.labels:
                continue
            for noun, value in scores.compute().items():
                # Nothing has taught the domain classifier where there was no adaptation.
                if self.adapt or not noun.startswith("domain"):
                    self.log(f"{stage}/{name}_{noun}", value, sync_dist=True)
            scores.reset()

    def on_validation_epoch_start(self) -> None:
        """Let all processes score one network."""
        broadcast_buffers(self, self.trainer.world_size)

    def on_test_epoch_start(self) -> None:
        """Let all processes score one network."""
        broadcast_buffers(self, self.trainer.world_size)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score source images (loader 0) or target images (loader 1)."""
        self._score(batch, dataloader_idx, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log val/source_accuracy, val/target_accuracy and the other scores."""
        self._log_scores("val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score source images (loader 0) or target images (loader 1)."""
        self._score(batch, dataloader_idx, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log test/source_accuracy, test/target_accuracy and the other scores."""
        self._log_scores("test")

    @torch.no_grad()
    def outputs(self, batches: Iterable[Tensor], *, source: bool = False) -> tuple[Tensor, Tensor]:
        """Return features (N, F) and class probabilities (N, classes) of many images, on the CPU.

        Args:
            batches: Images (B, C, H, H) in [0, 1], wherever they are.
            source: They are the source's, and go under the BatchNorm statistics kept of it.
        """
        network = self.evaluated.eval()
        features, probabilities = [], []
        with of_source(network, source):
            for images in batches:
                seen = network.extract(images.to(self.device))
                features.append(seen.float().cpu())
                probabilities.append(network.classifier(seen).float().softmax(1).cpu())
        return torch.cat(features), torch.cat(probabilities)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return probabilities (B, classes) of images (B, C, H, H), with or without labels beside them."""
        probabilities: Tensor = self(images_of(batch)).float().softmax(1)
        return probabilities

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam or SGD; the rate is set as each step starts."""
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        if self.optimizer == "sgd":
            return torch.optim.SGD(weights, lr=self.lr, momentum=self.momentum, fused=True)
        return torch.optim.Adam(weights, lr=self.lr, betas=(self.momentum, 0.999), fused=True)
