"""The networks of domain adaptation: features, classifier, classifier of domains."""

from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rdfia.adaptation.domain_statistics import (
    DomainBatchNorm,
    DomainBatchNorm1d,
    DomainBatchNorm2d,
    with_domain_statistics,
)
from rdfia.adaptation.trunk import Trunk
from rdfia.common.checks import check_images, looks_are_free


def width_of(features: nn.Module, channels: int, image_size: int) -> int:
    """Return how many features (B, F) a module makes of images (B, channels, image_size, image_size).

    Raises:
        ValueError: It does not take such images, or what it makes is something else.
    """
    was_training = features.training
    try:
        with torch.no_grad():
            made = features.eval()(torch.zeros(1, channels, image_size, image_size))
    except RuntimeError as error:
        shape = f"(B, {channels}, {image_size}, {image_size})"
        raise ValueError(f"the network does not take images {shape}: {error}") from error
    finally:
        features.train(was_training)
    if not isinstance(made, Tensor) or made.ndim != 2:
        seen = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(f"the network makes features (B, F), got {seen}")
    return made.shape[1]


def standardized(images: Tensor) -> Tensor:
    """Return images (B, C, H, W), each with mean 0 and standard deviation 1 over all of its values."""
    deviation, mean = torch.std_mean(images, (1, 2, 3), keepdim=True)
    return (images - mean) / (deviation + 1e-3)


def _stage(inputs: int, outputs: int, size: int, *, batch_norm: bool, pool: bool = False) -> list[nn.Module]:
    """Return a convolution and what follows it."""
    # BatchNorm has a bias of its own; after pooling there is a quarter of the work left for it.
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=not batch_norm)]
    layers += [nn.MaxPool2d(2)] if pool else []
    return [*layers, *([DomainBatchNorm2d(outputs)] if batch_norm else []), nn.ReLU()]


def _hidden(inputs: int, outputs: int, *, batch_norm: bool) -> list[nn.Module]:
    """Return a fully connected layer and what follows it."""
    layer = nn.Linear(inputs, outputs, bias=not batch_norm)
    return [layer, *([DomainBatchNorm1d(outputs)] if batch_norm else []), nn.ReLU()]


