"""Changes of all images that a discriminator sees, so that it cannot learn a few real ones by heart.

They are differentiable: the generator learns through them.

- DiffAugment: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020; every
  image is changed, by colour, place and a square that is cut out.
- ADA: Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020; each change
  befalls an image by a chance that grows while the discriminator is too sure of real images. Of its changes
  those of place and colour; without filters, noise, shifts by parts of a pixel, turns of hue, and the turn
  after stretching; both directions of a shift happen each by itself.

All take numbers in [0, 1) that were drawn before, a row for each image. Images are in [-1, 1].
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rdfia.common.checks import KeepsPrecision
from rdfia.common.parallel import sum_over_processes

Augmentation = Literal["none", "diffaugment", "ada"]
# Numbers that one image needs.
NUMBERS: dict[Augmentation, int] = {"none": 0, "diffaugment": 7, "ada": 22}
SHIFT, CUT = 0.125, 0.5  # of an image's side, as DiffAugment has them
TARGET = 0.6  # of the mean sign of real images' logits: above it, ADA's chance grows
IMAGES_TO_ONE = 500_000  # after so many images the chance could have gone from 0 to 1
EVERY = 4  # steps, after which the chance is set again


def brightness(images: Tensor, amount: Tensor) -> Tensor:
    """Add ``amount`` (B,) - 0.5 to images (B, C, H, W)."""
    return images + (amount[:, None, None, None] - 0.5)


def saturation(images: Tensor, amount: Tensor) -> Tensor:
    """Multiply the distance of images (B, C, H, W) from their own greys by twice ``amount`` (B,)."""
    grey = images.mean(1, keepdim=True)
    return (images - grey) * (2 * amount[:, None, None, None]) + grey


def contrast(images: Tensor, amount: Tensor) -> Tensor:
    """Multiply the distance of images (B, C, H, W) from their own means by ``amount`` (B,) + 0.5."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (amount[:, None, None, None] + 0.5) + mean


