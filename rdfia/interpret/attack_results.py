"""What came of an attack: judged as a file holds the image, rounded to 8 bits."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rdfia.common.checks import Classes, as_classes, check_classes, check_images
from rdfia.interpret.classifier import all_logits, l2_norms, predict


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


def some(targets: Tensor | None, indices: Tensor) -> Tensor | None:
    """Return the targets of some of the images; None where there are none."""
    return None if targets is None else targets[indices]


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
        l2=l2_norms(change).flatten(),
        linf=change.abs().amax((1, 2, 3)),
        psnr=-10 * error.clamp(min=1e-12).log10(),
    )
