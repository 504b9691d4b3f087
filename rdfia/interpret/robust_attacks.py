"""What lasts when an image is turned, scaled and lit otherwise: random transformations, and patches.

Athalye et al., "Synthesizing Robust Adversarial Examples", ICML 2018; Brown et al., "Adversarial
Patch", 2018.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.common.checks import Classes, check_classes, check_images
from rdfia.common.draws import drawn, keyed_generator
from rdfia.common.exact import exact
from rdfia.common.progress import progress
from rdfia.common.views import similarity, transformed
from rdfia.interpret.adversarial import Transform
from rdfia.interpret.attack_results import fooled, prepared, rounded
from rdfia.interpret.classifier import frozen_eval, predict


def random_transform(
    images: Tensor,
    key: Iterable[int],
    *,
    rotation: float = 20.0,
    scale: float = 0.2,
    shift: float = 0.1,
    brightness: float = 0.1,
    noise: float = 0.02,
) -> Tensor:
    """Return images (B, C, H, W) turned, scaled, shifted, brightened and made noisy, all of them alike.

    Differentiable. What is drawn depends on ``key`` alone.

    Args:
        images: (B, C, H, W) in [0, 1].
        key: Non-negative integers.
        rotation: At most so many degrees.
        scale: By a factor of at most 1 plus and at least 1 minus this; a larger one crops.
        shift: By at most this share of the width.
        brightness: Added, at most.
        noise: Standard deviation.
    """
    key = list(key)
    turn, zoom, right, down, light = (2 * drawn(1, 5, key) - 1).unbind(1)
    angle, size = turn * math.radians(rotation), 1 / (1 + scale * zoom)
    matrix = similarity(angle, size, 2 * shift * right, 2 * shift * down)
    seen = transformed(images, matrix.expand(len(images), -1, -1), "reflection")
    grain = noise * torch.randn(images.shape[1:], generator=keyed_generator([*key, 1])).to(images)
    changed: Tensor = (seen + brightness * light.item() + grain).clamp(0, 1)
    return changed


@torch.no_grad()
@exact()
def robustness(
    model: nn.Module,
    images: Tensor,
    labels: Classes,
    targets: Classes | None = None,
    *,
    transform: Transform = random_transform,
    views: int = 50,
    seed: int = 1_000_000,
    batch_size: int = 64,
) -> Tensor:
    """Return in which share of random transformations each image fools, (B,).

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1], attacked.
        labels: (B,), the true classes.
        targets: (B,), the classes that shall win; by default any wrong one will do.
        transform: Makes a random view.
        views: Of each image.
        seed: Another than the attack had: the transformations are held out.
        batch_size: Images that go through the model at once.
    """
    labels, wanted = prepared(model, images, labels, targets)
    shares = torch.zeros(len(images), device=images.device)
    for view in progress(range(views), "views"):
        predicted = predict(model, transform(images, (seed, view)), batch_size)
        shares += fooled(predicted, labels, wanted).float() / views
    return shares


def with_patch(images: Tensor, patch: Tensor, key: Iterable[int], *, rotation: float = 20.0) -> Tensor:
    """Return images (B, C, H, W) with a patch (C, h, w) on each, turned and placed at random.

    Args:
        images: (B, C, H, W) in [0, 1].
        patch: (C, h, w) in [0, 1], smaller than the images.
        key: Non-negative integers, on which place and angle depend.
        rotation: At most so many degrees.
    """
    check_images(images)
    (height, width), (own_height, own_width) = images.shape[2:], patch.shape[1:]
    turn, right, down = (2 * drawn(len(images), 3, key) - 1).float().unbind(1)
    angle = turn * math.radians(rotation)
    # The patch in the middle of an empty image, with a channel that says where it is.
    margins = (height - own_height, width - own_width)
    edges = [margins[1] // 2, margins[1] - margins[1] // 2, margins[0] // 2, margins[0] - margins[0] // 2]
    canvas = functional.pad(torch.cat([patch, torch.ones_like(patch[:1])]), edges)
    right, down = right * margins[1] / width, down * margins[0] / height
    # From a place in the image back to the patch: first shifted, then turned.
    across = angle.cos() * right - angle.sin() * down
    along = angle.sin() * right + angle.cos() * down
    matrices = similarity(angle, 1.0, across, along)
    placed = transformed(canvas.expand(len(images), -1, -1, -1), matrices, "zeros")
    return images * (1 - placed[:, -1:]) + placed[:, :-1]


@exact()
def patch(
    model: nn.Module,
    images: Tensor,
    target: int,
    *,
    size: int = 64,
    steps: int = 200,
    rate: float = 0.05,
    batch_size: int = 16,
    at_once: int = 64,
    seed: int = 0,
) -> Tensor:
    """Make one patch (C, size, size) in [0, 1] that turns images into the target wherever it lies.

    Judge it on other images: ``predict(model, with_patch(others, patch, key))``.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (N, C, H, W) in [0, 1], to train it on.
        target: The class that shall win.
        size: Side of the patch.
        steps: Of Adam, each on a random batch of images at random positions and angles.
        rate: Of Adam, in units of pixels.
        batch_size: Images in a step.
        at_once: Images of these that go through the model at once, which bounds the memory.
        seed: Of images, positions and angles.
    """
    check_images(images)
    generator = torch.Generator().manual_seed(seed)
    drawing = torch.full((images.shape[1], size, size), 0.5, device=images.device).requires_grad_()
    optimizer = torch.optim.Adam([drawing], lr=rate)
    with frozen_eval(model) as ask, torch.enable_grad():
        for step in progress(range(steps), "patch"):
            chosen = images[torch.randint(len(images), (batch_size,), generator=generator)]
            optimizer.zero_grad()
            for part in with_patch(chosen, drawing, (seed, step)).split(at_once):
                logits = ask(part)
                asked = torch.full((len(part),), target, device=images.device)
                check_classes(asked, logits.shape[1], "targets")
                loss = functional.cross_entropy(logits, asked, reduction="sum") / batch_size
                torch.autograd.backward(loss, retain_graph=True)  # the parts share how the patch was placed
            optimizer.step()
            with torch.no_grad():
                drawing.clamp_(0, 1)
    return rounded(drawing.detach())
