"""Pretrained networks as the features of domain adaptation: trained whole, from a layer on, or not at all."""

from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rdfia.adaptation.domain_statistics import with_domain_statistics
from rdfia.common.backbones import Backbone, load_backbone
from rdfia.common.features import layer_features, train_up_to
from rdfia.common.weights import weights_hash


@lru_cache(maxsize=2)
def _frozen(name: str, weights: str, data_dir: str | None) -> Backbone:
    """Return a network that nothing trains, the same for all who ask."""
    return load_backbone(name, weights=weights, data_dir=data_dir)


@lru_cache(maxsize=2)
def _hash(backbone: Backbone) -> str:
    return weights_hash(backbone)


class _Held:
    """A network that modules hold, and copy, without it being a part of theirs."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def __deepcopy__(self, memo: Any) -> "_Held":
        return self


class Trunk(nn.Module):
    """A pretrained CNN up to a layer, averaged over places: images (B, 3, H, W) in [0, 1] to (B, F).

    A trunk of which nothing is trained is no part of the module's state: a checkpoint has its name and the
    hash of its weights, which must be there when it is loaded. Features that it made before can be given in
    place of images.

    Args:
        network: ``backbone/layer``, as ``resnet50/avgpool``; see `rdfia.common.backbones.load_backbone`.
        trained: ``all``, ``none``, or the name of the layer from which on it is trained.
        batch_norm: ``kept``: its BatchNorm normalises by the statistics it came with. ``adapted``: by those
            of the batch, and in evaluation of each domain.
        weights: ``imagenet``, ``random`` or a file.
        data_dir: Where ``weights/`` lies.
        image_size: Side of the images.

    Raises:
        ValueError: There is no such network or layer, or what is trained makes no features.
    """

    def __init__(
        self,
        network: str,
        *,
        trained: str = "all",
        batch_norm: Literal["kept", "adapted"] = "kept",
        weights: str = "imagenet",
        data_dir: str | None = None,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        name, _, self.layer = network.partition("/")
        if not self.layer:
            raise ValueError(f"network {network!r}: name a layer of it, as resnet50/avgpool")
        self.trained, self.batch_norm = trained, batch_norm
        self.image_size = image_size
        self.backbone: Backbone | None = None
        self._held: _Held | None = None
        if trained == "none" and batch_norm == "adapted":
            raise ValueError("a trunk of which nothing is trained keeps its BatchNorm statistics")
        if trained == "none" and weights != "random":
            self._held = _Held(_frozen(name, weights, data_dir))
            self.width = _frozen_width(self._held.backbone, self.layer, image_size)
        else:
            self.backbone = load_backbone(name, weights=weights, data_dir=data_dir)
            self.width = _width(
                self.backbone, self.layer, image_size
            )  # says what is wrong with size and layer
            if batch_norm == "adapted":
                with_domain_statistics(self.backbone)
            self.backbone.requires_grad_(False)
            self._choose_trained()

    @property
    def network(self) -> Backbone:
        """The pretrained network."""
        found = self.backbone or (self._held.backbone if self._held else None)
        assert found is not None
        return found

    @property
    def weights_hash(self) -> str | None:
        """Hash of the weights, where they are no part of the module's state."""
        return None if self._held is None else _hash(self._held.backbone)

    def _choose_trained(self) -> None:
        assert self.backbone is not None
        if self.trained == "none":
            return
        used = {id(weight) for weight in train_up_to(self.backbone, self.layer, self.image_size)}
        if self.trained == "all":
            return
        self.backbone.find_layer(self.trained)
        path = self.backbone.layers.get(self.trained, self.trained)
        order = [name for name, _ in self.backbone.network.named_modules()]
        first = order.index(path)
        for number, module in enumerate(self.backbone.network.modules()):
            for weight in module.parameters(recurse=False):
                weight.requires_grad_(number >= first and id(weight) in used)
        if not any(weight.requires_grad for weight in self.backbone.parameters()):
            raise ValueError(f"{self.layer} depends on no weights of {self.trained}; train an earlier layer")

    def own(self) -> None:
        """Make the network a part of the module, to export it."""
        self.backbone, self._held = self.network, None

    def train(self, mode: bool = True) -> "Trunk":
        """Keep the network in eval mode, but for BatchNorm that is adapted."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
            for module in self.backbone.modules() if mode and self.batch_norm == "adapted" else ():
                if isinstance(module, nn.BatchNorm2d):
                    module.train()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to features (B, F)."""
        network = self.network
        if self._held is not None:
            network.to(images.device)
        images = images.contiguous(memory_format=torch.channels_last)
        return layer_features(network, images, [self.layer], grids=(1,))[self.layer]


def _width(backbone: Backbone, layer: str, image_size: int) -> int:
    """Return how many features a layer has."""
    backbone.find_layer(layer)
    image = torch.zeros(1, 3, image_size, image_size, device=backbone.mean.device)
    try:
        with torch.no_grad():
            return layer_features(backbone, image, [layer], grids=(1,))[layer].shape[1]
    except RuntimeError as error:
        size = f"images of {image_size} x {image_size}, give a larger image_size"
        raise ValueError(f"{backbone.name} does not take {size}: {error}") from error


_frozen_width = lru_cache(maxsize=2)(_width)
