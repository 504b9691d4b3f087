"""Saliency: which pixels of an image the score of a class depends on, and how far such a map can be trusted.

Functions of any classifier of images in [0, 1], which they leave as it was: weights, gradients, mode, hooks.
Maps are on a scale of their own, never stretched image by image, so that maps can be compared.

- `gradient`: Simonyan et al., "Deep Inside Convolutional Networks", 2014.
- `smooth_grad`: Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017.
- `integrated_gradients`: Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017.
- `grad_cam`: Selvaraju et al., "Grad-CAM", ICCV 2017.
- `deletion_and_insertion`: after Petsiuk et al., "RISE", BMVC 2018; `random_maps` are its chance level.
- `cascading_randomization`: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018.

    python scripts/visualize.py saliency --data-dir /path/to/data
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import ConstantInputWarning, spearmanr
from torch import Tensor, nn
from torch.nn import functional

from rdfia.common.checks import Classes, as_classes, check_images
from rdfia.common.draws import keyed_generator
from rdfia.common.exact import exact
from rdfia.common.progress import progress
from rdfia.interpret.classifier import class_gradient, find_module, frozen_eval, own_logits


def channel_max(attributions: Tensor) -> Tensor:
    """Return the largest absolute value over the channels, (B, C, H, W) to (B, H, W)."""
    return attributions.abs().amax(1)


@exact()
def gradient(model: nn.Module, images: Tensor, labels: Classes, *, batch_size: int = 64) -> Tensor:
    """Return maps (B, H, W): the absolute gradient of the logit, its maximum over the channels.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the classes asked about.
        batch_size: Images that go through the model at once.
    """
    check_images(images)
    labels = as_classes(labels, images)
    parts = list(zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True))
    return torch.cat([channel_max(class_gradient(model, *part)) for part in progress(parts, "gradients")])


@exact()
def mean_gradient(
    model: nn.Module,
    views: Callable[[Tensor, Tensor], Tensor],
    labels: Tensor,
    weights: Tensor,
    batch_size: int,
) -> Tensor:
    """Return the weighted sum of `class_gradient` over several views of each image, (B, C, H, W).

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        views: Maps numbers of images (N,) and of their views (N,) to images (N, C, H, W).
        labels: (B,), the classes asked about.
        weights: (V,), of the views.
        batch_size: Views that go through the model at once, which bounds the memory.
    """
    count, total = len(weights), None
    every = torch.arange(len(labels) * count, device=labels.device)
    for pairs in progress(torch.split(every, batch_size), "gradients"):
        indices, numbers = pairs // count, pairs % count
        gradients = class_gradient(model, views(indices, numbers), labels[indices])
        if total is None:
            total = gradients.new_zeros(len(labels), *gradients.shape[1:])
        total.index_add_(0, indices, gradients * weights.to(gradients)[numbers, None, None, None])
    assert total is not None
    return total


def smooth_grad(
    model: nn.Module,
    images: Tensor,
    labels: Classes,
    *,
    samples: int = 50,
    noise: float = 0.15,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """Return maps (B, H, W): the mean gradient of noisy copies, absolute, its maximum over the channels.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the classes asked about.
        samples: Noisy copies of each image.
        noise: Standard deviation over the range of each image, from its darkest to its brightest value.
        seed: Of the noise, which is the same for all images: a map does not depend on the other images.
        batch_size: Copies that go through the model at once, which bounds the memory.
    """
    check_images(images)
    labels = as_classes(labels, images)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([torch.randn(images.shape[1:], generator=generator) for _ in range(samples)])
    drawn = drawn.to(images)
    deviations = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))

    def noisy(indices: Tensor, numbers: Tensor) -> Tensor:
        return images[indices] + deviations[indices] * drawn[numbers]

    weights = torch.full((samples,), 1 / samples)
    return channel_max(mean_gradient(model, noisy, labels, weights, batch_size))


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Classes,
    *,
    baseline: float | Tensor = 0.0,
    steps: int = 50,
    batch_size: int = 64,
) -> Tensor:
    """Return attributions (B, C, H, W) that add up to the logit of the image less that of the baseline.

    ``channel_max`` makes a map of them. The integral over the way from the baseline to the image is taken by
    Gauss-Legendre quadrature.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the classes asked about.
        baseline: What stands for an image of nothing; a number, or a tensor that broadcasts with the images.
        steps: Places on the way.
        batch_size: Places that go through the model at once, which bounds the memory.
    """
    check_images(images)
    labels = as_classes(labels, images)
    places_on_way, weights = np.polynomial.legendre.leggauss(steps)
    alpha = torch.from_numpy((1 + places_on_way) / 2).to(images)
    start = torch.as_tensor(baseline).to(images).expand_as(images)

    def on_the_way(indices: Tensor, numbers: Tensor) -> Tensor:
        return torch.lerp(start[indices], images[indices], alpha[numbers, None, None, None])

    input_gradients = mean_gradient(model, on_the_way, labels, torch.from_numpy(weights / 2), batch_size)
    return input_gradients * (images - start)


@exact()
def grad_cam(
    model: nn.Module,
    images: Tensor,
    labels: Classes,
    layer: nn.Module | str,
    *,
    upsample: bool = True,
    batch_size: int = 64,
) -> Tensor:
    """Return maps (B, H, W), not negative: where the layer's maps speak for the class.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the classes asked about.
        layer: A module of the model, or its name, whose output has maps, usually the last one. Of one that is
            used several times in a pass, such as the ReLU of a residual block, the last use counts.
        upsample: To the size of the images; else (B, h, w) as the layer has it.
        batch_size: Images that go through the model at once.

    Raises:
        ValueError: The layer's output has no maps, or the logits do not depend on it.
    """
    check_images(images)
    labels, layer = as_classes(labels, images), find_module(model, layer)
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
        kept.append(output)
        return (
            output.clone() if isinstance(output, Tensor) else output
        )  # what follows may work in place, and would overwrite what is kept

    found = []
    with frozen_eval(model) as ask, torch.enable_grad():
        handle = layer.register_forward_hook(keep)
        try:
            parts = list(zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True))
            for part, asked in progress(parts, "Grad-CAM"):
                kept.clear()
                # Without this, nothing before the layer would need gradients, nor the layer's maps.
                logits = ask(part.detach().requires_grad_())
                if not kept or not isinstance(kept[-1], Tensor) or kept[-1].ndim != 4:
                    raise ValueError(f"{type(layer).__name__} gives no maps (B, C, h, w) for Grad-CAM")
                score = own_logits(logits, asked).sum()
                (gradients,) = torch.autograd.grad(score, kept[-1], allow_unused=True)
                if gradients is None:
                    raise ValueError(f"the classes do not depend on this {type(layer).__name__}")
                weights = gradients.mean((2, 3), keepdim=True)
                found.append((weights * kept[-1]).sum(1, keepdim=True).relu().detach().to(images.dtype))
        finally:
            handle.remove()
    maps = torch.cat(found)
    if upsample:
        maps = functional.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)
    return maps[:, 0]


@torch.no_grad()
@exact()
def deletion_and_insertion(
    model: nn.Module,
    images: Tensor,
    labels: Classes,
    maps: Tensor,
    *,
    steps: int = 28,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Return the probability of a class while pixels go, and while they come, the most salient first.

    Deleted pixels are the image's mean colour; inserted ones replace those of a blurred image. The area under
    deletion's curve is small and that under insertion's large for a map that the classifier goes by; what
    chance gives, `random_maps` say. Numbers do not compare with those of Petsiuk et al.: there, deleted
    pixels are grey, the blur has 11 x 11 pixels of deviation 5, each step takes as many pixels as the image
    is wide, and the images are those that the network classifies right or all, as the table at hand says.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the classes asked about.
        maps: (B, H, W), of the images.
        steps: Equal parts of the pixels that go at a time.
        batch_size: Images that go through the model at once.

    Returns:
        Deletion and insertion, each (B, steps + 1), from none to all of the pixels; `area` makes a number.
    """
    check_images(images)
    labels = as_classes(labels, images)
    if maps.shape != (len(images), *images.shape[2:]):
        size = (len(images), *images.shape[2:])
        raise ValueError(f"maps are one for each image, {tuple(size)}, got {tuple(maps.shape)}")
    if not maps.isfinite().all():
        raise ValueError("maps hold values that are not finite: no order of the pixels follows from them")
    # Equal values go in an order that has nothing to do with their place: Grad-CAM is 0 in large parts.
    mixed = torch.randperm(maps[0].numel(), generator=torch.Generator().manual_seed(0)).to(maps.device)
    order = mixed[maps.flatten(1)[:, mixed].argsort(dim=1, descending=True, stable=True)]
    ranks = order.argsort(1).reshape(maps.shape)
    blank = images.mean((2, 3), keepdim=True).expand_as(images)
    blurred = gaussian_blur(images, images.shape[-1] / 20)
    shares = torch.linspace(0, 1, steps + 1, device=images.device)
    curves = []
    with frozen_eval(model) as ask:
        for start, end in ((images, blank), (blurred, images)):
            found = []
            pairs = torch.arange(len(images) * (steps + 1), device=images.device)
            for chosen in progress(torch.split(pairs, batch_size), "deletion and insertion"):
                indices, numbers = chosen // (steps + 1), chosen % (steps + 1)
                limit = (shares[numbers] * maps[0].numel()).round()
                gone = (ranks[indices] < limit[:, None, None])[:, None]
                logits = ask(torch.where(gone, end[indices], start[indices]))
                found.append(own_logits(logits.softmax(1), labels[indices]))
            curves.append(torch.cat(found).reshape(len(images), steps + 1))
    return curves[0], curves[1]


