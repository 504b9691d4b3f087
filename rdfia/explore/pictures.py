"""Pictures that come from a browser and go back to it. Nothing is kept: no file is written."""

import io
from typing import Any, Literal

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from datamodules.images import decode
from rdfia.common.inlined import inlined
from rdfia.interpret.network_plots import FULL

# Bytes and pixels of a picture; a file of a few bytes can claim any number of pixels.
MOST_BYTES, MOST_PIXELS = 20_000_000, 50_000_000


class Dropped(io.BytesIO):
    """The bytes of a picture, which messages call by what it is."""

    def __repr__(self) -> str:
        return "this file"


def read(content: bytes, mode: Literal["L", "RGB"] = "RGB", **shape: Any) -> np.ndarray:
    """Return the pixels of a picture of bounded size, see `datamodules.images.decode`.

    Raises:
        ValueError: It is no picture, a damaged one, or too large.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"this file has {len(content):,} bytes, more than {MOST_BYTES:,}; make it smaller")
    return decode(Dropped(content), mode=mode, most_pixels=MOST_PIXELS, **shape)


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Return uint8 pixels (H, W) or (H, W, 3) as an image (1, C, H, W) in [0, 1]."""
    return torch.tensor(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)[None].float() / 255


def address(image: Tensor) -> str:
    """Return an image (C, H, W) in [0, 1] as an address that holds it as PNG, without loss."""
    pixels = (image.detach().cpu().float().nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
    return _png(Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()))


def map_address(values: Tensor) -> str:
    """Return a map (H, W), not negative, in colours as PNG: the brightest from `FULL` of its values on."""
    bright = float(values.flatten().quantile(FULL))
    shares = (values / max(bright, 1e-12)).clamp(0, 1).cpu().numpy()
    return _png(Image.fromarray((colormaps["inferno"](shares)[..., :3] * 255).round().astype(np.uint8)))


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return inlined("image/png", buffer.getvalue())


def as_digit(drawing: np.ndarray) -> Tensor:
    """Return a white drawing on black as MNIST has digits, (1, 1, 32, 32) in [0, 1].

    As LeCun et al. made them: the drawing is shrunk to 20 pixels, and its centre of mass put into the middle
    of 28; the frame of 2 pixels is what the networks here add.

    Raises:
        ValueError: Nothing is drawn.
    """
    picture = Image.fromarray(drawing)
    box = picture.point(lambda value: 255 if value > 60 else 0).getbbox()
    if box is None:
        raise ValueError("nothing is drawn; draw a digit, white on black")
    cut = picture.crop(box)
    scale = 20 / max(cut.size)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    pixels = np.asarray(cut.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR))
    rows, columns = np.indices(pixels.shape)
    total = max(float(pixels.sum()), 1.0)
    top = int(np.clip(round(15.5 - float((rows * pixels).sum()) / total), 2, 30 - size[1]))
    left = int(np.clip(round(15.5 - float((columns * pixels).sum()) / total), 2, 30 - size[0]))
    digit = torch.zeros(1, 1, 32, 32)
    digit[0, 0, top : top + size[1], left : left + size[0]] = torch.tensor(pixels / 255.0)
    return digit
