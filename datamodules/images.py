"""Find, decode and resize pictures, in parallel, with errors that name the file.

A picture is decoded to what a viewer shows: turned as its camera noted, 16 bits and floats scaled by their
range, transparency over white, CMYK and palettes converted, of an animation the first frame.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

# What is taken for a picture, in any case of the letters.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"}
    | {".pgm", ".ppm", ".pbm", ".pnm"}
)
# Files that other systems leave in folders; nobody means them as pictures.
LITTER = frozenset({"thumbs.db", "desktop.ini", "icon\r"})
BACKGROUND = (255, 255, 255)  # under what is transparent
MOST_PIXELS = 200_000_000  # 0.6 GB once decoded; a file of a few bytes can claim any number


class Found(NamedTuple):
    """Pictures in a folder, in order of their paths, and how much else there is: by suffix, or what it is."""

    pictures: list[Path]
    others: Counter[str]

    def __str__(self) -> str:
        left_out = f"; not read: {kinds(self.others)}" if self.others else ""
        return f"{len(self.pictures):,} pictures{left_out}"


def kinds(others: Counter[str]) -> str:
    """Return files by suffix in words: ``3 .txt, 1 without a suffix``."""
    return ", ".join(f"{count:,} {kind or 'without a suffix'}" for kind, count in sorted(others.items()))


def is_litter(path: Path) -> bool:
    """Return whether a file is hidden, or one that another system left: ``._x.jpg``, ``Thumbs.db``."""
    return path.name.startswith(".") or path.name.lower() in LITTER


def find_pictures(folder: Path, *, recursive: bool = True) -> Found:
    """Return the pictures in a folder, and what else is there: nothing is left out without being counted.

    Hidden files, and files in hidden folders, are not looked at.

    Args:
        folder: That exists.
        recursive: Look into subfolders too.
    """
    pictures, others = [], Counter[str]()
    seen = {folder.resolve()}

    def look(place: Path) -> None:
        for path in sorted(place.iterdir()):
            if is_litter(path):
                continue
            if path.is_dir():
                if recursive and (real := path.resolve()) not in seen:  # a link may lead back
                    seen.add(real)
                    look(path)
                elif not recursive:
                    others["folders"] += 1
            elif not path.is_file():
                others["broken links"] += 1
            elif path.suffix.lower() in SUFFIXES:
                pictures.append(path)
            else:
                others[path.suffix.lower()] += 1

    look(folder)
    return Found(sorted(pictures), others)


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
) -> Tensor:
    """Decode pictures to one tensor, uint8, (N, 1 or 3, side, side) with side ``crop`` or ``size``.

    Args:
        paths: The pictures.
        mode: See `decode`, as the next three.
        size: Side.
        crop: Side of the middle.
        pad: Keep the proportions.
        failed: Takes why a picture could not be read, by its index; its pixels are black then.

    Raises:
        ValueError: Some are no pictures, or damaged, and ``failed`` is not given: how many, and the first
            three.
    """
    side, channels = crop or size, {"L": 1, "RGB": 3}[mode]
    pixels = torch.zeros(len(paths), channels, side, side, dtype=torch.uint8)

    def read(index: int) -> str | None:
        try:
            image = decode(paths[index], mode=mode, size=size, crop=crop, pad=pad)
            image = image.reshape(side, side, channels)
        except ValueError as error:
            return str(error)
        pixels[index] = torch.from_numpy(image.copy()).permute(2, 0, 1)
        return None

    with ThreadPoolExecutor() as threads:  # decoding releases the interpreter's lock
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
    return pixels
