"""Figures out of numbers: each function returns a matplotlib figure. Knows nothing of models or files.

The label of a figure says what there is to see, where numbers say it; `rdfia.common.figure_style.as_png`
writes it into the file.
"""

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor
from torchvision.utils import make_grid

from rdfia.common import figure_spots, figure_words
from rdfia.common.figure_spots import Spot
from rdfia.common.figure_style import (
    colour,
    dashes,
    end_at_one,
    is_share,
    label_axis,
    leave_the_beginning,
    like,
    name_lines,
    readable,
    shape,
    short,
    styled,
)
from rdfia.common.smoothing import points_within, running_mean

# x values and y values
Line = tuple[Sequence[float], Sequence[float]]


def sheet(images: Tensor, columns: int) -> np.ndarray:
    """Return images (N, 1 or 3, H, W) in [0, 1] as one picture (rows, columns, 3) uint8, a pixel apart."""
    # What is not a number, of a generator that diverged, is black.
    pixels = images.float().nan_to_num(0.0).clamp(0, 1)
    grid: Tensor = make_grid(pixels, nrow=columns, padding=1, pad_value=0.4)
    return (grid * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def tile(axes: Axes, images: Tensor, columns: int, title: str) -> None:
    """Draw images (N, C, H, W) in [0, 1] as one picture."""
    axes.imshow(sheet(images, columns), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()


@styled
def image_grids(images: Mapping[str, Tensor], *, columns: int = 8, title: str | None = None) -> Figure:
    """Draw grids of images side by side.

    Args:
        images: By title, each (N, C, H, W) in [0, 1].
        columns: Images in a row of each grid.
        title: Of the whole figure.
    """
    rows = max(-(-len(grid) // columns) for grid in images.values())
    figure = Figure(figsize=(4.5 * len(images), 4.5 * rows / columns + 0.5), layout="constrained")
    for axes, (name, grid) in zip(
        figure.subplots(1, len(images), squeeze=False)[0], images.items(), strict=True
    ):
        tile(axes, grid, columns, name)
    if title:
        figure.suptitle(title)
    return figure


@styled
def image_rows(images: Mapping[str, Tensor], *, title: str | None = None) -> Figure:
    """Draw one row of images for each name.

    Args:
        images: By name, each (N, C, H, W) in [0, 1], as many for all.
        title: Of the figure.
    """
    columns = min(len(row) for row in images.values())
    picture = sheet(torch.cat([row[:columns] for row in images.values()]), columns)
    side = max(0.36, next(iter(images.values())).shape[3] / 100)  # of an image, in inches
    names = 0.5 + 0.11 * max(len(name) for name in images)  # their room
    figure = Figure(figsize=(side * columns + names, side * len(images) + 0.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    height = (picture.shape[0] - 1) / len(images)
    axes.set_yticks([height * (number + 0.5) for number in range(len(images))], list(images))
    axes.set_xticks([])
    if title:
        figure.suptitle(title)
    return figure


def tells(lines: Mapping[str, Line]) -> bool:
    """Return whether there is more to see than one value."""
    long = [y for _, y in lines.values() if len(y) > 1]
    return bool(long) and len({value for y in long for value in y}) > 1


def draw_lines(
    axes: Axes,
    lines: Mapping[str, Line],
    y_label: str,
    smooth: float,
    intervals: Mapping[str, Sequence[tuple[float, float]]],
) -> dict[str, Line]:
    """Draw lines, see `curves`; return them as they are drawn."""
    seen: dict[str, Line] = {}
    for number, (name, (x, y)) in enumerate(lines.items()):
        own, marker = colour(number), shape(number) if len(y) < 60 else None
        drawn: Sequence[float] | np.ndarray = y
        if (window := points_within(x, smooth)) > 1:
            axes.plot(x, y, color=own, alpha=0.25, linewidth=0.7)
            drawn, marker = running_mean(y, window), None
        axes.plot(x, drawn, color=own, linestyle=dashes(number), label=name, marker=marker)
        seen[name] = (x, list(drawn))
        if marker and isinstance(figure := axes.figure, Figure):
            figure_spots.add(figure, figure_spots.of_line(axes, name or str(y_label), x, y))
        if name in intervals:
            axes.vlines(x, *zip(*intervals[name], strict=True), color=own, alpha=0.5, linewidth=1.5)
    return seen


@styled
def curves(
    panels: Mapping[str, Mapping[str, Line]],
    *,
    x_label: str,
    title: str | None = None,
    smooth: float = 0,
    schedules: Collection[str] = (),
    log_x: bool = False,
    images: Mapping[str, Tensor] | None = None,
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Figure | None:
    """Draw line plots side by side, more than four in rows of three.

    A panel of single points, or of one value all along, is left out: a number says it.

    Args:
        panels: By label of the y axis, see `axis_label`, then by label of the line: x and y values.
        x_label: Label of all x axes.
        title: Of the whole figure.
        smooth: Running mean over this much of x, drawn over the pale raw line where it has several points.
        schedules: Labels of panels without noise, which are drawn as they are.
        log_x: Draw x on a logarithmic scale.
        images: By title, grids of images (N, C, H, W) in [0, 1] to the right of the plots.
        intervals: By label of the line, the ends of each value's interval, drawn as bars.

    Returns:
        The figure; None if nothing is left.
    """
    images, intervals = images or {}, intervals or {}
    panels = {label: lines for label, lines in panels.items() if tells(lines)}
    if not panels and not images:
        return None
    wrapped = len(panels) > 4 and not images
    widths = [6.0] * (3 if wrapped else len(panels)) + [3.4] * len(images)
    rows = math.ceil(len(panels) / 3) if wrapped else 1
    figure = Figure(figsize=(sum(widths), 3.6 * rows), layout="constrained")
    every = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths).flatten()
    row = every[: len(panels) + len(images)]
    for axes in every[len(row) :]:
        axes.remove()
    seen: dict[str, dict[str, Line]] = {}
    for axes, (name, grid) in zip(row[len(panels) :], images.items(), strict=True):
        tile(axes, grid, math.ceil(len(grid) ** 0.5), name)
    for axes, (y_label, lines) in zip(row[: len(panels)], panels.items(), strict=True):
        width = 0 if y_label in schedules else smooth
        drawn = draw_lines(axes, lines, y_label, width, intervals)
        smoothed = any(points_within(x, width) > 1 for x, _ in lines.values())
        seen[like(y_label, f"{y_label}, running mean") if smoothed else y_label] = drawn
        ends = {name: (float(y[-1]), colour(n)) for n, (name, (_, y)) in enumerate(drawn.items()) if len(y)}
        if log_x:
            axes.set_xscale("log")
            values = sorted({value for x, _ in lines.values() for value in x})
            if len(values) < 10:  # as they were chosen, not powers of 10
                texts = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
                axes.set_xticks(values, texts)
                axes.xaxis.set_minor_locator(NullLocator())
        else:
            readable(axes.xaxis)
        axes.set_xlabel(x_label)
        label_axis(axes.yaxis, y_label)
        readable(axes.yaxis)
        axes.grid()
        if is_share(y_label):
            end_at_one(axes, "y")
        else:
            leave_the_beginning(axes, [y for _, y in lines.values()])
        name_lines(axes, ends)
    figure.set_label(figure_words.of_curves(seen, x_label))
    if title:
        figure.suptitle(title)
    return figure


@styled
def scatter(
    panels: Mapping[str, tuple[Tensor, Tensor, Sequence[str]]],
    *,
    columns: int,
    title: str | None = None,
    images: Tensor | None = None,
) -> Figure:
    """Draw points in the plane, panel by panel, coloured by group.

    Args:
        panels: By title: points (N, 2), numbers of the groups (N,), names of the groups.
        columns: Panels in a row.
        title: Of the whole figure.
        images: (N, C, H, W) in [0, 1] of the points, for panels of as many; a page shows them.
    """
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.6 * rows), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in every:
        axes.set_axis_off()
    for axes, (name, (points, groups, names)) in zip(every, panels.items(), strict=False):
        for number, group in enumerate(names):
            x, y = points[groups == number].T
            axes.scatter(x, y, s=7, alpha=0.7, lw=0, color=colour(number), marker=shape(number), label=group)
        if images is not None and len(images) == len(points):
            spots = (
                Spot(axes, float(x), float(y), names[int(group)], image[None])
                for (x, y), group, image in zip(points, groups, images, strict=True)
            )
            figure_spots.add(figure, spots)
        axes.legend(markerscale=2.5, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        axes.set_title(name)
    if title:
        figure.suptitle(title)
    return figure


@styled
def captioned(
    images: Tensor, captions: Sequence[str], *, columns: int = 10, title: str | None = None, side: float = 1.1
) -> Figure:
    """Draw images (N, C, H, W) in [0, 1], each under its caption.

    Args:
        images: (N, C, H, W) in [0, 1].
        captions: N texts.
        columns: Images in a row.
        title: Of the figure.
        side: Of an image, in inches.
    """
    rows = max(-(-len(images) // columns), 1)
    figure = Figure(figsize=(side * columns, (side + 0.2) * rows + 0.4), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in every:
        axes.set_axis_off()
    for axes, image, caption in zip(every, images, captions, strict=False):
        tile(axes, image[None], 1, "")
        axes.set_title(caption, fontsize=8)
    if title:
        figure.suptitle(title)
    return figure


@styled
def pairs(
    captions: Sequence[str], images: Sequence[Tensor], *, columns: int = 3, title: str | None = None
) -> Figure:
    """Draw two images beside each other under each caption.

    Args:
        captions: N texts.
        images: N pairs (2, C, H, W) in [0, 1].
        columns: Pairs in a row, at most.
        title: Of the figure.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.2 * rows + 0.4), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in every:
        axes.set_axis_off()
    for axes, pair, caption in zip(every, images, captions, strict=False):
        tile(axes, pair, 2, "")
        axes.set_title(textwrap.fill(caption, 42), fontsize=9)
    if title:
        figure.suptitle(textwrap.fill(title, 40 * columns))
    return figure


@styled
def confusion_matrix(
    counts: Tensor,
    classes: Sequence[str],
    *,
    title: str | None = None,
    images: Mapping[tuple[int, int], Tensor] | None = None,
    labels: tuple[str, str] = ("true", "predicted"),
) -> Figure:
    """Draw a confusion matrix.

    Args:
        counts: (K, K) integers; row: true class, column: predicted class.
        classes: Their K names.
        title: Of the figure.
        images: By true and predicted class, some images, see `rdfia.common.figure_spots.examples`.
        labels: What rows and columns are.
    """
    side, few = min(0.42, 40 / len(classes)), len(classes) <= 100  # of a cell, in inches; room for numbers
    figure = Figure(figsize=(1.5 + side * len(classes), 1.2 + side * len(classes)), layout="constrained")
    axes = figure.subplots()
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row, column in counts.nonzero().tolist():
        colour = "white" if share[row, column] > 0.5 else "black"
        count, of = int(counts[row, column]), int(counts[row].sum())
        if few:
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=7)
        label = f"{classes[row]} told as {classes[column]}: {count} of {of}"
        figure_spots.add(figure, [Spot(axes, column, row, label, (images or {}).get((row, column)))])
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    if not few:
        axes.tick_params(labelsize=50 * side)
    axes.set(xlabel=labels[1], ylabel=labels[0])
    figure.set_label(": ".join(filter(None, [title, figure_words.of_confusions(counts, classes)])))
    if title:
        axes.set_title(title)
    return figure


@styled
def bars(panels: Mapping[str, Mapping[str, float]], *, title: str | None = None) -> Figure | None:
    """Draw bar charts side by side, one bar a row.

    Args:
        panels: By label of the axis, see `axis_label`, then by name of the bar: its length. The names
            are those of the first.
        title: Of the whole figure.

    Returns:
        The figure; None of a single bar, which a number says.
    """
    names = list(next(iter(panels.values())))
    if len(names) < 2:
        return None
    figure = Figure(figsize=(1.5 + 3.5 * len(panels), 1.2 + 0.3 * len(names)), layout="constrained")
    subplots = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (label, values) in zip(subplots, panels.items(), strict=True):
        drawn = axes.barh(names, [values[name] for name in names], color=colour(0))
        texts = [f"{values[name]:.3f}" if is_share(label) else short(values[name]) for name in names]
        axes.bar_label(drawn, texts, padding=3, fontsize=8)
        axes.margins(x=0.3)  # for the numbers
        axes.locator_params(axis="x", nbins=4)
        readable(axes.xaxis)
        label_axis(axes.xaxis, label)
        if is_share(label):
            axes.set_xlim(0, 1.25)
            end_at_one(axes, "x")
    subplots[0].invert_yaxis()
    figure.set_label(figure_words.of_bars(panels))
    if title:
        figure.suptitle(title)
    return figure


@styled
def matrix(
    values: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    labels: tuple[str, str],
    title: str | None = None,
) -> Figure:
    """Draw a table of shares (R, C) in [0, 1] as colours and numbers.

    Args:
        values: (R, C); nan is left empty.
        rows: R names.
        columns: C names.
        labels: Of rows and of columns.
        title: Of the figure.
    """
    figure = Figure(figsize=(2.5 + 1.1 * len(columns), 1.5 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(values.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row, column in values.isfinite().nonzero().tolist():
        colour = "white" if values[row, column] > 0.5 else "black"
        axes.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylabel(labels[0])
    axes.set_xlabel(labels[1])
    figure.set_label(figure_words.of_matrix(values, rows, columns, labels))
    if title:
        axes.set_title(title)
    return figure
