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
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.common.checks import Classes, check_epsilon
from rdfia.common.draws import keyed_generator
from rdfia.common.exact import exact
from rdfia.common.progress import progress
from rdfia.interpret.attack_results import Attacked, fooled, judge, prepared, quantised, rounded, some
from rdfia.interpret.classifier import class_gradient, frozen_eval, l2_norms, own_logits, predict

# Maps images (B, C, H, W) and a key of non-negative integers to other images of that shape.
Transform = Callable[[Tensor, Iterable[int]], Tensor]


@exact()
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
            input_gradients = class_gradient(model, changed[active], wanted[active])
            step_along = rate * input_gradients / l2_norms(input_gradients).clamp(min=1e-12)
            changed[active] = (changed[active] + step_along).clamp(0, 1)
            queries[active] += 1
            steps[active] += 1
    return judge(
        model, images, changed, labels, wanted, queries=queries, gradients=steps, batch_size=batch_size
    )


def loss_gradient(model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the gradient (B, C, H, W) of the objective of an attack.

    It is minus the cross-entropy to the target, or the log-odds against the true class. These do not saturate
    in float32, as cross-entropy does beyond a margin of about 17.
    """
    with frozen_eval(model) as ask, torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = ask(images)
        if targets is None:
            own = own_logits(logits, labels)
            loss = (logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1) - own).sum()
        else:
            loss = -functional.cross_entropy(logits, targets, reduction="sum")
        input_gradients: Tensor = torch.autograd.grad(loss, images)[0]
    return input_gradients


@exact()
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
    for indices in progress(torch.split(every, batch_size), "fgsm, batches"):
        input_gradients = loss_gradient(model, images[indices], labels[indices], some(wanted, indices))
        changed[indices] = (images[indices] + epsilon * input_gradients.sign()).clamp(0, 1)
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
        change = change * (epsilon / l2_norms(change).clamp(min=1e-12)).clamp(max=1)
    inside: Tensor = (images + change).clamp(0, 1)
    return inside


@exact()
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
        seed: Of random starts and transformations; an image's start depends on its number and the seed alone.
        batch_size: Images that go through the model at once, which bounds the memory.
    """
    check_epsilon(epsilon, images, norm)
    labels, wanted = prepared(model, images, labels, targets)
    step = epsilon / 4 if step is None else step
    kept = images.clone()
    passes = 1 if transform is None else views
    queries, gradients = torch.zeros_like(labels), torch.zeros_like(labels)

    def still_right(indices: Tensor) -> Tensor:
        """Return those of the images that do not fool yet."""
        queries[indices] += 1
        predicted = predict(model, quantised(images[indices], kept[indices], epsilon, norm))
        return indices[~fooled(predicted, labels[indices], some(wanted, indices))]

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
                    input_gradients = loss_gradient(model, place, truth, asked)
                else:
                    key = (seed, restart, number)
                    input_gradients = _mean_gradient(model, place, truth, asked, transform, views, key)
                queries[active] += passes
                gradients[active] += passes
                direction = (
                    input_gradients.sign()
                    if norm == "linf"
                    else input_gradients / l2_norms(input_gradients).clamp(min=1e-12)
                )
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


def _mean_gradient(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    transform: Transform,
    views: int,
    key: tuple[int, ...],
) -> Tensor:
    """Return the gradient of the objective, averaged over random transformations."""
    total = torch.zeros_like(images)
    for view in range(views):
        with torch.enable_grad():
            place = images.detach().requires_grad_()
            seen = transform(place, (*key, view))
            input_gradients = loss_gradient(model, seen, labels, targets)
            (back,) = torch.autograd.grad(seen, place, input_gradients)
        total += back / views
    return total
