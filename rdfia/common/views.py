"""Random views of images, drawn again for each batch: parts, mirror images, small turns and shifts.

What is drawn depends on a key (such as a seed and the number of a step) and on the process alone: a resumed
run sees the views that it would have seen, and the processes of a run see, together, what one would.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from rdfia.common.draws import drawn

Augmentation = Literal["crop", "flip", "randaugment", "trivial"]


def transformed(images: Tensor, matrices: Tensor, outside: str) -> Tensor:
    """Return images (B, C, H, W) seen through affine maps (B, 2, 3) of coordinates from -1 to 1.

    Args:
        images: (B, C, H, W).
        matrices: From a place in the view to one in the image.
        outside: What lies around an image, ``border``, ``reflection`` or ``zeros``.
    """
    # In half precision positions are rounded to whole pixels or more; on a CPU the gradient writes outside
    # its memory (torch 2.14).
    with torch.autocast(images.device.type, enabled=False):
        exact = images.float()
        positions = functional.affine_grid(matrices.to(exact), list(images.shape), align_corners=False)
        seen = functional.grid_sample(exact, positions, padding_mode=outside, align_corners=False)
        return seen.to(images.dtype)


def similarity(angle: Tensor, size: Tensor | float, right: Tensor, down: Tensor) -> Tensor:
    """Return maps (B, 2, 3) from positions in views to positions in images: turned, scaled, then shifted.

    Args:
        angle: (B,), in radians.
        size: (B,) or a number; above 1, things look smaller.
        right: (B,), where the middle of the view lies in the image, in halves of its width.
        down: (B,), in halves of its height.
    """
    cosine, sine = angle.cos() * size, angle.sin() * size
    return torch.stack([torch.stack([cosine, -sine, right], 1), torch.stack([sine, cosine, down], 1)], 1)


def check_augmentations(names: Sequence[str]) -> list[Augmentation]:
    """Return names of augmentations as a list.

    Raises:
        ValueError: There is none of a name, or both policies are asked for.
    """
    known = get_args(Augmentation)
    for name in names:
        if name not in known:
            raise ValueError(f"augmentations are {', '.join(known)}; got {name!r}")
    if {"randaugment", "trivial"} <= set(names):
        raise ValueError("randaugment and trivial are two policies; take one")
    return [name for name in known if name in names]


def augmented(
    images: Tensor,
    names: Sequence[Augmentation],
    key: Iterable[int],
    *,
    rank: int = 0,
    world_size: int = 1,
    numbers: Tensor | None = None,
) -> Tensor:
    """Return images, each changed at random.

    ``crop`` and ``flip``: see `random_views`. ``randaugment`` (Cubuk et al., 2020) and ``trivial``
    (TrivialAugment, Müller & Hutter, ICCV 2021) are torchvision's, on 8 bits.

    Args:
        images: (B, C, H, W) in [0, 1].
        names: Of the augmentations.
        key: Non-negative integers, such as a seed and the number of a batch.
        rank: Of this process among ``world_size``.
        world_size: Number of processes.
        numbers: See `random_views`.
    """
    key = list(key)
    if "crop" in names or "flip" in names:
        chosen = {"crop": "crop" in names, "flip": "flip" in names}
        images = random_views(images, key, **chosen, rank=rank, world_size=world_size, numbers=numbers)
    policy = v2.RandAugment() if "randaugment" in names else v2.TrivialAugmentWide()
    if "randaugment" in names or "trivial" in names:
        seeds = drawn(len(images), 1, [*key, 1], rank=rank, world_size=world_size)[:, 0]
        images = images.clone()
        bytes_of = (images * 255).round().clamp(0, 255).to(torch.uint8)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            for number, seed in enumerate(seeds.tolist()):
                torch.manual_seed(int(seed * 2**53))
                images[number] = policy(bytes_of[number]).to(images.dtype) / 255
    return images


def random_views(
    images: Tensor,
    key: Iterable[int],
    *,
    smallest: float = 0.35,
    crop: bool = True,
    flip: bool = True,
    rank: int = 0,
    world_size: int = 1,
    numbers: Tensor | None = None,
) -> Tensor:
    """Return a random part of each image, resized to its size, and mirrored half of the time.

    Args:
        images: (B, C, H, W).
        key: Non-negative integers, such as a seed and the number of a batch.
        smallest: Part of an image's area that a view has at least.
        crop: False leaves images whole.
        flip: False leaves images as they are.
        rank: Of this process among ``world_size``.
        world_size: Number of processes.
        numbers: (B, 5), what `drawn` gives for the key, if that is on the device of the images already.
    """
    if numbers is None:
        numbers = drawn(len(images), 5, key, rank=rank, world_size=world_size)
    area, shape, x, y, mirror = numbers.float().unbind(1)
    mirror = mirror if flip else torch.ones_like(mirror)
    if not crop:
        return torch.where((mirror < 0.5).to(images.device)[:, None, None, None], images.flip(-1), images)
    side = (smallest + (1 - smallest) * area).sqrt()
    stretch = (4 / 3) ** (shape - 0.5)  # width to height from 3:4 to 4:3
    width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
    matrices = torch.zeros(len(images), 2, 3, device=numbers.device)
    matrices[:, 0, 0] = width * torch.where(mirror < 0.5, -1.0, 1.0)
    matrices[:, 1, 1] = height
    # in coordinates from -1 to 1, a window of half width w has its middle within 1 - w
    matrices[:, 0, 2], matrices[:, 1, 2] = (1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1)
    return transformed(images, matrices, "reflection")


def jittered(
    images: Tensor,
    key: Iterable[int],
    *,
    rank: int = 0,
    world_size: int = 1,
    numbers: Tensor | None = None,
) -> Tensor:
    """Return images, each turned, scaled and shifted a little, so that a digit stays the same digit.

    By at most 15 degrees, 15 % and 2 pixels of 28.

    Args:
        images: (B, C, H, W).
        key: Non-negative integers, such as a seed and the number of a batch.
        rank: Of this process among ``world_size``.
        world_size: Number of processes.
        numbers: (B, 4), what `drawn` gives for the key, if that is on the device of the images already.
    """
    if numbers is None:
        numbers = drawn(len(images), 4, key, rank=rank, world_size=world_size)
    turn, scale, right, down = (2 * numbers - 1).float().unbind(1)
    matrices = similarity(turn * math.radians(15), 1 + 0.15 * scale, right / 7, down / 7)
    return transformed(images, matrices, "border")
