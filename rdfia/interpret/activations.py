"""Activation maps: what a layer of a network answers to an image, place by place."""

from typing import Any, Literal

import torch
from torch import Tensor

from rdfia.common.backbones import Backbone


@torch.no_grad()
def activation_maps(
    backbone: Backbone,
    images: Tensor,
    layer: str,
    *,
    count: int = 16,
    order: Literal["strongest", "first"] = "strongest",
) -> tuple[Tensor, Tensor]:
    """Return maps of a layer for images (B, 3, H, W) in [0, 1].

    Args:
        backbone: See `rdfia.common.backbones.load_backbone`.
        images: (B, 3, H, W) in [0, 1].
        layer: Its name; its output has maps (B, C, h, w).
        count: Maps of each image, at most C.
        order: The channels with the largest mean absolute value, falling, or the first ones.

    Returns:
        Maps (B, count, h, w) and the numbers of their channels (B, count).

    Raises:
        ValueError: The layer has no maps, or fewer.
    """
    output = backbone.tap(images, [layer])[layer].float()
    if output.ndim != 4:
        raise ValueError(f"{layer} of {backbone.name} has no maps, its output is {tuple(output.shape[1:])}")
    if not 1 <= count <= output.shape[1]:
        raise ValueError(f"{layer} of {backbone.name} has {output.shape[1]} maps, asked for {count}")
    channels = torch.arange(output.shape[1], device=output.device).expand(len(images), -1)
    if order == "strongest":
        channels = output.abs().mean((2, 3)).argsort(dim=1, descending=True, stable=True)
    channels = channels[:, :count]
    return output[torch.arange(len(images))[:, None], channels], channels


def last_maps(network: Any, image: Tensor, classes: int) -> str:
    """Return the name of the deepest layer with maps of more than one place, which are not one per class.

    Args:
        network: A `Backbone`, or a classifier that knows its layers as it does.
        image: (1, C, H, W), any of the size that it is given.
        classes: Their number.

    Raises:
        ValueError: There is none.
    """
    layers = network.usable_layers()
    outputs = network.tap(image.to(network.mean.device), layers)
    found = [
        layer
        for layer in layers
        if outputs[layer].ndim == 4 and outputs[layer].shape[-1] > 1 and outputs[layer].shape[1] != classes
    ]
    if not found:
        raise ValueError(f"{network.name} has no layer with maps")
    return str(found[-1])
