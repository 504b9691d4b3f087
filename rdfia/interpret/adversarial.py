"""Adversarial examples: images changed so little that people see no difference, and a network is fooled.

Functions of any classifier of images in [0, 1], which they leave as it was (`rdfia.interpret.classifier`).
Epsilons and distances are in pixel units, so 8/255 is 8 grey levels. An attack counts only where the
classifier was right before and is fooled by the image as a file can hold it, rounded to 8 bits (`quantised`);
what it did before it was rounded stands beside it.

- `fool`: gradient steps of one length until the target class wins, as the practicals do.
- `fgsm`: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015.
- `pgd`: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018; with
  ``transform`` it averages gradients over random transformations: Athalye et al., "Synthesizing Robust
  Adversarial Examples", ICML 2018 (EOT).

Attacks without gradients are in `rdfia.interpret.black_box_attacks`, random transformations and patches in
`rdfia.interpret.robust_attacks`.

    python scripts/visualize.py adversarial --data-dir /path/to/data
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.common.checks import Classes, as_classes, check_classes, check_epsilon, check_images
from rdfia.common.draws import keyed_generator
from rdfia.common.progress import progress
from rdfia.interpret.classifier import all_logits, as_it_was, class_gradient, lengths, own_logits, predict

# Maps images (B, C, H, W) and a key of non-negative integers to other images of that shape.
Transform = Callable[[Tensor, Iterable[int]], Tensor]


@dataclass(frozen=True)
class Attacked:
    """What came of an attack on B images.

    ``images`` are what a PNG file holds of ``unrounded``; all that follows is judged on them, but for
    ``success_unrounded``. ``queries`` and ``gradients`` count forward and backward passes of each image,
    ``l0`` changed pixels.
    """

    images: Tensor
    unrounded: Tensor
    before: Tensor
    after: Tensor
    right_before: Tensor
    success: Tensor
    success_unrounded: Tensor
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


def quantised(images: Tensor, changed: Tensor, epsilon: float, norm: Literal["linf", "l2"]) -> Tensor:
    """Return ``changed`` as 8 bits a channel hold it, within ``epsilon`` of ``images``.

    Each value goes to the nearest grey level. Where that is farther from the image than ``epsilon``, values
    go one level nearer (L-infinity), or the smallest changes are undone until it is not (L2). The image is
    meant as a file holds it, too: what rounding does to one that lies between grey levels is no change.

    Args:
        images: (B, C, H, W) in [0, 1].
        changed: Of that shape, within ``epsilon`` of them.
        epsilon: Largest distance, in the norm.
        norm: ``linf`` or ``l2``.
    """
    # In float32 at least: half precision holds no grey levels.
    own = (images.clamp(0, 1).to(torch.promote_types(images.dtype, torch.float32)) * 255).round()
    change = changed.to(own.dtype) - images.to(own.dtype)
    levels = (own + change * 255).clamp(0, 255).round()
    if norm == "linf":
        limit = 255 * epsilon + 1e-3  # what float rounding took
        levels = torch.where((levels - own).abs() > limit, levels - (levels - own).sign(), levels)
        return (levels / 255).to(images.dtype)
    limit = (255 * epsilon) ** 2 * (1 + 1e-6)
    for place in ((levels - own).flatten(1).square().sum(1) > limit).nonzero()[:, 0].tolist():
        flat, unchanged = levels[place].flatten(), own[place].flatten()
        gained = (flat - unchanged).square()
        size = torch.where(gained > 0, change[place].abs().flatten(), torch.inf)
        order = size.argsort()
        surplus = gained.sum() - limit
        flat_order = order[: int(torch.searchsorted(gained[order].cumsum(0), surplus)) + 1]
        flat[flat_order] = unchanged[flat_order]
        levels[place] = flat.view_as(levels[place])
    return (levels / 255).to(images.dtype)


def some(targets: Tensor | None, places: Tensor) -> Tensor | None:
    """Return the targets of some of the images; None where there are none."""
    return None if targets is None else targets[places]


def prepared(
    model: nn.Module, images: Tensor, labels: Classes, targets: Classes | None
) -> tuple[Tensor, Tensor | None]:
    """Check what an attack is given; return labels and targets as tensors (B,).

    Raises:
        ValueError: Images are not in [0, 1], or classes are not one of the model's for each.
    """
    check_images(images)
    wanted = None if targets is None else as_classes(targets, images, "targets")
    found = as_classes(labels, images)
    if len(images):
        count = all_logits(model, images[:1]).shape[1]
        check_classes(found, count)
        if wanted is not None:
            check_classes(wanted, count, "targets")
    return found, wanted


def fooled(predictions: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Return whether predictions (B,) are the targets, or without targets anything but the labels."""
    return predictions != labels if targets is None else predictions == targets


