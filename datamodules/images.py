"""Decode and resize pictures, in parallel, with errors that name the file.

A picture is decoded to what a viewer shows: turned as its camera noted, 16 bits and floats scaled by their
range, transparency over white, CMYK and palettes converted, of an animation the first frame.
"""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

BACKGROUND = (255, 255, 255)  # under what is transparent
MOST_PIXELS = 200_000_000  # 0.6 GB once decoded; a file of a few bytes can claim any number


def as_shown(image: Image.Image) -> Image.Image:
    """Return a picture as a viewer shows it: upright, 8 bits, RGB or L, nothing transparent."""
    image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16 bits, or numbers of any range
        values = np.asarray(image).astype(np.float64)
        values = np.where(np.isfinite(values), values, 0.0)
        low, high = float(values.min()), float(values.max())
        if image.mode.startswith("I;16") or (image.mode == "I" and low >= 0 and 255 < high <= 65535):
            low, high = 0.0, 65535.0
        elif image.mode == "I" and low >= 0 and high <= 255:
            low, high = 0.0, 255.0
        elif image.mode == "F" and low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        scaled = (values - low) * (255 / (high - low) if high > low else 0.0)
        return Image.fromarray(scaled.round().astype(np.uint8))
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        shown = Image.new("RGBA", seen.size, (*BACKGROUND, 255))
        shown.alpha_composite(seen)
        return shown.convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def decode(
    path: Path,
    *,
    mode: Literal["L", "RGB"],
    size: int | None = None,
    crop: int | None = None,
    pad: bool = False,
) -> np.ndarray:
    """Decode one picture, as a viewer shows it.

    Args:
        path: Any format that Pillow reads.
        mode: ``L`` for grey, ``RGB`` for colour.
        size: Resize to this square, whatever the proportions; with ``crop``, resize the shorter side to it.
        crop: Then cut this square out of the middle.
        pad: Keep the proportions: the longer side becomes ``size``, black fills the rest.

    Returns:
        uint8, (H, W) for grey, (H, W, 3) for colour. Bilinear with antialiasing, as torchvision resizes.

    Raises:
        ValueError: The file is no picture, a damaged one, or one of too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound is ours
            with Image.open(path) as file:
                width, height = file.size
                image = as_shown(file).convert(mode) if width * height <= MOST_PIXELS else None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has too many pixels ({error}); make it smaller") from error
    except Exception as error:  # of a damaged file decoders raise whatever they come across
        why = str(error) or type(error).__name__
        raise ValueError(f"{path} is not a readable picture ({why}); replace or delete it") from error
    if image is None:
        pixels = f"{width:,} x {height:,} pixels, more than {MOST_PIXELS:,}"
        raise ValueError(f"{path} has {pixels}; make it smaller")
    if size and crop:
        # torchvision's Resize rounds the longer side down and CenterCrop rounds the corner.
        width, height = image.size
        short = min(width, height)
        if max(width, height) * size // short * size > MOST_PIXELS:
            raise ValueError(f"{path} is {width:,} x {height:,}, too narrow to be resized; cut it")
        image = image.resize((size * width // short, size * height // short), Image.Resampling.BILINEAR)
        left, top = (round((side - crop) / 2) for side in image.size)
        image = image.crop((left, top, left + crop, top + crop))
    elif size and pad:
        image = ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR)
    elif size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def decode_all(
    paths: Sequence[Path],
    *,
    mode: Literal["L", "RGB"],
    size: int,
    crop: int | None = None,
    pad: bool = False,
    failed: dict[int, str] | None = None,
    out: np.ndarray | None = None,
) -> Tensor:
    """Decode pictures to one tensor, uint8, (N, 1 or 3, side, side) with side ``crop`` or ``size``.

    Args:
        paths: The pictures.
        mode: See `decode`, as the next three.
        size: Side.
        crop: Side of the middle.
        pad: Keep the proportions.
        failed: Takes why a picture could not be read, by its index; its pixels are black then.
        out: Zeros of that shape to write to, such as a file that is mapped into memory.

    Raises:
        ValueError: Some are no pictures, or damaged, and ``failed`` is not given: how many, and the first
            three.
    """
    side, channels = crop or size, {"L": 1, "RGB": 3}[mode]
    pixels = np.zeros((len(paths), channels, side, side), np.uint8) if out is None else out

    def read(index: int) -> str | None:
        try:
            image = decode(paths[index], mode=mode, size=size, crop=crop, pad=pad)
        except ValueError as error:
            return str(error)
        # By numpy: torch would copy with threads of its own, which wait for each other here.
        np.copyto(pixels[index], image.reshape(side, side, channels).transpose(2, 0, 1))
        return None

    with ThreadPoolExecutor(cpus()) as threads:  # decoding releases the interpreter's lock
        said = list(threads.map(read, range(len(paths))))
    errors = {index: error for index, error in enumerate(said) if error is not None}
    if failed is not None:
        failed |= errors
    elif len(errors) == 1:
        raise ValueError(next(iter(errors.values())))
    elif errors:
        first = "; ".join(list(errors.values())[:3])
        more = f"; and {len(errors) - 3:,} more" if len(errors) > 3 else ""
        raise ValueError(f"{len(errors):,} of {len(paths):,} pictures cannot be read: {first}{more}")
    return torch.from_numpy(pixels)


def cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
