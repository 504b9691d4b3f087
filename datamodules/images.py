"""Decode and resize pictures, in parallel, with errors that name the file.

A picture is decoded to what a viewer shows: turned as its camera noted, 16 bits and floats scaled by their
range, transparency over white, CMYK and palettes converted, of an animation the first frame.
"""

import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

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
    path: Path | io.BytesIO,
    *,
    mode: Literal["L", "RGB"],
    size: int | None = None,
    crop: int | None = None,
    pad: bool = False,
    fast: bool = False,
    most_pixels: int | None = None,
) -> np.ndarray:
    """Decode one picture, as a viewer shows it.

    Args:
        path: A file, or its content, in any format that Pillow reads.
        mode: ``L`` for grey, ``RGB`` for colour.
        size: Resize to this square, whatever the proportions; with ``crop``, resize the shorter side to it.
        crop: Then cut this square out of the middle.
        pad: Keep the proportions: the longer side becomes ``size``, black fills the rest.
        fast: Resize JPEGs in colour by torch, whose kernel takes a third of the time of Pillow's and differs
            from it by one grey level at most.
        most_pixels: A picture of more is refused before it is decoded; by default `MOST_PIXELS`.

    Returns:
        uint8, (H, W) for grey, (H, W, 3) for colour. Bilinear with antialiasing, as torchvision resizes.

    Raises:
        ValueError: The file is no picture, a damaged one, or one of too many pixels.
    """
    image: Image.Image | None = None
    most_pixels = most_pixels or MOST_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound is ours
            with Image.open(path) as file:
                width, height = file.size
                few = width * height <= most_pixels
                plain = (
                    isinstance(path, Path)
                    and file.format == "JPEG"
                    and mode == file.mode == "RGB"
                    and "exif" not in file.info
                )
                found = _decode_jpeg(path) if fast and plain and few else None
                if found is None and few:
                    image = as_shown(file)
                    image.load()  # before the file is closed
                    image = image.convert(mode) if image.mode != mode else image
    except Image.DecompressionBombError as error:
        # Pillow has a bound of its own, at which it does not say how many pixels there are.
        most = min(most_pixels, 2 * (Image.MAX_IMAGE_PIXELS or most_pixels))
        raise ValueError(f"{path} has more than {most:,} pixels; make it smaller") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not a readable picture: of no known format; replace or delete it"
        ) from error
    except Exception as error:  # of a damaged file decoders raise whatever they come across
        why = str(error) or type(error).__name__
        raise ValueError(f"{path} is not a readable picture ({why}); replace or delete it") from error
    if found is not None:
        return _shaped_fast(found, path, size, crop, pad)
    if image is None:
        pixels = f"{width:,} x {height:,} pixels, more than {most_pixels:,}"
        raise ValueError(f"{path} has {pixels}; make it smaller")
    if size and crop:
        image = image.resize(_shorter_side(path, image.size, size), Image.Resampling.BILINEAR)
        left, top = (round((side - crop) / 2) for side in image.size)
        image = image.crop((left, top, left + crop, top + crop))
    elif size and pad:
        part = image.resize(_longer_side(image.size, size), Image.Resampling.BILINEAR)
        image = Image.new(image.mode, (size, size))
        image.paste(part, (round((size - part.width) / 2), round((size - part.height) / 2)))
    elif size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _shorter_side(path: Path | io.BytesIO, shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Return width and height whose shorter one is ``size``: torchvision's Resize rounds the longer down."""
    width, height = shape
    short = min(width, height)
    if max(width, height) * size // short * size > MOST_PIXELS:
        raise ValueError(f"{path} is {width:,} x {height:,}, too narrow to be resized; cut it")
    return size * width // short, size * height // short


def _longer_side(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Return width and height whose longer one is ``size``."""
    width, height = (max(1, round(side / max(shape) * size)) for side in shape)
    return width, height


def _decode_jpeg(path: Any) -> Tensor | None:
    """Return the pixels (3, H, W) uint8 of a JPEG in RGB; None if it does not end as one.

    The same library as Pillow's, without Python's lock. It fills in what is missing of a file without a word.
    """
    content = torch.from_numpy(np.fromfile(path, np.uint8))
    if content[-2:].tolist() != [0xFF, 0xD9]:
        return None
    try:
        pixels: Tensor = decode_jpeg(content, mode=ImageReadMode.RGB)
    except RuntimeError:  # Pillow may do better, and says what it is
        return None
    return pixels


def _shaped_fast(
    pixels: Tensor, path: Path | io.BytesIO, size: int | None, crop: int | None, pad: bool
) -> np.ndarray:
    """Return pixels (3, H, W) at the size that `decode` is asked for, (side, side, 3), resized by torch."""

    def resized(width: int, height: int) -> Tensor:
        found: Tensor = interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0]
        return found

    height, width = pixels.shape[1:]
    if size and crop:
        pixels = resized(*_shorter_side(path, (width, height), size))
        top, left = (round((side - crop) / 2) for side in pixels.shape[1:])
        pixels = pixels[:, top : top + crop, left : left + crop]
    elif size and pad:
        part = resized(*_longer_side((width, height), size))
        top, left = (round((size - side) / 2) for side in part.shape[1:])
        pixels = part.new_zeros(3, size, size)
        pixels[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    elif size:
        pixels = resized(size, size)
    return pixels.permute(1, 2, 0).numpy()


def shaping(resize: str, size: int) -> dict[str, Any]:
    """Return how pictures become squares of ``size``, as `decode_all` takes it.

    Args:
        resize: ``squash`` to the square; ``crop``: the shorter side to 8/7 of the size, then the middle, as
            ImageNet networks are tested; ``pad`` with black.
        size: Side in pixels.
    """
    if resize == "crop":
        return {"size": size * 8 // 7, "crop": size, "pad": False, "fast": True}
    return {"size": size, "crop": None, "pad": resize == "pad", "fast": True}


def decode_all(
    paths: Sequence[Path],
    *,
    mode: Literal["L", "RGB"],
    size: int,
    crop: int | None = None,
    pad: bool = False,
    fast: bool = False,
    failed: dict[int, str] | None = None,
    out: np.ndarray | None = None,
) -> Tensor:
    """Decode pictures to one tensor, uint8, (N, 1 or 3, side, side) with side ``crop`` or ``size``.

    Args:
        paths: The pictures.
        mode: See `decode`, as the next four.
        size: Side.
        crop: Side of the middle.
        pad: Keep the proportions.
        fast: Resize by torch.
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
            image = decode(paths[index], mode=mode, size=size, crop=crop, pad=pad, fast=fast)
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