def judge(
    model: nn.Module,
    originals: Tensor,
    images: Tensor,
    labels: Classes,
    targets: Classes | None = None,
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
        images: (B, C, H, W), attacked; what lies outside [0, 1] a file cuts off.
        labels: (B,), the true classes.
        targets: (B,), the classes that were to win; None if any wrong one would do.
        unrounded: What the attack made, if ``images`` are rounded already.
        queries: Forward passes that the attack took, for each image or for all.
        gradients: Backward passes.
        batch_size: Images that go through the model at once.
    """
    labels, wanted = prepared(model, originals, labels, targets)
    if images.shape != originals.shape or not images.is_floating_point() or not images.isfinite().all():
        seen = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"attacked images are finite floats {tuple(originals.shape)}, got {seen}")
    kept, exact_images = rounded(images), images if unrounded is None else unrounded
    before, after = predict(model, originals, batch_size), predict(model, kept, batch_size)
    exact = predict(model, exact_images.clamp(0, 1), batch_size)
    right = before == labels
    # An original need not lie on the grid of 8 bits: what rounding alone does is no change.
    change = kept - rounded(originals)
    error = change.square().mean((1, 2, 3))
    counts = [torch.as_tensor(count).expand(len(labels)) for count in (queries, gradients)]
    return Attacked(
        images=kept,
        unrounded=exact_images,
        before=before,
        after=after,
        right_before=right,
        success=right & (after != labels) & fooled(after, labels, wanted),
        success_unrounded=right & (exact != labels) & fooled(exact, labels, wanted),
        queries=counts[0],
        gradients=counts[1],
        l0=(change.abs().amax(1) > 0).sum((1, 2)),
        l2=lengths(change).flatten(),
        linf=change.abs().amax((1, 2, 3)),
        psnr=-10 * error.clamp(min=1e-12).log10(),
    )


def fool(
    model: nn.Module,
    images: Tensor,
    labels: Classes,
    targets: Classes,
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
    labels, wanted = prepared(model, images, labels, targets)
    if wanted is None:
        raise ValueError("fool steps towards targets, got None; fgsm and pgd need none")
    changed = images.clone()
    queries, steps = torch.zeros_like(labels), torch.zeros_like(labels)
    batches = torch.split(torch.arange(len(images), device=images.device), batch_size)
    for number, active in enumerate(batches, 1):
        for step in progress(range(max_steps + 1), f"fool, batch {number} of {len(batches)}, steps at most"):
            queries[active] += 1
            active = active[predict(model, rounded(changed[active])) != wanted[active]]
            if not len(active) or step == max_steps:
                break
            slopes = class_gradient(model, changed[active], wanted[active])
            step_along = rate * slopes / lengths(slopes).clamp(min=1e-12)
            changed[active] = (changed[active] + step_along).clamp(0, 1)
            queries[active] += 1
            steps[active] += 1
    return judge(
        model, images, changed, labels, wanted, queries=queries, gradients=steps, batch_size=batch_size
    )


def loss_gradient(model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the gradient (B, C, H, W) of what an attack climbs.

    That is minus the cross-entropy of the target, or the log odds against the true class: cross-entropy's
    direction, which does not vanish where a network is sure, as that of its float32 does from margins of 17.
    """
    with as_it_was(model) as ask, torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = ask(images)
        if targets is None:
            own = own_logits(logits, labels)
            loss = (logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1) - own).sum()
        else:
            loss = -functional.cross_entropy(logits, targets, reduction="sum")
        slopes: Tensor = torch.autograd.grad(loss, images)[0]
    return slopes


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Classes,
    *,
    epsilon: float,
    targets: Classes | None = None,
    batch_size: int = 64,
) -> Attacked:
    """Make one step of ``epsilon`` along the sign of the gradient.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the true classes.
        epsilon: Such as 2 / 255.
        targets: (B,), the classes that shall win; by default any wrong one will do.
        batch_size: Images that go through the model at once, which bounds the memory.
    """
    check_epsilon(epsilon, images)
    labels, wanted = prepared(model, images, labels, targets)
    changed = images.clone()
    every = torch.arange(len(images), device=images.device)
    for places in progress(torch.split(every, batch_size), "fgsm, batches"):
        slopes = loss_gradient(model, images[places], labels[places], some(wanted, places))
        changed[places] = (images[places] + epsilon * slopes.sign()).clamp(0, 1)
    return judge(
        model,
        images,
        quantised(images, changed, epsilon, "linf"),
        labels,
        wanted,
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
    labels: Classes,
    *,
    epsilon: float,
    step: float | None = None,
    steps: int = 10,
    norm: Literal["linf", "l2"] = "linf",
    targets: Classes | None = None,
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
        stop_early: Keep what fools first, in whole grey levels: more steps can then only help.
        transform: See `random_transform`.
        views: Transformations in each step.
        seed: Of random starts and transformations; an image's start hangs on its number and the seed alone.
        batch_size: Images that go through the model at once, which bounds the memory.
    """
    check_epsilon(epsilon, images, norm)
    labels, wanted = prepared(model, images, labels, targets)
    step = epsilon / 4 if step is None else step
    kept = images.clone()
    passes = 1 if transform is None else views
    queries, gradients = torch.zeros_like(labels), torch.zeros_like(labels)

    def still_right(places: Tensor) -> Tensor:
        """Return those of the images that do not fool yet."""
        queries[places] += 1
        told = predict(model, quantised(images[places], kept[places], epsilon, norm))
        return places[~fooled(told, labels[places], some(wanted, places))]

    batches = torch.split(torch.arange(len(images), device=images.device), batch_size)
    for batch, active in enumerate(batches, 1):
        for restart in range(restarts):
            if restart and not stop_early:
                active = still_right(active)
            kept[active] = images[active]
            if random_start or restart:
                starts = [_inside_ball(images[0].shape, norm, (seed, restart, int(n))) for n in active]
                if starts:
                    start = images[active] + epsilon * torch.stack(starts).to(images)
                    kept[active] = project(start, images[active], epsilon, norm)
            for number in progress(range(steps), f"pgd, batch {batch} of {len(batches)}, steps"):
                if not len(active):
                    break
                place, truth, asked = kept[active], labels[active], some(wanted, active)
                if transform is None:
                    slopes = loss_gradient(model, place, truth, asked)
                else:
                    key = (seed, restart, number)
                    slopes = _mean_slopes(model, place, truth, asked, transform, views, key)
                queries[active] += passes
                gradients[active] += passes
                direction = slopes.sign() if norm == "linf" else slopes / lengths(slopes).clamp(min=1e-12)
                kept[active] = project(place + step * direction, images[active], epsilon, norm)
                if stop_early:
                    active = still_right(active)
    return judge(
        model,
        images,
        quantised(images, kept, epsilon, norm),
        labels,
        wanted,
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
