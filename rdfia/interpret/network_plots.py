"""Figures of what networks see: what they take an image for, activation maps, saliency, attacks."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from rdfia.common import figure_words
from rdfia.common.figure_style import colour, end_at_one, styled
from rdfia.common.plots import tile

FULL = 0.99  # of a map's values lie below its full colour: single pixels would leave the rest black


@styled
def classification(
    image: Tensor,
    seen: Tensor,
    probabilities: Sequence[float],
    names: Sequence[str],
    *,
    true: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw an image, what the network sees of it, and the most probable classes.

    Args:
        image: (C, H, W) in [0, 1].
        seen: (C, H, W), normalised; shown from its least to its largest value.
        probabilities: Of the classes, falling.
        names: Of the classes.
        true: The class of the image, which is marked.
        title: Of the figure.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.4])
    low, high = seen.min(), seen.max()
    tile(left, image[None], 1, "image")
    tile(
        middle, ((seen - low) / (high - low).clamp(min=1e-9))[None], 1, f"normalised, {low:.1f} to {high:.1f}"
    )
    drawn = right.barh(
        range(len(names)), probabilities, color=[colour(2 if name == true else 0) for name in names]
    )
    right.bar_label(drawn, [f"{p:.3f}" for p in probabilities], padding=3)
    right.set_yticks(range(len(names)), [f"{name} (true)" if name == true else name for name in names])
    right.set_xlim(0, 1.15)
    end_at_one(right, "x")
    right.invert_yaxis()
    right.set_xlabel("probability")
    if title:
        figure.suptitle(title)
    said = figure_words.listed(dict(zip(names, probabilities, strict=True)), "probability")
    figure.set_label(": ".join(filter(None, [title, said])))
    return figure


@styled
def maps_grid(image: Tensor, maps: Tensor, channels: Sequence[int], *, title: str | None = None) -> Figure:
    """Draw an image and maps of a layer, each from its least to its largest value.

    Args:
        image: (C, H, W) in [0, 1].
        maps: (N, h, w).
        channels: Their N numbers.
        title: Of the figure.
    """
    columns = min(9, len(maps) + 1)
    rows = -(-(len(maps) + 1) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.7 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for one in axes:
        one.set_axis_off()
    tile(axes[0], image[None], 1, "image")
    for one, map_, channel in zip(axes[1:], maps.cpu(), channels, strict=False):
        one.imshow(map_.numpy(), cmap="viridis")
        one.set_title(f"{channel}", fontsize=8)
    if title:
        figure.suptitle(title)
    figure.set_label(f"{title or 'activation maps'}: the image, and its maps {', '.join(map(str, channels))}")
    return figure


@styled
def saliency(
    rows: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]], *, title: str | None = None, overlay: bool = True
) -> Figure:
    """Draw images and their saliency maps, each from 0 to what 99 % of it lie below, which its title says.

    Args:
        rows: By name: an image (C, H, W) in [0, 1], and its maps (H, W) by name, not negative.
        title: Of the figure.
        overlay: Draw the last map once more, over the image.
    """
    columns = 1 + max(len(maps) for _, maps in rows.values()) + overlay
    figure = Figure(figsize=(2.2 * columns, 2.5 * len(rows) + 0.3), layout="constrained")
    for line, (name, (image, maps)) in zip(
        figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True
    ):
        for axes in line:
            axes.set_axis_off()
        tile(line[0], image[None], 1, "")
        line[0].set_title(name, fontsize=8)
        for axes, (label, values) in zip(line[1:], maps.items(), strict=False):
            full = float(values.flatten().quantile(FULL))
            axes.imshow(values.cpu().numpy(), cmap="inferno", vmin=0, vmax=max(full, 1e-12))
            axes.set_title(f"{label}\nfull from {full:.3g}, largest {float(values.max()):.3g}", fontsize=8)
        if overlay and maps:
            label, values = list(maps.items())[-1]
            tile(line[len(maps) + 1], image.mean(0, keepdim=True)[None], 1, "")
            line[len(maps) + 1].set_title(f"{label}\nover the image", fontsize=8)
            top = float(values.flatten().quantile(FULL))
            line[len(maps) + 1].imshow(
                values.cpu().numpy(),
                cmap="inferno",
                vmin=0,
                vmax=max(top, 1e-12),
                alpha=0.6,
                extent=(-0.5, image.shape[2] + 1.5, image.shape[1] + 1.5, -0.5),
            )
    if title:
        figure.suptitle(title)
    return figure


@styled
def changes(
    captions: Sequence[str],
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    magnify: float = 10.0,
    title: str | None = None,
) -> Figure:
    """Draw images, what became of them, and the difference, magnified around grey.

    Args:
        captions: One for each pair.
        pairs: The image and the changed image, each (C, H, W) in [0, 1].
        magnify: Factor of the difference.
        title: Of the figure.
    """
    columns = min(4, len(pairs))
    lines = -(-len(pairs) // columns)
    figure = Figure(figsize=(5.4 * columns, 2.1 * lines + 0.4), layout="constrained")
    every = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes in every:
        axes.set_axis_off()
    for axes, name, (image, changed) in zip(every, captions, pairs, strict=False):
        difference = (0.5 + magnify * (changed - image)).clamp(0, 1)
        tile(axes, torch.stack([image, changed, difference]), 3, "")
        axes.set_title(name, fontsize=8)
    if title:
        figure.suptitle(title)
    return figure
