"""Adversarial examples: images changed so little that people see no difference, and a network is fooled.

Functions of any classifier of images in [0, 1], which they leave as it was. Epsilons and distances are in
pixel units, so 8/255 is 8 grey levels. An attack counts only where the classifier was right before and is
fooled by the image as a file can hold it, rounded to 8 bits.

- `fool`: gradient steps of one length until the target class wins, as the practicals do.
- `fgsm`: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015.
- `pgd`: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018; with
  ``transform`` it averages gradients over random transformations: Athalye et al., "Synthesizing Robust
  Adversarial Examples", ICML 2018 (EOT).
- `few_pixels`: Su et al., "One Pixel Attack for Fooling Deep Neural Networks", 2019.
- `shapes`: Williams & Li, "Art-Attack: Black-Box Adversarial Attack via Evolutionary Art", 2022.
- `patch`: Brown et al., "Adversarial Patch", 2018.

    python scripts/visualize.py adversarial --data-dir /path/to/data
"""

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import differential_evolution
from torch import Tensor, nn
from torch.nn import functional

from rdfia.draws import drawn, keyed_generator
from rdfia.progress import progress
from rdfia.saliency import all_logits, as_it_was, class_gradient, lengths
from rdfia.views import similarity, transformed

# Maps images (B, C, H, W) and a key of non-negative integers to other images of that shape.
Transform = Callable[[Tensor, Iterable[int]], Tensor]


@dataclass(frozen=True)
class Attacked:
    """What came of an attack on B images.

    ``images`` are what a PNG file holds of ``unrounded``; all that follows is judged on them. ``queries`` and
    ``gradients`` count forward and backward passes of each image, ``l0`` changed pixels.
    """

    images: Tensor
    unrounded: Tensor
    before: Tensor
    after: Tensor
    right_before: Tensor
    success: Tensor
    queries: Tensor
    gradients: Tensor
    l0: Tensor
    l2: Tensor
    linf: Tensor
    psnr: Tensor

    def success_rate(self) -> float:
        """Return the share that fools now of those that were classified right before; nan if none was."""
        return float(self.success[self.right_before].double().mean())


def rounded(images: Tensor) -> Tensor:
    """Return images in [0, 1] as 8 bits a channel hold them."""
    return (images.clamp(0, 1) * 255).round() / 255


def rounded_towards(images: Tensor, changed: Tensor) -> Tensor:
    """Return ``changed`` in whole grey levels from ``images``, rounded towards them: no distance grows."""
    levels = (changed - images) * 255
    return rounded(images + (levels + 1e-3 * levels.sign()).trunc() / 255)