class DomainAdversarialNetwork(nn.Module):
    """Features of images, a classifier and a domain classifier on them.

    ``paper`` is the MNIST network of Ganin et al.: two 5x5 convolutions of 32 and 48 channels with pooling,
    a classifier with two hidden layers of 100, a 100-1 domain classifier. ``modern`` has five 3x3
    convolutions in place of the two, and adapts better: its features are smaller, deeper and leave the domain
    classifier less to go by.

    Args:
        trunk: ``paper`` or ``modern``; a pretrained network up to a layer, ``resnet50/avgpool``, see `Trunk`;
            or a module of your own that maps images (B, C, H, H), scaled as ``scaling`` says, to features
            (B, F) or to maps, which are flattened. Its BatchNorm keeps statistics of each domain;
            ``batch_norm``, ``dropout`` and ``initialization`` are of the heads.
        classes: Their number.
        channels: Of the images.
        image_size: Their side, at least 8.
        scaling: Of the images, the same in both domains: ``none`` keeps [0, 1], ``symmetric`` is [-1, 1],
            ``standardized`` takes each image's own mean and deviation, which undoes much of the shift;
            ``auto`` is that, but ``none`` for a pretrained network, which normalises as it was trained.
        batch_norm: After each layer but the last. A pass that holds one domain only is normalised by that
            domain's statistics, in evaluation too: see `of_source`.
        dropout: Of whole maps after the second stage, and of the classifier's hidden units: no map may carry
            the domain alone, so the domain classifier does not win early.
        bottleneck: Width of a layer between a pretrained network and a linear classifier, which is what all
            is adapted in; 0 for none, and a classifier with two hidden layers. By default 256 on a pretrained
            network, else 0.
        domain_width: Hidden units of the domain classifier.
        domain_layers: Hidden layers of the domain classifier.
        domain_inputs: The domain classifier takes so many times the features; 0 for no domain classifier.
        initialization: ``pytorch``, or ``he`` (He et al. 2015): larger weights, a faster start under SGD.
        trunk_trained: Of a pretrained network: ``all``, ``none``, or the layer from which on.
        trunk_batch_norm: See `Trunk`.
        weights: Of a pretrained network, see `Trunk`.
        data_dir: Where ``weights/`` lies.
    """

    def __init__(
        self,
        trunk: str | nn.Module = "modern",
        *,
        classes: int = 10,
        channels: int = 3,
        image_size: int = 28,
        scaling: Literal["auto", "none", "symmetric", "standardized"] = "auto",
        batch_norm: bool = True,
        dropout: float = 0.5,
        bottleneck: int | None = None,
        domain_width: int = 100,
        domain_layers: int = 1,
        domain_inputs: int = 1,
        initialization: Literal["pytorch", "he"] = "pytorch",
        trunk_trained: str = "all",
        trunk_batch_norm: Literal["kept", "adapted"] = "kept",
        weights: str = "imagenet",
        data_dir: str | None = None,
    ) -> None:
        super().__init__()
        if classes < 2 or channels < 1 or image_size < 8:
            raise ValueError(
                "there are at least 2 classes, 1 channel and 8 pixels on a side, got "
                f"{classes}, {channels} and {image_size}"
            )
        if scaling == "auto":
            scaling = "none" if isinstance(trunk, str) and "/" in trunk else "standardized"
        self.scaling, self.shape = scaling, (channels, image_size, image_size)
        self.trunk: Trunk | None = None

        hidden = partial(_hidden, batch_norm=batch_norm)
        stage = partial(_stage, batch_norm=batch_norm)
        if isinstance(trunk, str) and "/" in trunk:
            how: dict[str, Any] = {"weights": weights, "data_dir": data_dir, "image_size": image_size}
            self.trunk = Trunk(trunk, trained=trunk_trained, batch_norm=trunk_batch_norm, **how)
            width, bottleneck = self.trunk.width, 256 if bottleneck is None else bottleneck
            self.features = nn.Sequential(*(hidden(width, bottleneck) if bottleneck else ()))
        elif isinstance(trunk, nn.Module):
            self.features = nn.Sequential(with_domain_statistics(trunk), nn.Flatten())
            width = width_of(self.features, channels, image_size)
        elif trunk == "paper":
            width = 48 * (image_size // 4) ** 2
            self.features = nn.Sequential(
                *stage(channels, 32, 5, pool=True),
                *stage(32, 48, 5, pool=True),
                nn.Dropout2d(dropout),
                nn.Flatten(),
            )
        elif trunk == "modern":
            width = 64 * (image_size // 8) ** 2
            self.features = nn.Sequential(
                *stage(channels, 32, 3),
                *stage(32, 32, 3, pool=True),
                nn.Dropout2d(dropout / 2),
                *stage(32, 64, 3),
                *stage(64, 64, 3, pool=True),
                nn.Dropout2d(dropout),
                *stage(64, 64, 3),
                nn.AvgPool2d(2),
                nn.Flatten(),
            )
        else:
            raise ValueError(
                f"network is paper, modern, or a backbone and its layer as resnet50/avgpool; got {trunk!r}"
            )
        if bottleneck and self.trunk is None:
            self.features.extend(hidden(width, bottleneck))
        width = bottleneck or width
        self.width, self.classes, self.bottleneck = width, classes, bottleneck or 0
        self.batch_norm, self.dropout = batch_norm, dropout
        self.classifier: nn.Module = self.new_classifier()
        self.domain_classifier: nn.Sequential | None = None
        if domain_inputs:
            widths = [domain_inputs * width, *[domain_width] * domain_layers]
            layers = [layer for ends in pairwise(widths) for layer in hidden(*ends)]
            self.domain_classifier = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        if initialization == "he":
            parts = [*([] if isinstance(trunk, nn.Module) else [self.features]), self.classifier]
            parts += [self.domain_classifier] if self.domain_classifier else []
            for layer in (layer for part in parts for layer in part.modules()):
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(layer.weight)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)  # convolutions are faster with the channels last
        self.channels_last = True

    def new_classifier(self) -> nn.Sequential:
        """Return a classifier of features, with random weights."""
        if self.bottleneck:
            return nn.Sequential(nn.Dropout(self.dropout), nn.Linear(self.width, self.classes))
        first, second = (_hidden(width, 100, batch_norm=self.batch_norm) for width in (self.width, 100))
        return nn.Sequential(*first, nn.Dropout(self.dropout), *second, nn.Linear(100, self.classes))

    def be_stackable(self) -> None:
        """Leave out what networks that are stacked cannot do: see `rdfia.common.stacked`."""
        self.channels_last = False
        for layer in self.modules():
            if isinstance(layer, DomainBatchNorm):
                layer.in_float32 = True

    def extract(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, H) in [0, 1] to features (B, F).

        Features (B, F') of a pretrained network, made before, may be given in their place.

        Raises:
            ValueError: They have another size.
        """
        if self.trunk is not None and images.ndim == 2:  # features of the trunk, made before
            if images.shape[1] != self.trunk.width:
                made = f"the pretrained network makes {self.trunk.width} features"
                raise ValueError(f"{made}, got {images.shape[1]}; extract them from the same layer")
            return self.extract_unchecked(images)
        if images.shape[1:] != self.shape:
            size, wanted = (" x ".join(map(str, shape)) for shape in (images.shape[1:], self.shape))
            channels, side, _ = self.shape
            mend = f"give the data module image_size={side}, and channels={channels} if it has a choice"
            raise ValueError(f"images of {wanted} wanted, got {size}; {mend}")
        # To look makes a GPU wait; `DANNModule` looks at first batches there.
        if looks_are_free(images):
            check_images(images)
        return self.extract_unchecked(images)

    def extract_unchecked(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, H), near [0, 1], to features (B, F): noisy copies of images, say."""
        if self.scaling == "symmetric":
            images = images * 2 - 1
        elif self.scaling == "standardized":
            images = standardized(images)
        if self.trunk is not None:
            images = images if images.ndim == 2 else self.trunk(images)
        elif self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.features(images)
        return features

    def tell_domain(self, features: Tensor) -> Tensor:
        """Map features (B, F) to logits (B,), large where they look like the target's."""
        assert self.domain_classifier is not None
        logits: Tensor = self.domain_classifier(features)
        return logits[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, H) in [0, 1] to class logits (B, classes)."""
        logits: Tensor = self.classifier(self.extract(images))
        return logits
