"""Decode and resize pictures, in parallel, with errors that name the file."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor


def decode(
    path: Path, *, mode: Literal["L", "RGB"], size: int | None = None, crop: int | None = None
) -> np.ndarray:
    """Decode one picture.

    Args:
        path: Any format that Pillow reads.
        mode: ``L`` for grey, ``RGB`` for colour.
        size: Resize to this square, whatever the proportions; with ``crop``, resize the shorter side to it.
        crop: Then cut this square out of the middle.

    Returns:
        uint8, (H, W) for grey, (H, W, 3) for colour. Bilinear with antialiasing, as torchvision resizes.

    Raises:
        ValueError: The file is no picture, or a damaged one.
    """
    try:
        with Image.open(path) as file:
            image = file.convert(mode)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable picture ({error}); replace or delete it") from error
    if size and crop:
        # torchvision's Resize rounds the longer side down and CenterCrop rounds the corner.
        width, height = image.size
        short = min(width, height)
        image = image.resize((size * width // short, size * height // short), Image.Resampling.BILINEAR)
        left, top = (round((side - crop) / 2) for side in image.size)
        image = image.crop((left, top, left + crop, top + crop))
    elif size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def decode_all(
    paths: Sequence[Path], *, mode: Literal["L", "RGB"], size: int, crop: int | None = None
) -> Tensor:
    """Decode pictures to one tensor, uint8, (N, 1 or 3, side, side) with side ``crop`` or ``size``.

    Raises:
        ValueError: A file is no picture, or a damaged one.
    """
    side, channels = crop or size, {"L": 1, "RGB": 3}[mode]
    pixels = torch.empty(len(paths), channels, side, side, dtype=torch.uint8)

    def read(index: int) -> None:
        image = decode(paths[index], mode=mode, size=size, crop=crop).reshape(side, side, channels)
        pixels[index] = torch.from_numpy(image.copy()).permute(2, 0, 1)

    with ThreadPoolExecutor() as threads:  # decoding releases the interpreter's lock
        list(threads.map(read, range(len(paths))))
    return pixels