def _places(shift: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return where rows (B, side) come from after a shift (B,) of whole pixels, and which are outside."""
    source = torch.arange(side, device=shift.device) - shift[:, None]
    return source.clamp(0, side - 1), (source < 0) | (source >= side)


def translate(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Shift images (B, C, H, W) by whole pixels (B,) down and right; what comes in is 0."""
    count, channels, height, width = images.shape
    rows, no_row = _places(down, height)
    columns, no_column = _places(right, width)
    moved = images.gather(2, rows[:, None, :, None].expand(count, channels, height, width))
    moved = moved.gather(3, columns[:, None, None, :].expand(count, channels, height, width))
    return moved.masked_fill(no_row[:, None, :, None] | no_column[:, None, None, :], 0.0)


def cut_out(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Set squares of half a side to 0 in images (B, C, H, W), around the pixels y and x (B,)."""
    height, width = images.shape[2:]

    def near(middle: Tensor, side: int) -> Tensor:
        length = int(CUT * side + 0.5)
        start = middle[:, None] - length // 2
        place = torch.arange(side, device=images.device)
        return (place >= start) & (place < start + length)

    hidden = near(y, height)[:, None, :, None] & near(x, width)[:, None, None, :]
    return images.masked_fill(hidden, 0.0)


def whole(number: Tensor, low: int, high: int) -> Tensor:
    """Return whole numbers from low to high, both included, by numbers in [0, 1)."""
    return low + (number * (high - low + 1)).floor().clamp(max=high - low).long()


def diffaugment(images: Tensor, numbers: Tensor) -> Tensor:
    """Change colour and place of images (B, C, H, W), and cut out a square, by numbers (B, 7)."""
    light, colour, strength, down, right, y, x = numbers.unbind(1)
    height, width = images.shape[2:]
    images = contrast(saturation(brightness(images, light), colour), strength)
    most_down, most_right = int(height * SHIFT + 0.5), int(width * SHIFT + 0.5)
    images = translate(images, whole(down, -most_down, most_down), whole(right, -most_right, most_right))
    # As published, a square of even length may lie half outside.
    return cut_out(images, whole(y, 0, height), whole(x, 0, width))


def adaptive(images: Tensor, numbers: Tensor, chance: Tensor) -> Tensor:
    """Change images (B, C, H, W), each in each way by a chance (B,), by numbers (B, 22)."""
    columns = iter(numbers.unbind(1))
    zero, one = torch.zeros_like(chance), torch.ones_like(chance)
    square = images.shape[2] == images.shape[3]

    def maybe(changed: Callable[[Tensor], Tensor], usual: Tensor) -> Tensor:
        happens = next(columns) < chance
        return torch.where(happens, changed(next(columns)), usual)

    # From the place of a pixel in the result to that in the image, both from -1 to 1.
    place = _matrix(one, zero, zero, zero, one, zero)
    mirrored = maybe(lambda number: 1 - 2 * (number < 0.5).to(one), one)
    place = place @ _matrix(mirrored, zero, zero, zero, one, zero)
    quarters = maybe(lambda number: whole(number, 0, 3).to(one), zero)
    place = place @ _turn(quarters * (torch.pi / 2 if square else torch.pi))
    shifts = [maybe(lambda number: (2 * number - 1) * SHIFT, zero) for _ in range(2)]
    across, along = (
        (shift * side).round() * 2 / side for shift, side in zip(shifts, images.shape[:1:-1], strict=True)
    )
    place = place @ _matrix(one, zero, -across, zero, one, -along)
    larger = maybe(lambda number: _log_normal(number, 0.2), one)
    place = place @ _matrix(1 / larger, zero, zero, zero, 1 / larger, zero)
    place = place @ _turn(maybe(lambda number: (2 * number - 1) * torch.pi, zero))
    longer = maybe(lambda number: _log_normal(number, 0.2), one)
    place = place @ _matrix(1 / longer, zero, zero, zero, longer, zero)
    moved = (place != _matrix(one, zero, zero, zero, one, zero)).flatten(1).any(1)
    grid = functional.affine_grid(place[:, :2], list(images.shape), align_corners=False).to(images)
    there = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    images = torch.where(moved[:, None, None, None], there, images)

    light = maybe(lambda number: 0.2 * _normal(number), zero)
    images = images + light[:, None, None, None]
    strength = maybe(lambda number: _log_normal(number, 0.5), one)
    images = images * strength[:, None, None, None]
    inverted = maybe(lambda number: 1 - 2 * (number < 0.5).to(one), one)
    colour = maybe(lambda number: _log_normal(number, 1.0), one)
    grey = images.mean(1, keepdim=True)
    # Inverted greys, colours further from them; written so that what befalls no image changes no bit of it.
    inverted, colour = (number[:, None, None, None] - 1 for number in (inverted, colour))
    return images + inverted * grey + colour * (images - grey)


def _matrix(*rows: Tensor) -> Tensor:
    """Return matrices (B, 3, 3) whose first two rows are given as six tensors (B,)."""
    zero, one = torch.zeros_like(rows[0]), torch.ones_like(rows[0])
    matrices: Tensor = torch.stack([*rows, zero, zero, one], -1).unflatten(-1, (3, 3))
    return matrices


def _turn(angle: Tensor) -> Tensor:
    zero = torch.zeros_like(angle)
    return _matrix(angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero)


def _normal(number: Tensor) -> Tensor:
    found: Tensor = torch.special.ndtri(number.clamp(1e-6, 1 - 1e-6))
    return found


def _log_normal(number: Tensor, deviation: float) -> Tensor:
    """Return 2 to the power of a number of N(0, deviation)."""
    return torch.exp2(deviation * _normal(number))


class Augment(KeepsPrecision):
    """What a discriminator's images go through.

    Args:
        kind: ``none``, ``diffaugment`` or ``ada``.
    """

    chance: Tensor
    surety: Tensor

    def __init__(self, kind: Augmentation) -> None:
        super().__init__()
        self.kind: Augmentation = kind
        # ADA's, and of a checkpoint, so that a resumed training goes on: the chance; the sum of the logits'
        # signs since it was last changed, and their number.
        for name, shape in (("chance", ()), ("surety", (2,))):
            self.register_buffer(name, torch.zeros(shape), persistent=kind == "ada")

    @property
    def numbers(self) -> int:
        """How many numbers each image needs."""
        return NUMBERS[self.kind]

    def forward(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Change images (..., B, C, H, W) in [-1, 1] by numbers (..., B, `numbers`) in [0, 1)."""
        if self.kind == "none":
            return images
        flat, rows = images.flatten(0, -4), numbers.flatten(0, -2).to(images.device, torch.float32)
        with torch.autocast(images.device.type, enabled=False):
            if self.kind == "diffaugment":
                changed = diffaugment(flat.float(), rows)
            else:
                chance = self.chance.float().reshape(-1, 1).expand(-1, images.shape[-4]).flatten()
                changed = adaptive(flat.float(), rows, chance.expand(len(flat)))
        return changed.to(images.dtype).reshape(images.shape)

    def watch(self, real_logits: Tensor, world_size: int = 1) -> None:
        """Add the signs of the logits (..., B) of real images, as the discriminator saw them."""
        if self.kind == "ada":
            signs = real_logits.detach().float().sign()
            seen = torch.stack([signs.sum(-1), torch.full_like(signs[..., 0], signs.shape[-1])], -1)
            self.surety += sum_over_processes(seen, world_size)

    def adapt(self) -> None:
        """Let the chance follow what was seen since the last time."""
        signs, count = self.surety.unbind(-1)
        step = torch.where(signs / count.clamp(min=1) > TARGET, 1.0, -1.0) * count / IMAGES_TO_ONE
        self.chance.copy_((self.chance + step).clamp(0, 1))
        self.surety.zero_()


def flipped(images: Tensor, numbers: Tensor) -> Tensor:
    """Mirror those images (..., C, H, W) whose number (...) in [0, 1) is below a half."""
    return torch.where(numbers[..., None, None, None] < 0.5, images.flip(-1), images)
