"""What a classifier makes of a photograph: classes, maps, the photographs nearest to it, what fools it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from datamodules.images import decode, shaping
from rdfia.common.backbones import Backbone, imagenet_classes
from rdfia.explore.pictures import address, as_tensor, map_address, read
from rdfia.interpret.activations import last_maps
from rdfia.interpret.adversarial import fool
from rdfia.interpret.saliency import grad_cam, gradient, smooth_grad
from rdfia.trained import TrainedClassifier

NEAREST, LIKELIEST = 4, 5
NOISY_COPIES = 12  # of SmoothGrad; 50 is usual, and takes four times as long
MOST_STEPS = 60  # of fooling; most photographs need fewer than 10


@dataclass
class Photographs:
    """A classifier with the photographs that new ones are compared with.

    Attributes:
        network: A pretrained network, or a classifier of one's own.
        classes: Their names.
        mode: Whether it is given grey images or colour.
        shape: How pictures become the squares that it is given, see `datamodules.images.shaping`.
        layer: Whose features are compared, and whose maps Grad-CAM weighs.
        names: Of the photographs to compare with.
        shown: Their addresses, small.
        features: (N, D), each of length 1.
    """

    network: Backbone | TrainedClassifier
    classes: Sequence[str]
    mode: Literal["L", "RGB"]
    shape: dict[str, Any]
    layer: str
    names: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    features: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    @classmethod
    def of(cls, network: Backbone | TrainedClassifier, pictures: Sequence[Path]) -> "Photographs":
        """Return a classifier ready to be asked; the features of pictures are computed here."""
        classes: Sequence[str]
        if isinstance(network, Backbone):
            classes, channels, size, resize = imagenet_classes(), 3, 224, "crop"
        else:
            network.check_complete()
            if network.resize in ("frame", "cut"):
                raise ValueError(f"{network.name} is a classifier of digits; name one of photographs")
            classes, channels = network.classes, network.channels
            size, resize = network.image_size, network.resize
        mode: Literal["L", "RGB"] = "L" if channels == 1 else "RGB"
        layer = last_maps(network, torch.zeros(1, channels, size, size), len(classes))
        found = cls(network, classes, mode, shaping(resize, size), layer)
        features = []
        for path in pictures:
            image = as_tensor(decode(path, mode=mode, **found.shape))
            features.append(found._features(image))
            found.names.append(path.parent.name + "/" + path.name)
            found.shown.append(address(nn.functional.interpolate(image, 96, mode="area")[0]))
        if features:
            found.features = torch.cat(features)
        return found

    @property
    def measure(self) -> str:
        """What the shares of classes are."""
        kind = "probability" if isinstance(self.network, Backbone) else self.network.kind
        return (
            "probabilities"
            if kind == "probability"
            else f"the softmax of {kind}s, which are no probabilities"
        )

    def read(self, content: bytes) -> Tensor:
        """Return a picture as the network is given it, (1, C, H, W) in [0, 1].

        Raises:
            ValueError: It is no picture, a damaged one, or too large.
        """
        return as_tensor(read(content, self.mode, **self.shape))

    @torch.no_grad()
    def _features(self, image: Tensor) -> Tensor:
        maps = self.network.tap(image, [self.layer])[self.layer]
        return normalize(maps.mean((2, 3)).float())

    def look(self, image: Tensor) -> dict[str, Any]:
        """Return what the classifier says of an image (1, 3, size, size) in [0, 1], and by which pixels."""
        with torch.no_grad():
            shares = self.network(image).float().softmax(1)[0]
        likeliest = shares.topk(min(LIKELIEST, len(self.classes)))
        first = likeliest.indices[:1]
        maps = {
            "gradient": gradient(self.network, image, first)[0],
            f"SmoothGrad, {NOISY_COPIES} copies": smooth_grad(
                self.network, image, first, samples=NOISY_COPIES
            )[0],
            f"Grad-CAM at {self.layer}": grad_cam(self.network, image, first, self.layer)[0],
        }
        return {
            "given": address(image[0]),
            "classes": [
                {"name": self.classes[index], "share": share}
                for share, index in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
            ],
            "maps": {name: map_address(values) for name, values in maps.items()},
        }

    def nearest(self, image: Tensor) -> dict[str, Any]:
        """Return the photographs whose features are nearest, by the cosine."""
        alike = (self.features @ self._features(image)[0]) if len(self.names) else torch.zeros(0)
        order = alike.argsort(descending=True)[:NEAREST].tolist()
        found = [{"name": self.names[n], "image": self.shown[n], "cosine": float(alike[n])} for n in order]
        return {"of": len(self.names), "layer": self.layer, "nearest": found}

    def fooled(self, image: Tensor) -> dict[str, Any]:
        """Return what it takes to let the classifier prefer what it takes for the second likeliest."""
        with torch.no_grad():
            order = self.network(image).float()[0].argsort(descending=True)
        if len(order) < 2:
            raise ValueError("the classifier knows one class; there is nothing to mistake it for")
        found = fool(self.network, image, order[:1], order[1:2], rate=0.2, max_steps=MOST_STEPS)
        change = found.images - image
        times = max(1, int(0.5 / max(float(change.abs().max()), 1e-3)))
        return {
            "before": self.classes[int(order[0])],
            "wanted": self.classes[int(order[1])],
            "after": self.classes[int(found.after[0])],
            "success": bool(found.success[0]),
            "steps": int(found.gradients[0]),
            "l2": float(found.l2[0]),
            "psnr": float(found.psnr[0]),
            "largest": round(float(found.linf[0]) * 255),
            "image": address(found.images[0]),
            "difference": address(0.5 + times * change[0]),
            "times": times,
        }