def predict(model: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Return the classes (B,) that a model takes images for."""
    return all_logits(model, images, batch_size).argmax(1)


def some(targets: Tensor | None, places: Tensor) -> Tensor | None:
    """Return the targets of some of the images; None where there are none."""
    return None if targets is None else targets[places]


def fooled(predictions: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Return whether predictions (B,) are the targets, or without targets anything but the labels."""
    return predictions != labels if targets is None else predictions == targets


def judge(
    model: nn.Module,
    originals: Tensor,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    *,
    unrounded: Tensor | None = None,
    queries: Tensor | int = 0,
    gradients: Tensor | int = 0,
    batch_size: int = 64,
) -> Attacked:
    """Judge attacked images as a file holds them.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        originals: (B, C, H, W) in [0, 1].
        images: (B, C, H, W), attacked.
        labels: (B,), the true classes.
        targets: (B,), the classes that were to win; None if any wrong one would do.
        unrounded: What the attack made, if ``images`` are rounded already.
        queries: Forward passes that the attack took, for each image or for all.
        gradients: Backward passes.
        batch_size: Images that go through the model at once.
    """
    kept = rounded(images)
    before, after = predict(model, originals, batch_size), predict(model, kept, batch_size)
    right = before == labels
    change = kept - originals
    error = change.square().mean((1, 2, 3))
    counts = [torch.as_tensor(count).expand(len(labels)) for count in (queries, gradients)]
    return Attacked(
        images=kept,
        unrounded=images if unrounded is None else unrounded,
        before=before,
        after=after,
        right_before=right,
        success=right & (after != labels) & fooled(after, labels, targets),
        queries=counts[0],
        gradients=counts[1],
        # An original need not lie on the grid of 8 bits: what rounding alone does is no change.
        l0=((kept - rounded(originals)).abs().amax(1) > 0).sum((1, 2)),
        l2=lengths(change).flatten(),
        linf=change.abs().amax((1, 2, 3)),
        psnr=-10 * error.clamp(min=1e-12).log10(),
    )


def fool(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    *,
    rate: float = 0.2,
    max_steps: int = 200,
    batch_size: int = 64,
) -> Attacked:
    """Step along the gradient of the target's logit until the target wins, with the image rounded to 8 bits.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the true classes.
        targets: (B,), the classes that shall win.
        rate: Length of a step, in L2.
        max_steps: Where it gives up.
        batch_size: Images that go through the model at once, which bounds the memory.
    """
    changed = images.clone()
    queries, steps = torch.zeros_like(labels), torch.zeros_like(labels)
    batches = torch.split(torch.arange(len(images), device=images.device), batch_size)
    for active in progress(batches, "fool"):
        for step in range(max_steps + 1):
            queries[active] += 1
            active = active[predict(model, rounded(changed[active])) != targets[active]]
            if not len(active) or step == max_steps:
                break
            slopes = class_gradient(model, changed[active], targets[active])
            step_along = rate * slopes / lengths(slopes).clamp(min=1e-12)
            changed[active] = (changed[active] + step_along).clamp(0, 1)
            queries[active] += 1
            steps[active] += 1
    return judge(
        model, images, changed, labels, targets, queries=queries, gradients=steps, batch_size=batch_size
    )


def loss_gradient(model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the gradient (B, C, H, W) of what an attack climbs.

    The cross-entropy of the true class, or minus that of the target.
    """
    with as_it_was(model), torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images)
        if targets is None:
            loss = functional.cross_entropy(logits, labels, reduction="sum")
        else:
            loss = -functional.cross_entropy(logits, targets, reduction="sum")
        slopes: Tensor = torch.autograd.grad(loss, images)[0]
    return slopes


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    targets: Tensor | None = None,
    batch_size: int = 64,
) -> Attacked:
    """Make one step of ``epsilon`` along the sign of the gradient, and round towards the image.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the true classes.
        epsilon: Such as 2 / 255.
        targets: (B,), the classes that shall win; by default any wrong one will do.
        batch_size: Images that go through the model at once, which bounds the memory.
    """
    changed = images.clone()
    for places in torch.split(torch.arange(len(images), device=images.device), batch_size):
        slopes = loss_gradient(model, images[places], labels[places], some(targets, places))
        changed[places] = (images[places] + epsilon * slopes.sign()).clamp(0, 1)
    return judge(
        model,
        images,
        rounded_towards(images, changed),
        labels,
        targets,
        unrounded=changed,
        queries=1,
        gradients=1,
        batch_size=batch_size,
    )


def project(changed: Tensor, images: Tensor, epsilon: float, norm: Literal["linf", "l2"]) -> Tensor:
    """Return ``changed`` drawn back to within ``epsilon`` of ``images``, then into [0, 1]."""
    change = changed - images
    if norm == "linf":
        change = change.clamp(-epsilon, epsilon)
    else:
        change = change * (epsilon / lengths(change).clamp(min=1e-12)).clamp(max=1)
    inside: Tensor = (images + change).clamp(0, 1)
    return inside


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step: float | None = None,
    steps: int = 10,
    norm: Literal["linf", "l2"] = "linf",
    targets: Tensor | None = None,
    random_start: bool = True,
    restarts: int = 1,
    stop_early: bool = True,
    transform: Transform | None = None,
    views: int = 1,
    seed: int = 0,
    batch_size: int = 64,
) -> Attacked:
    """Climb the loss by steps of one size, never farther than ``epsilon`` from the image.

    With ``transform``, each step follows the mean gradient over random transformations, so that the result
    fools through others that it has not seen; take ``stop_early=False`` then.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the true classes.
        epsilon: Largest distance, in the norm.
        step: Length of a step, in the norm; by default a quarter of epsilon.
        steps: Their number.
        norm: ``linf`` or ``l2``.
        targets: (B,), the classes that shall win; by default any wrong one will do.
        random_start: Begin at a random place within epsilon.
        restarts: Beginnings for images that do not fool yet; each has a random start but perhaps the first.
        stop_early: Keep what fools first, rounded towards the image: more steps can then only help.
        transform: See `random_transform`.
        views: Transformations in each step.
        seed: Of random starts and transformations; an image's start hangs on its number and the seed alone.
        batch_size: Images that go through the model at once, which bounds the memory.
    """
    step = epsilon / 4 if step is None else step
    kept = images.clone()
    passes = 1 if transform is None else views
    queries, gradients = torch.zeros_like(labels), torch.zeros_like(labels)

    def still_right(places: Tensor) -> Tensor:
        """Return those of the images that do not fool yet."""
        queries[places] += 1
        told = predict(model, rounded_towards(images[places], kept[places]))
        return places[~fooled(told, labels[places], some(targets, places))]

    batches = torch.split(torch.arange(len(images), device=images.device), batch_size)
    for active in progress(batches, "pgd"):
        for restart in range(restarts):
            if restart and not stop_early:
                active = still_right(active)
            kept[active] = images[active]
            if random_start or restart:
                starts = [_inside_ball(images[0].shape, norm, (seed, restart, int(n))) for n in active]
                if starts:
                    start = images[active] + epsilon * torch.stack(starts).to(images)
                    kept[active] = project(start, images[active], epsilon, norm)
            for number in range(steps):
                if not len(active):
                    break
                place, truth, asked = kept[active], labels[active], some(targets, active)
                if transform is None:
                    slopes = loss_gradient(model, place, truth, asked)
                else:
                    key = (seed, restart, number)
                    slopes = _mean_slopes(model, place, truth, asked, transform, views, key)
                queries[active] += passes
                gradients[active] += passes
                direction = slopes.sign() if norm == "linf" else slopes / (lengths(slopes) + 1e-10)
                kept[active] = project(place + step * direction, images[active], epsilon, norm)
                if stop_early:
                    active = still_right(active)
    return judge(
        model,
        images,
        rounded_towards(images, kept),
        labels,
        targets,
        unrounded=kept,
        queries=queries,
        gradients=gradients,
        batch_size=batch_size,
    )


def _inside_ball(shape: torch.Size, norm: Literal["linf", "l2"], key: tuple[int, ...]) -> Tensor:
    """Return a point drawn uniformly from the ball of radius 1."""
    generator = keyed_generator(key)
    if norm == "linf":
        return torch.empty(shape).uniform_(-1, 1, generator=generator)
    # A direction, and a length whose power of the dimension is uniform.
    direction = torch.randn(shape, generator=generator)
    length: Tensor = torch.rand((), generator=generator) ** (1 / shape.numel())
    point: Tensor = direction / direction.norm() * length
    return point


def _mean_slopes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    transform: Transform,
    views: int,
    key: tuple[int, ...],
) -> Tensor:
    """Return the gradient of what an attack climbs, averaged over random transformations."""
    total = torch.zeros_like(images)
    for view in range(views):
        with torch.enable_grad():
            place = images.detach().requires_grad_()
            seen = transform(place, (*key, view))
            slopes = loss_gradient(model, seen, labels, targets)
            (back,) = torch.autograd.grad(seen, place, slopes)
        total += back / views
    return total


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
def robustness(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    *,
    transform: Transform = random_transform,
    views: int = 50,
    seed: int = 1_000_000,
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
    """
    shares = torch.zeros(len(images), device=images.device)
    for view in range(views):
        told = predict(model, transform(images, (seed, view)))
        shares += fooled(told, labels, targets).float() / views
    return shares


def _misses(logits: Tensor, label: int, target: int | None) -> tuple[Tensor, Tensor]:
    """Return how far candidates (S, K) are from fooling, less than 0 where they do, and whether they do."""
    asked = label if target is None else target
    others = logits.clone()
    others[:, asked] = -torch.inf
    margin = logits[:, asked] - others.amax(1)
    return (margin, logits.argmax(1) != label) if target is None else (-margin, logits.argmax(1) == target)


@torch.no_grad()
def few_pixels(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    pixels: int = 1,
    population: int = 400,
    iterations: int = 100,
    targets: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 400,
) -> Attacked:
    """Change a few pixels, found by differential evolution from the logits alone.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the true classes.
        pixels: That may change.
        population: Candidates of a generation, which go through the model together.
        iterations: Generations after the first.
        targets: (B,), the classes that shall win; by default any wrong one will do.
        seed: Of the evolution.
        batch_size: Candidates that go through the model at once, which bounds the memory.
    """
    changed, queries = images.clone(), torch.zeros_like(labels)
    with as_it_was(model):
        for number, image in enumerate(progress(images, "pixels")):
            search = _PixelSearch(
                model,
                image,
                int(labels[number]),
                None if targets is None else int(targets[number]),
                pixels,
                batch_size,
            )
            generator = np.random.default_rng([seed, number])
            size = pixels * (2 + len(image))
            with suppress(_Found):
                search.best = differential_evolution(
                    search,
                    [(0, 1)] * size,
                    strategy="rand1bin",
                    mutation=0.5,
                    recombination=1.0,
                    init=generator.uniform(size=(population, size)),
                    maxiter=iterations,
                    tol=0,
                    polish=False,
                    vectorized=True,
                    updating="deferred",
                    rng=generator,
                ).x
            changed[number] = search.painted(search.best)[0]
            queries[number] = search.queries
    return judge(model, images, changed, labels, targets, queries=queries)


class _Found(Exception):  # noqa: N818 - no error: a candidate fools
    """Ends an evolution."""


class _PixelSearch:
    """What differential evolution minimises for one image, until a candidate fools, which is kept."""

    def __init__(
        self, model: nn.Module, image: Tensor, label: int, target: int | None, pixels: int, batch_size: int
    ) -> None:
        self.model, self.image, self.label, self.target = model, image, label, target
        self.pixels, self.batch_size = pixels, batch_size
        self.queries = 0
        self.best: np.ndarray = np.zeros(0)

    def painted(self, candidates: np.ndarray) -> Tensor:
        """Return images (S, C, H, W) of candidates (S, pixels x (2 + C)) in [0, 1]: places and colours."""
        channels, height, width = self.image.shape
        found = torch.from_numpy(np.atleast_2d(candidates)).to(self.image)
        found = found.reshape(len(found), self.pixels, 2 + channels)
        rows = (found[:, :, 0] * height).long().clamp(max=height - 1)
        columns = (found[:, :, 1] * width).long().clamp(max=width - 1)
        shown, places = self.image.repeat(len(found), 1, 1, 1), torch.arange(len(found))
        for pixel in range(self.pixels):
            shown[places, :, rows[:, pixel], columns[:, pixel]] = found[:, pixel, 2:]
        return shown

    def __call__(self, candidates: np.ndarray) -> np.ndarray:
        """Return how far candidates (parameters, S) are from fooling, (S,)."""
        found = []
        for part in np.array_split(candidates.T, -(-candidates.shape[1] // self.batch_size)):
            misses, hit = _misses(self.model(rounded(self.painted(part))).float(), self.label, self.target)
            self.queries += len(part)
            if hit.any():
                self.best = part[int(hit.nonzero()[0, 0])]
                raise _Found
            found.append(misses.double().cpu().numpy())
        return np.concatenate(found)


@torch.no_grad()
def shapes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    count: int = 50,
    opacity: float = 0.2,
    radius: float = 0.2,
    generations: int = 200,
    candidates: int = 32,
    targets: Tensor | None = None,
    seed: int = 0,
) -> Attacked:
    """Draw transparent discs over an image, evolved from the logits alone.

    In each generation one disc of the best drawing so far is drawn anew in some ways, and the best way is
    kept if it is better. What lies under that disc and what lies over it are each computed once.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the true classes.
        count: Discs.
        opacity: Of a disc, at most.
        radius: Of a disc, at most, in widths of the image.
        generations: Where it gives up.
        candidates: Ways to redraw a disc, which go through the model together.
        targets: (B,), the classes that shall win; by default any wrong one will do.
        seed: Of the evolution.
    """
    changed, queries = images.clone(), torch.zeros_like(labels)
    channels, height, width = images.shape[1:]
    y = (torch.arange(height, device=images.device) + 0.5)[:, None] / height
    x = (torch.arange(width, device=images.device) + 0.5)[None] / width

    def disc(genes: Tensor) -> tuple[Tensor, Tensor]:
        """Return opacities (S, 1, H, W) and colours (S, C, 1, 1) of genes (S, 4 + C) in [0, 1]."""
        row, column, size, strength = (gene[:, None, None] for gene in genes[:, :4].T)
        inside = (y - row).square() + (x - column).square() <= (radius * size).square()
        return (opacity * strength * inside)[:, None], genes[:, 4:, None, None]

    with as_it_was(model):
        for number, image in enumerate(progress(images, "shapes")):
            label, target = int(labels[number]), None if targets is None else int(targets[number])
            generator = keyed_generator([seed, number])
            genes = torch.rand(count, 4 + channels, generator=generator).to(image)
            genes[:, 3] = 0  # nothing is seen at first
            queries[number] += 1
            best, hit = _misses(model(rounded(image[None])).float(), label, target)
            for generation in range(generations):
                # Strong and weak changes: what is found early is far off, what is found late is near.
                chosen = generation % count
                spread = torch.rand(candidates, 1, generator=generator).to(image)
                offset = torch.randn(candidates, 4 + channels, generator=generator).to(image)
                tried = (genes[chosen] + spread * offset).clamp(0, 1)
                opacities, colours = disc(genes)
                under, seen_through, over = image, torch.ones_like(image[:1]), torch.zeros_like(image)
                for own, colour in zip(opacities[:chosen], colours[:chosen], strict=True):
                    under = torch.lerp(under, colour.expand_as(under), own)
                for own, colour in zip(opacities[chosen + 1 :], colours[chosen + 1 :], strict=True):
                    seen_through = seen_through * (1 - own)
                    over = torch.lerp(over, colour.expand_as(over), own)
                own, colour = disc(tried)
                shown = seen_through * (under + own * (colour - under)) + over
                misses, hit = _misses(model(rounded(shown)).float(), label, target)
                queries[number] += candidates
                place = int(hit.double().argmax()) if hit.any() else int(misses.argmin())
                if hit.any() or misses[place] < best:
                    best, genes[chosen], changed[number] = misses[place], tried[place], shown[place]
                if hit.any():
                    break
    return judge(model, images, changed, labels, targets, queries=queries)


def with_patch(images: Tensor, patch: Tensor, key: Iterable[int], *, rotation: float = 20.0) -> Tensor:
    """Return images (B, C, H, W) with a patch (C, h, w) on each, turned and placed at random.

    Args:
        images: (B, C, H, W) in [0, 1].
        patch: (C, h, w) in [0, 1], smaller than the images.
        key: Non-negative integers, on which place and angle depend.
        rotation: At most so many degrees.
    """
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


def patch(
    model: nn.Module,
    images: Tensor,
    target: int,
    *,
    size: int = 64,
    steps: int = 200,
    rate: float = 0.05,
    batch_size: int = 16,
    seed: int = 0,
) -> Tensor:
    """Make one patch (C, size, size) in [0, 1] that turns images into the target wherever it lies.

    Judge it on other images: ``predict(model, with_patch(others, patch, key))``.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (N, C, H, W) in [0, 1], to train it on.
        target: The class that shall win.
        size: Side of the patch.
        steps: Of Adam, each on a random batch of images at random places and angles.
        rate: Of Adam, in units of pixels.
        batch_size: Images in a step.
        seed: Of images, places and angles.
    """
    generator = torch.Generator().manual_seed(seed)
    drawing = torch.full((images.shape[1], size, size), 0.5, device=images.device).requires_grad_()
    optimizer = torch.optim.Adam([drawing], lr=rate)
    with as_it_was(model), torch.enable_grad():
        for step in progress(range(steps), "patch"):
            chosen = images[torch.randint(len(images), (batch_size,), generator=generator)]
            logits = model(with_patch(chosen, drawing, (seed, step))).float()
            asked = torch.full((len(chosen),), target, device=images.device)
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(logits, asked))
            optimizer.step()
            with torch.no_grad():
                drawing.clamp_(0, 1)
    return rounded(drawing.detach())
