"""Transfer learning as the classic practical does it: a frozen CNN, its features, a linear SVM on them.

Razavian et al., "CNN Features off-the-shelf: an Astounding Baseline for Recognition", 2014. The SVM is the
exact one of `rdfia.transfer.linear_svm`; fitted, it is one linear layer, and the whole predicts as a network
does.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from torch import Tensor, distributed, nn
from torchmetrics.classification import MulticlassAccuracy

from datamodules.files import atomic_file
from rdfia.common.backbones import load_backbone
from rdfia.common.batches import images_and_labels, images_of
from rdfia.common.features import layer_features
from rdfia.common.literals import validate_literals
from rdfia.common.memory import free_memory
from rdfia.common.weights import weights_hash
from rdfia.transfer.gram import gram_matrix, signed_root, standard_scale
from rdfia.transfer.linear_svm import LinearClassifier, Scaling, c_grid, choose_c, fit_svm


class FeatureExtractorSVM(lightning.LightningModule):
    """A frozen pretrained CNN and a linear SVM on the outputs of one or several of its layers.

    Fit it for one epoch with a data module whose training loader gives each image once
    (``Scene15DataModule(shuffle=False)``): the features are collected, over all processes, and the SVM is
    fitted on them with the last batch, before validation. C is chosen by cross-validation on the training
    images unless it is given. Checkpoints hold the SVM, not the CNN, which is loaded by its name.

    Args:
        backbone: See `rdfia.common.backbones.load_backbone`.
        layers: Common names of layers. The features of several are set side by side.
        weights: ``imagenet``, ``random`` or a file.
        data_dir: Where ``weights/`` lies.
        channels: 1 for grey images, see `rdfia.common.backbones.load_backbone`.
        grids: Average each map over the cells of these grids (1: over all of it); none keeps the whole map.
        flip: Average the features of each image and its mirror image.
        scaling: ``l2`` divides each layer's features by their length, ``power`` takes their signed square
            roots first, ``standard`` gives each feature mean 0 and deviation 1, ``raw`` leaves them.
        c: Cost of errors; None chooses it.
        folds: Of the cross-validation.
        multi_class: ``ovo`` or ``ovr``, see `rdfia.transfer.linear_svm.fit_svm`.
        balanced: Weigh errors by one over the size of their class, see `rdfia.transfer.linear_svm.fit_svm`.
        seed: Of the folds.
        class_names: Names of the classes, kept with the checkpoint.
        image_size: Side of the images that it is fitted on, kept for those that it is shown later.
        resize: How those became square, see `datamodules.InMemoryDataModule.resized`; kept too.

    Example:
        >>> import torch
        >>> module = FeatureExtractorSVM(backbone="squeezenet1_1", layers=["fire9"])
        >>> module.extract(torch.rand(2, 3, 224, 224)).shape
        torch.Size([2, 86528])
    """

    classifier: LinearClassifier | None
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        backbone: str = "vgg16",
        layers: Sequence[str] = ("pool5",),
        weights: str = "imagenet",
        data_dir: str | None = None,
        channels: Literal[1, 3] = 3,
        grids: Sequence[int] = (),
        flip: bool = False,
        scaling: Scaling = "l2",
        c: float | None = None,
        folds: int = 5,
        multi_class: Literal["ovo", "ovr"] = "ovo",
        balanced: bool = False,
        seed: int = 0,
        class_names: Sequence[str] = (),
        image_size: int = 224,
        resize: Literal["squash", "crop", "pad", "frame", "cut"] = "squash",
    ) -> None:
        super().__init__()
        validate_literals(FeatureExtractorSVM.__init__, locals())
        layers, grids, class_names = list(layers), list(grids), list(class_names)
        data_dir = None if data_dir is None else str(data_dir)
        weights = str(weights) if isinstance(weights, Path) else weights
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints leave the CNN out
        self.backbone = load_backbone(backbone, weights=weights, data_dir=data_dir, channels=channels)
        self.backbone.to(memory_format=torch.channels_last)  # convolutions are faster so
        for layer in layers:
            self.backbone.find_layer(layer)  # a wrong name is said now
        self.random_weights = weights == "random"  # known by no name: checkpoints hold them
        self.layers, self.grids, self.flip, self.scaling = layers, grids, flip, scaling
        self.c, self.folds, self.multi_class, self.seed = c, folds, multi_class, seed
        self.balanced = balanced
        self.classifier = None
        self.register_buffer("shift", torch.zeros(0))
        self.register_buffer("scale", torch.zeros(0))
        self.accuracy: MulticlassAccuracy | None = None
        self.cross_validation: Tensor | None = None
        self.fitted: dict[str, float] = {}
        # DDP refuses a module without any, and Lightning saves no checkpoint where no optimizer has stepped.
        self.placeholder = nn.Parameter(torch.zeros(()))
        self._features: list[Tensor] = []
        self._labels: list[Tensor] = []

    def train(self, mode: bool = True) -> "FeatureExtractorSVM":
        """Keep the CNN in eval mode: its BatchNorm statistics do not move."""
        super().train(mode)
        self.backbone.eval()
        return self

    def extract(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to features (B, d) float32, the layers side by side."""
        if images.ndim == 4:  # others are named by what follows
            images = images.contiguous(memory_format=torch.channels_last)
        found = layer_features(self.backbone, images, self.layers, grids=self.grids, flip=self.flip)
        return torch.cat([self.scaled(features.float()) for features in found.values()], 1)

    def scaled(self, features: Tensor) -> Tensor:
        """Scale the features (B, d) of a layer, each image's by themselves."""
        if self.scaling == "power":
            features = signed_root(features)
        return nn.functional.normalize(features) if self.scaling in ("l2", "power") else features

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to scores (B, classes): votes among pairs, or distances.

        Raises:
            ValueError: The SVM was not fitted yet.
        """
        if self.classifier is None:
            raise ValueError("the SVM is not fitted; run trainer.fit for one epoch, or load a checkpoint")
        features = self.extract(images)
        if self.scaling == "standard":
            features = (features - self.shift) / self.scale
        scores: Tensor = self.classifier(features)
        return scores

    def on_fit_start(self) -> None:
        """Begin with no features.

        Raises:
            ValueError: The trainer has precision 16-mixed, whose scaler wants gradients.
        """
        if self.trainer.precision == "16-mixed":
            raise ValueError("features are computed in precision 32-true or bf16-mixed, not 16-mixed")
        self._features.clear()
        self._labels.clear()

    @torch.no_grad()
    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Collect features; with the last batch, fit the SVM."""
        images, labels = images_and_labels(batch)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step()  # of nothing, but it is counted
        found = self.extract(images)
        self._features.append(found)
        size = found.nbytes * len(self._features)
        if found.device.type != "cpu" and free_memory(found.device) < 4 * size:
            self._features = [part.cpu() for part in self._features]
        self._labels.append(labels.cpu())
        if len(self._labels) != batch_idx + 1:
            raise ValueError(
                "features were collected from the middle of an epoch on; fit again, without ckpt_path"
            )
        if self.trainer.is_last_batch:
            together = len({part.device for part in self._features}) == 1
            parts = self._features if together else [part.cpu() for part in self._features]
            self.fit_features(*self._gather(torch.cat(parts), torch.cat(self._labels)))
            self.log_dict(self.fitted)
            self._features.clear()
            self._labels.clear()

    def _gather(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of all processes, in the order that one process would have seen."""
        world_size = self.trainer.world_size
        if world_size == 1:
            return features, labels
        shares: list[Any] = [None] * world_size
        distributed.all_gather_object(shares, (features.cpu(), labels))
        # Process r saw the images r, r + world_size, ...
        order = torch.cat([torch.arange(len(share[1])) * world_size + r for r, share in enumerate(shares)])
        indices = order.argsort()
        all_features, all_labels = (torch.cat(parts) for parts in zip(*shares, strict=True))
        return all_features[indices], all_labels[indices]

    def fit_features(self, features: Tensor, labels: Tensor) -> None:
        """Choose C and fit the SVM on what `extract` gave, (N, d), and labels (N,).

        For features from elsewhere; ``trainer.fit`` collects them and calls this, on every process alike.

        Raises:
            ValueError: Their inner products do not fit in memory.
        """
        needed = 16 * len(labels) ** 2  # in float64, and the part of the folds once more
        if needed > (free := free_memory()):
            raise ValueError(
                f"{len(labels):,} images have inner products of {needed / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB are free; take fewer, or FineTuneModule with a frozen network"
            )
        everything = torch.arange(len(labels))
        if self.scaling == "standard":
            shift, scale = standard_scale(features.__getitem__, everything)
            self.shift, self.scale = shift.float().to(self.device), scale.float().to(self.device)
            features = (features - shift.float()) / scale.float()
        gram = gram_matrix(features.__getitem__, len(labels))
        c = self.c
        how: dict[str, Any] = {"multi_class": self.multi_class, "balanced": self.balanced}
        if c is None:
            c, _, accuracies = choose_c(gram, labels, c_grid(gram), folds=self.folds, seed=self.seed, **how)
            self.cross_validation = accuracies
        svm = fit_svm(gram, labels, c, **how)
        self.classifier = svm.to_linear(features.__getitem__, everything).to(self.device)
        self.fitted = {"train/c": float(c)}
        self.fitted |= {"train/accuracy": (svm.predict(gram) == labels).double().mean().item()}
        if self.cross_validation is not None:
            self.fitted["train/cross_validation_accuracy"] = self.cross_validation.mean(1).max().item()

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        self._count()

    def on_test_epoch_start(self) -> None:
        """Start counting."""
        self._count()

    def _count(self) -> None:
        if self.classifier is not None and self.accuracy is None:
            count = int(self.classifier.classes.max()) + 1
            self.accuracy = MulticlassAccuracy(count, average="micro").to(self.device)

    def _score(self, batch: Any, name: str) -> None:
        if self.accuracy is not None and self.classifier is not None:
            images, labels = images_and_labels(batch)
            self.accuracy.update(self.classifier.classes[self(images).argmax(1)], labels)
            self.log(name, self.accuracy)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log val/accuracy; nothing before the SVM is fitted, as in Lightning's sanity check."""
        self._score(batch, "val/accuracy")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log test/accuracy."""
        self._score(batch, "test/accuracy")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return labels (B,) for images (B, 3, H, W), with or without labels beside them."""
        scores = self(images_of(batch))
        assert self.classifier is not None
        return self.classifier.classes[scores.argmax(1)]

    def export(self, path: str | Path, image_size: int = 224) -> None:
        """Write CNN and SVM as one ``torch.export`` program: images (B, 3, H, W) in [0, 1] to scores.

        Any number of images of that size; ``torch.export.load(path).module()`` runs it without this package.
        """
        example = torch.zeros(2, len(self.backbone.mean), image_size, image_size, device=self.device)
        whole = copy.deepcopy(self).eval()
        used: set[nn.Module] = set()
        for module in whole.backbone.modules():
            module.register_forward_hook(lambda module, inputs, output: used.add(module))
        whole(example)
        for module in set(whole.backbone.modules()) - used:
            for weight in module.parameters(recurse=False):
                # Layers behind the features go into the file as one number each; the graph does not use them.
                weight.data = torch.zeros(1, device=self.device).expand(weight.shape)
        batch = torch.export.Dim("batch")
        program = torch.export.export(whole, (example,), dynamic_shapes=({0: batch},), strict=False)
        with atomic_file(Path(path)) as part, part.open("wb") as file:
            torch.export.save(program, file)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one that changes nothing: the SVM has a solver of its own."""
        return torch.optim.SGD([self.placeholder], lr=0.0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the CNN out: it is known by its name and a hash of its weights."""
        left_out = ("placeholder",) if self.random_weights else ("placeholder", "backbone.")
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(left_out)}
        checkpoint["backbone_hash"] = weights_hash(self.backbone)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the fitted SVM.

        Raises:
            ValueError: The CNN has other weights than the one that the SVM was fitted on.
        """
        if not self.random_weights and checkpoint["backbone_hash"] != weights_hash(self.backbone):
            raise ValueError(
                f"the SVM was fitted on other weights of {self.backbone.name} than those found now"
            )
        state = checkpoint["state_dict"]
        self.shift, self.scale = torch.empty_like(state["shift"]), torch.empty_like(state["scale"])
        if "classifier.linear.weight" in state:
            weights, biases = state["classifier.linear.weight"], state["classifier.linear.bias"]
            classes = state["classifier.classes"]
            self.classifier = LinearClassifier(weights, biases, classes, self.multi_class == "ovo")
