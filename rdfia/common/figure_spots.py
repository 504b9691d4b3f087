"""Places of a figure that say more where a page is pointed at: a label, and pictures of what lies there."""

import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from rdfia.common.inlined import inlined

TILE = 48  # pixels of the side of a picture; smaller ones stay as they are
MOST_PICTURES = 1000  # in a figure
MOST_OF_ONE = 3  # of one place


class Spot(NamedTuple):
    """A place in data coordinates of some axes, what it says, and images (N, C, H, W) in [0, 1] of it."""

    axes: Axes
    x: float
    y: float
    label: str
    images: Tensor | None = None


PLACES = "_rdfia_spots"  # attribute of a figure, which they live as long as


def add(figure: Figure, spots: Iterable[Spot]) -> None:
    """Let a figure have these places, too."""
    figure.__dict__.setdefault(PLACES, []).extend(spots)


def of_line(axes: Axes, name: str, x: Sequence[float], y: Sequence[float]) -> list[Spot]:
    """Return a place for each value of a line."""
    values = zip(x, y, strict=True)
    return [Spot(axes, a, b, f"{name}: {b:.4g} at {a:.4g}") for a, b in values if math.isfinite(b)]


def examples(
    images: Callable[[Tensor], Tensor], truth: Tensor, predicted: Tensor, *, most: int = MOST_OF_ONE
) -> dict[tuple[int, int], Tensor]:
    """Return some images of each confusion, for `rdfia.common.plots.confusion_matrix`.

    Args:
        images: Gives images by their numbers (N,).
        truth: True classes (N,); below 0 is none.
        predicted: Predicted classes (N,).
        most: Images of each.
    """
    found: dict[tuple[int, int], Tensor] = {}
    wrong = ((truth != predicted) & (truth >= 0)).nonzero()[:, 0]
    pairs = torch.stack([truth[wrong], predicted[wrong]], 1)
    for pair in pairs.unique(dim=0):
        own = wrong[(pairs == pair).all(1)][:most]
        found[int(pair[0]), int(pair[1])] = images(own)
    return found


def as_json(figure: Figure, box: Bbox) -> str | None:
    """Return the places of a figure for a page, in shares of the part of it that is written.

    Args:
        figure: As it is drawn.
        box: What is written of it, in inches.

    Returns:
        ``spots``: [x from the left, y from the top, label, number of the first picture, how many];
        ``pictures``: an address that holds all, ``columns`` beside each other, each ``tile`` pixels wide and
        high. None of a figure without places.
    """
    spots: list[Spot] | None = getattr(figure, PLACES, None)
    if not spots:
        return None
    found: list[list[float | str | int]] = []
    tiles: list[Tensor] = []
    places: dict[int, int] = {}  # of images that several spots have
    for spot in spots:
        point = spot.axes.transData.transform((spot.x, spot.y))
        if not spot.axes.bbox.padded(2).contains(*point):  # where a line goes on beyond what is drawn
            continue
        x, y = point / figure.dpi
        first, count = len(tiles), 0
        if spot.images is not None and (len(tiles) < MOST_PICTURES or spot.images.data_ptr() in places):
            own = list(spot.images[:MOST_OF_ONE])
            first, count = places.setdefault(spot.images.data_ptr(), first), len(own)
            tiles += own if first == len(tiles) else []
        across, down = (x - box.x0) / box.width, 1 - (y - box.y0) / box.height
        found.append([round(float(across), 4), round(float(down), 4), spot.label, first, count])
    known: dict[str, object] = {"spots": found}
    if tiles:
        known |= _sheet(tiles)
    return json.dumps(known, separators=(",", ":")).replace("<", "\\u003c")  # within a page's script


def _sheet(tiles: Sequence[Tensor]) -> dict[str, object]:
    """Return pictures as one, which takes fewer bytes than each by itself."""
    side = min(TILE, max(tile.shape[-1] for tile in tiles))
    columns = min(20, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = np.zeros((rows * side, columns * side, 3), np.uint8)
    for number, tile in enumerate(tiles):
        scaled = (
            interpolate(tile[None].detach().float().cpu(), (side, side), mode="area")[0]
            .nan_to_num(0.0)
            .clamp(0, 1)
        )
        pixels = (scaled.expand(3, -1, -1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        top, left = number // columns * side, number % columns * side
        sheet[top : top + side, left : left + side] = pixels
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "webp", quality=75)
    return {"pictures": inlined("image/webp", buffer.getvalue()), "columns": columns, "tile": side}
