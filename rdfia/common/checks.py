"""What functions take: images in [0, 1], classes, distances. One check each, one line that says the mend."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor, nn

SLACK = 1e-4  # what resizing and rounding may add to [0, 1]

# Classes of images: one for each, or one for all.
Classes = Tensor | Sequence[int] | int


class Normalized(nn.Module):
    """A network that wants normalised images, made one that takes images in [0, 1].

    Attacks, maps and their distances are then in pixels, as they are meant.

    Args:
        network: Takes ``(images - mean) / std``.
        mean: One for each channel, by default ImageNet's.
        std: One for each channel.

    Example:
        >>> model = Normalized(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)))
        >>> model(torch.rand(1, 3, 2, 2)).shape
        torch.Size([1, 5])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [0, 1] to what the network gives."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


class KeepsPrecision(nn.Module):
    """A network that keeps the number format of its weights when the module around it changes its own.

    A score must not depend on the precision that what it scores is trained in.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "KeepsPrecision":
        def moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            return found if found.dtype == tensor.dtype else tensor.to(found.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call] # torch's
        return self


def check_images(images: Tensor, what: str = "images") -> None:
    """Check that images are a batch of floats in [0, 1].

    Args:
        images: (B, C, H, W).
        what: Their name in the message.

    Raises:
        ValueError: They are something else; the message says what was seen, and the mend.
    """
    if not isinstance(images, Tensor):
        raise ValueError(f"{what} are a tensor (B, C, H, W), got {type(images).__name__}")
    if images.ndim != 4:
        mend = f"; for a single one: {what}[None]" if images.ndim == 3 else ""
        raise ValueError(f"{what} are a batch (B, C, H, W), got {tuple(images.shape)}{mend}")
    if not images.is_floating_point():
        raise ValueError(f"{what} are floats in [0, 1], got {images.dtype}; take {what}.float() / 255")
    if not images.numel():
        return
    low, high = (float(end) for end in torch.aminmax(images.detach()))
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"{what} hold values that are not a number; mend what made them")
    if low < -SLACK or high > 1 + SLACK:
        seen = f"{what} lie in [0, 1], these go from {low:.4g} to {high:.4g}"
        if low >= 0 and high <= 255:
            raise ValueError(f"{seen}; divide them by 255")
        if low >= -1 - SLACK and high <= 1 + SLACK:
            raise ValueError(f"{seen}; if they are scaled to [-1, 1], take ({what} + 1) / 2")
        raise ValueError(
            f"{seen}; put the normalisation into the model: rdfia.common.checks.Normalized(model)"
        )


def as_classes(classes: Classes, images: Tensor, what: str = "labels") -> Tensor:
    """Return classes of images as a tensor (B,) int64 on their device.

    Args:
        classes: (B,), a sequence of B numbers, or one number for all.
        images: (B, ...).
        what: Their name in the message.

    Raises:
        ValueError: They are something else.
    """
    if isinstance(classes, Tensor) and classes.ndim == 0 and not classes.is_floating_point():
        classes = int(classes)
    if isinstance(classes, Integral) and not isinstance(classes, bool):
        return torch.full((len(images),), int(classes), device=images.device)
    try:
        found = torch.as_tensor(classes, device=images.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} are classes (B,), got {type(classes).__name__}") from error
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"{what} are numbers of classes, got {found.dtype}; take {what}.argmax(1) of scores")
    if found.shape != images.shape[:1]:
        raise ValueError(f"{what} are one class for each of {len(images)} images, got {tuple(found.shape)}")
    return found.long()


def check_classes(classes: Tensor, count: int, what: str = "labels") -> None:
    """Check that classes (B,) are from 0 to ``count`` - 1.

    Raises:
        ValueError: One is not.
    """
    if what == "labels" and len(classes) and int(classes.max()) < 0:
        raise ValueError(f"these images have no {what}; put those of each class into a folder named after it")
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < count:
        ends = f"{int(classes.min())} to {int(classes.max())}"
        raise ValueError(f"{what} lie from 0 to {count - 1}, as there are {count} classes; got {ends}")


def check_epsilon(epsilon: float, images: Tensor, norm: Literal["linf", "l2"] = "linf") -> None:
    """Check that a distance can be one between images in [0, 1].

    Raises:
        ValueError: It is negative, not a number, or larger than any two images are apart.
    """
    largest = 1.0 if norm == "linf" else math.sqrt(max(images[:1].numel(), 1))
    if not 0 <= epsilon <= largest:
        mend = f"; {epsilon:g} grey levels are {epsilon:g} / 255" if 0 < epsilon <= 255 else ""
        raise ValueError(
            f"epsilon is a distance of images in [0, 1], at most {largest:g}, got {epsilon:g}{mend}"
        )


def looks_are_free(images: Tensor) -> bool:
    """Return whether to look at values makes nothing wait, as it does on a GPU."""
    return images.device.type == "cpu"


def check_settings(
    values: Mapping[str, Any],
    *,
    counts: Sequence[str] = (),
    amounts: Sequence[str] = (),
    shares: Sequence[str] = (),
) -> None:
    """Check numbers by their names: counts from 1 on, amounts from 0 on, shares from 0 to below 1.

    Raises:
        ValueError: One is something else.
    """
    for name in counts:
        if values[name] < 1:
            raise ValueError(f"{name} is at least 1, got {values[name]}")
    for name in amounts:
        if not values[name] >= 0:
            raise ValueError(f"{name} is not negative, got {values[name]}")
    for name in shares:
        if not 0 <= values[name] < 1:
            raise ValueError(f"{name} is at least 0 and below 1, got {values[name]}")


def check_batch(images: Tensor, labels: Tensor | None, classes: int, batch_idx: int) -> None:
    """Check images in [0, 1] and labels from 0 to ``classes`` - 1: each batch on a CPU, else the first.

    To look makes a GPU wait, and what is wrong with data is wrong from the start.

    Args:
        images: (B, C, H, W).
        labels: (B,); None where they are not used.
        classes: Their number.
        batch_idx: Of the batch in the epoch.
    """
    if batch_idx and not looks_are_free(images):
        return
    check_images(images)
    if labels is not None:
        check_classes(as_classes(labels, images), classes)
