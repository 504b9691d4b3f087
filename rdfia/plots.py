"""Figures out of numbers: each function returns a matplotlib figure. Knows nothing of models or files."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

# x values and y values
Line = tuple[Sequence[float], Sequence[float]]


def sheet(images: Tensor, columns: int) -> np.ndarray:
    """Return images (N, 1 or 3, H, W) in [0, 1] as one picture (rows, columns[, 3]) uint8, a pixel apart."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    picture = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 102, np.uint8)
    # What is not a number, of a generator that diverged, is black.
    pixels = (images.float().nan_to_num(0.0).clamp(0, 1) * 255).round().byte().cpu().numpy()
    for index, image in enumerate(pixels):
        top = index // columns * (height + 1) + 1
        left = index % columns * (width + 1) + 1
        picture[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return picture.squeeze(2) if channels == 1 else picture


def _tile(axes: Axes, images: Tensor, columns: int, title: str) -> None:
    """Draw images (N, C, H, W) in [0, 1] as one picture."""
    axes.imshow(sheet(images, columns), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()


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
        _tile(axes, grid, columns, name)
    if title:
        figure.suptitle(title)
    return figure


def image_rows(images: Mapping[str, Tensor], *, title: str | None = None) -> Figure:
    """Draw one row of images for each name.

    Args:
        images: By name, each (N, C, H, W) in [0, 1], as many for all.
        title: Of the figure.
    """
    columns = min(len(row) for row in images.values())
    picture = sheet(torch.cat([row[:columns] for row in images.values()]), columns)
    figure = Figure(figsize=(0.32 * columns + 2.5, 0.32 * len(images) + 0.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    height = (picture.shape[0] - 1) / len(images)
    axes.set_yticks([height * (number + 0.5) for number in range(len(images))], list(images))
    axes.set_xticks([])
    if title:
        figure.suptitle(title)
    return figure


def curves(
    panels: Mapping[str, Mapping[str, Line]],
    *,
    x_label: str,
    title: str | None = None,
    smooth: int = 1,
    log_x: bool = False,
    images: Mapping[str, Tensor] | None = None,
) -> Figure:
    """Draw line plots side by side.

    Args:
        panels: By label of the y axis, then by label of the line: x values and y values.
        x_label: Label of all x axes.
        title: Of the whole figure.
        smooth: Running mean over this many points, drawn over the pale raw line.
        log_x: Draw x on a logarithmic scale.
        images: By title, grids of images (N, C, H, W) in [0, 1] to the right of the plots.
    """
    images = images or {}
    widths = [6.0] * len(panels) + [3.4] * len(images)
    figure = Figure(figsize=(sum(widths), 3.6), layout="constrained")
    row = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for axes, (name, grid) in zip(row[len(panels) :], images.items(), strict=True):
        _tile(axes, grid, math.ceil(len(grid) ** 0.5), name)
    for axes, (y_label, lines) in zip(row[: len(panels)], panels.items(), strict=True):
        for number, (name, (x, y)) in enumerate(lines.items()):
            colour = f"C{number}"
            if 1 < smooth < len(y):
                axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.7)
                mean = np.convolve(y, np.ones(smooth) / smooth, mode="valid")
                first = (smooth - 1) // 2  # the middle of the window, so that nothing lags
                axes.plot(x[first : first + len(mean)], mean, color=colour, label=name)
            else:
                axes.plot(x, y, color=colour, label=name, marker="o" if len(y) < 60 else None)
        if log_x:
            axes.set_xscale("log")
            values = sorted({value for x, _ in lines.values() for value in x})
            if len(values) < 10:  # as they were chosen, not powers of 10
                axes.set_xticks(values, [f"{value:g}" for value in values])
                axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(alpha=0.3)
        if lines:
            axes.legend()
    if title:
        figure.suptitle(title)
    return figure


def gan_curves(history: Mapping[str, Line], samples: Tensor, smooth: int = 1) -> Figure:
    """Draw what GAN training is watched by: losses, mean scores of both kinds of images, judge-FID, samples.

    Args:
        history: Metrics by name, as `GANModule` logs them, against batches.
        samples: (N, C, H, W) in [0, 1].
        smooth: Running mean over this many batches.
    """

    def line(metric: str) -> Line:
        x, y = history.get(metric, ([], []))
        known = [place for place, value in enumerate(y) if math.isfinite(value)]
        return [x[place] for place in known], [y[place] for place in known]

    panels = {
        label: {name: line(metric) for name, metric in lines.items()}
        for label, lines in {
            "loss": {"discriminator": "train/discriminator_loss", "generator": "train/generator_loss"},
            "mean score (1: real)": {"real": "train/real_score", "generated": "train/fake_score"},
            "judge-FID": {"validation": "val/judge_fid"},
        }.items()
    }
    return curves(panels, x_label="batch", smooth=smooth, images={"generated": samples})


def dann_curves(history: Mapping[str, Line], smooth: int = 1) -> Figure:
    """Draw what domain adaptation is watched by: losses, accuracies and lambda.

    Args:
        history: Metrics by name, as `DANNModule` logs them, against batches.
        smooth: Running mean over this many batches.
    """
    panels = {
        "loss": {"class, source": "train/class_loss", "domain": "train/domain_loss"},
        "accuracy": {
            "class, source": "val/source_accuracy",
            "class, target (to look at only)": "val/target_accuracy",
            "domain": "train/domain_accuracy",
        },
        "lambda": {"strength of the reversal": "train/strength"},
    }
    found = {
        label: {line: history[metric] for line, metric in lines.items() if metric in history}
        for label, lines in panels.items()
    }
    return curves(found, x_label="batch", smooth=smooth)


def scatter(
    panels: Mapping[str, tuple[Tensor, Tensor, Sequence[str]]], *, columns: int, title: str | None = None
) -> Figure:
    """Draw points in the plane, panel by panel, coloured by group.

    Args:
        panels: By title: places (N, 2), numbers of the groups (N,), names of the groups.
        columns: Panels in a row.
        title: Of the whole figure.
    """
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.6 * rows), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in every:
        axes.set_axis_off()
    for axes, (name, (places, groups, names)) in zip(every, panels.items(), strict=False):
        for number, group in enumerate(names):
            x, y = places[groups == number].T
            axes.scatter(x, y, s=7, alpha=0.7, linewidths=0, color=f"C{number}", label=group)
        axes.legend(markerscale=2.5, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        axes.set_title(name)
    if title:
        figure.suptitle(title)
    return figure


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
        _tile(axes, image[None], 1, "")
        axes.set_title(caption, fontsize=8)
    if title:
        figure.suptitle(title)
    return figure


def confusion_matrix(counts: Tensor, classes: Sequence[str], *, title: str | None = None) -> Figure:
    """Draw a confusion matrix.

    Args:
        counts: (K, K) integers; row: true class, column: predicted class.
        classes: Their K names.
        title: Of the figure.
    """
    figure = Figure(figsize=(1.5 + 0.42 * len(classes), 1.2 + 0.42 * len(classes)), layout="constrained")
    axes = figure.subplots()
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row, column in counts.nonzero().tolist():
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(
            column, row, str(int(counts[row, column])), ha="center", va="center", color=colour, fontsize=7
        )
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if title:
        axes.set_title(title)
    return figure


def bars(panels: Mapping[str, Mapping[str, float]], *, title: str | None = None) -> Figure:
    """Draw bar charts side by side, one bar a row.

    Args:
        panels: By label of the axis, then by name of the bar: its length. The names are those of the first.
        title: Of the whole figure.
    """
    names = list(next(iter(panels.values())))
    figure = Figure(figsize=(1.5 + 3.5 * len(panels), 1.2 + 0.3 * len(names)), layout="constrained")
    subplots = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (label, values) in zip(subplots, panels.items(), strict=True):
        drawn = axes.barh(names, [values[name] for name in names], color="C0")
        texts = [f"{values[name]:,.0f}" if values[name] > 100 else f"{values[name]:.3g}" for name in names]
        axes.bar_label(drawn, texts, padding=3, fontsize=8)
        axes.margins(x=0.25)
        axes.set_xlabel(label)
    subplots[0].invert_yaxis()
    if title:
        figure.suptitle(title)
    return figure


def classification(
    image: Tensor,
    seen: Tensor,
    probabilities: Sequence[float],
    names: Sequence[str],
    *,
    title: str | None = None,
) -> Figure:
    """Draw an image, what the network sees of it, and the most probable classes.

    Args:
        image: (C, H, W) in [0, 1].
        seen: (C, H, W), normalised; shown from its least to its largest value.
        probabilities: Of the classes, falling.
        names: Of the classes.
        title: Of the figure.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.4])
    low, high = seen.min(), seen.max()
    _tile(left, image[None], 1, "image")
    _tile(
        middle, ((seen - low) / (high - low).clamp(min=1e-9))[None], 1, f"normalised, {low:.1f} to {high:.1f}"
    )
    drawn = right.barh(range(len(names)), probabilities, color="C0")
    right.bar_label(drawn, [f"{p:.3f}" for p in probabilities], padding=3)
    right.set_yticks(range(len(names)), names)
    right.set_xlim(0, 1.15)
    right.invert_yaxis()
    right.set_xlabel("probability")
    if title:
        figure.suptitle(title)
    return figure


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
    _tile(axes[0], image[None], 1, "image")
    for one, map_, channel in zip(axes[1:], maps.cpu(), channels, strict=False):
        one.imshow(map_.numpy(), cmap="viridis")
        one.set_title(f"{channel}", fontsize=8)
    if title:
        figure.suptitle(title)
    return figure


def saliency(
    rows: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]], *, title: str | None = None, overlay: bool = True
) -> Figure:
    """Draw images and their saliency maps, each map from 0 to its own largest value, which its title says.

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
        _tile(line[0], image[None], 1, "")
        line[0].set_title(name, fontsize=8)
        for axes, (label, values) in zip(line[1:], maps.items(), strict=False):
            largest = float(values.max())
            axes.imshow(values.cpu().numpy(), cmap="inferno", vmin=0, vmax=max(largest, 1e-12))
            axes.set_title(f"{label}\nup to {largest:.3g}", fontsize=8)
        if overlay and maps:
            _tile(line[len(maps) + 1], image.mean(0, keepdim=True)[None], 1, "")
            values = list(maps.values())[-1]
            # the brightest hundredth is full: single pixels would hide the rest
            top = float(values.flatten().quantile(0.99))
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
        _tile(axes, torch.stack([image, changed, difference]), 3, "")
        axes.set_title(name, fontsize=8)
    if title:
        figure.suptitle(title)
    return figure


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
    if title:
        axes.set_title(title)
    return figure