def random_maps(
    images: Tensor,
    kind: Literal["pixels", "blobs"],
    *,
    maps_size: tuple[int, int] = (13, 13),
    seed: int = 0,
) -> Tensor:
    """Return maps (B, H, W) that know nothing of the images: the chance level of `deletion_and_insertion`.

    Args:
        images: (B, C, H, W).
        kind: ``pixels``: each is drawn by itself. ``blobs``: drawn at the size of a layer's maps and enlarged
            as `grad_cam` does, so that they are as smooth as its maps; that alone moves the curves.
        maps_size: Height and width of those.
        seed: Of the maps; an image's depends on its place and the seed alone.
    """
    size = tuple(images.shape[2:]) if kind == "pixels" else maps_size
    drawn = [torch.rand(1, 1, *size, generator=keyed_generator((seed, n))) for n in range(len(images))]
    maps = functional.interpolate(torch.cat(drawn), images.shape[2:], mode="bilinear", align_corners=False)
    return maps[:, 0].to(images.device)


def area(curves: Tensor) -> Tensor:
    """Return the area under curves (B, steps + 1) over [0, 1], (B,), by the trapezoid rule."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1))


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Return images (B, C, H, W) blurred with a Gaussian of ``sigma`` pixels, edges reflected.

    In the images' own precision, also under autocast.
    """
    radius = max(1, min(round(3 * sigma), min(images.shape[2:]) - 1))
    x = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    across = functional.pad(images, (radius, radius, 0, 0), mode="reflect")
    with torch.autocast(images.device.type, enabled=False):
        across = functional.conv2d(across, kernel, groups=images.shape[1])
        down = functional.pad(across, (0, 0, radius, radius), mode="reflect")
        return functional.conv2d(down, kernel.transpose(2, 3), groups=images.shape[1])


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's correlation of each pair of maps, (B,): equal values share their mean rank.

    nan where a map is the same everywhere: it has no order to compare.

    Args:
        a: (B, ...).
        b: (B, ...), of the same shape.
    """
    pairs = zip(a.flatten(1).cpu().numpy(), b.flatten(1).cpu().numpy(), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)  # nan says it
        found = [float(spearmanr(one, other).statistic) for one, other in pairs]
    return torch.tensor(found, dtype=torch.float64)


def cascading_randomization(
    model: nn.Module, explain: Callable[[nn.Module], Tensor], *, stages: int = 10, seed: int = 0
) -> dict[str, Tensor]:
    """Return how alike maps stay while weights are replaced by random ones, from the last layer to the first.

    A map that stays alike does not depend on what the network has learned. Weights are drawn from a normal
    distribution with the mean and deviation of those they replace; BatchNorm's statistics begin from scratch.

    Args:
        model: Is copied.
        explain: Makes maps (B, H, W) of a model.
        stages: Maps are made so often at most, after equal parts of the layers.
        seed: Of the weights.

    Returns:
        By the last layer replaced, in their order, Spearman's correlation (B,) with the first maps; nan where
        a map is the same everywhere, as Grad-CAM's may be of a network that answers nothing.
    """
    model = copy.deepcopy(model)
    before = explain(model)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if any(True for _ in layer.parameters(recurse=False))
    ]
    due = {-(-len(layers) * stage // stages) for stage in range(1, stages + 1)}
    for number, (name, layer) in enumerate(reversed(layers), 1):
        with torch.no_grad():
            for weight in layer.parameters(recurse=False):
                drawn = torch.randn(weight.shape, generator=generator).to(weight)
                deviation = weight.std() if weight.numel() > 1 else 0.0
                weight.copy_(weight.mean() + deviation * drawn)
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.reset_running_stats()
        if number in due:
            found[name] = rank_correlation(before, explain(model))
    return found
