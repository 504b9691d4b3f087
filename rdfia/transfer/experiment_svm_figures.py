"""The figures of the experiment with SVMs."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning
import torch
from sklearn.metrics import confusion_matrix

from datamodules.tensors import ImageTensors
from rdfia.common import figure_spots, plots
from rdfia.common.figure_style import axis_label
from rdfia.engine import runs
from rdfia.transfer.linear_svm import Trial, fit_svm

ACCURACY = axis_label("accuracy", share=True, better="more")
TESTED = axis_label("test accuracy", share=True, better="more")


def draw_trial(
    folder: Path,
    trainer: lightning.Trainer,
    item: str,
    classes: Sequence[str],
    options: dict[str, Any],
    gram: torch.Tensor,
    photographs: ImageTensors,
    labels: torch.Tensor,
    train: torch.Tensor,
    test: torch.Tensor,
    trial: Trial,
) -> None:
    """Draw accuracy and time against C, the confusions and the accuracy of each class."""
    # Drawn only: C was chosen before any test image was looked at.
    inside, across = gram[train][:, train], gram[test][:, train]
    tested, seconds = [], []
    for c in trial.grid:
        started = time.perf_counter()
        predictions = fit_svm(inside, labels[train], c, **options).predict(across)
        seconds.append(time.perf_counter() - started)
        tested.append((predictions == labels[test]).double().mean().item())
    lines = {
        "cross-validation on train": trial.cross_validation.mean(1).tolist(),
        "test (a plot only)": tested,
    }
    panels = {
        ACCURACY: {name: (trial.grid, values) for name, values in lines.items()},
        axis_label("seconds to fit and test", better="less"): {"": (trial.grid, seconds)},
    }
    title = f"{item}: {trial.accuracy:.4f}"
    counts = torch.from_numpy(confusion_matrix(labels[test], trial.predictions, labels=range(len(classes))))
    shares = (counts.diagonal() / counts.sum(1).clamp(min=1)).tolist()
    seen = figure_spots.examples(lambda some: photographs[test[some]][0], labels[test], trial.predictions)
    figures = {
        "c": plots.curves(panels, x_label="C", log_x=True, title=title),
        "confusion": plots.confusion_matrix(counts, classes, title=title, images=seen),
        "classes": plots.bars({ACCURACY: dict(zip(classes, shares, strict=True))}, title=title),
    }
    for name, figure in figures.items():
        runs.save_figure(folder, f"{name}_{item.replace('/', '_').replace(':', '_')}", figure, trainer)


def draw_best(
    folder: Path,
    trainer: lightning.Trainer,
    best: str,
    metrics: dict[str, list[float]],
    sizes: list[int],
    components: list[int],
) -> None:
    """Draw what the number of training images and the number of components do to the best row."""

    def line(name: str, values: list[int]) -> plots.Line:
        means = [metrics[f"{best}/{name.format(value)}"] for value in values]
        return values, [sum(found) / len(found) for found in means]

    panels: dict[str, dict[str, plots.Line]] = {}
    panels[TESTED] = {best: line("accuracy_from_{}_per_class", sizes)}
    runs.save_figure(
        folder, "training_images", plots.curves(panels, x_label="training images per class"), trainer
    )
    whole = [fmean(metrics[f"{best}/accuracy"])] * len(components)
    panels = {
        TESTED: {best: line("accuracy_from_{}_components", components), "all features": (components, whole)},
        axis_label("seconds", better="less"): {"": line("seconds_with_{}_components", components)},
    }
    figure = plots.curves(panels, x_label="principal components", log_x=True)
    runs.save_figure(folder, "components", figure, trainer)


def draw_comparison(
    folder: Path, trainer: lightning.Trainer, trials: Mapping[str, Trial], metrics: dict[str, list[float]]
) -> None:
    """Draw accuracy, width and time of all rows, and what C does to each."""
    items = list(trials)

    def parts(item: str) -> list[str]:
        return [other for other in items if other != "together"] if item == "together" else [item]

    def networks(item: str) -> set[str]:
        return {part.partition("/")[0] for part in parts(item)}

    panels = {
        TESTED: {item: metrics[f"{item}/accuracy"][0] for item in items},
        "features": {item: sum(metrics[f"{part}/features"][0] for part in parts(item)) for item in items},
        axis_label("milliseconds an image", better="less"): {
            item: sum(metrics[f"{network}/milliseconds_an_image"][0] for network in networks(item))
            for item in items
        },
        axis_label("seconds to choose C, fit and test", better="less"): {
            item: metrics[f"{item}/svm_seconds"][0] for item in items
        },
    }
    runs.save_figure(folder, "comparison", plots.bars(panels), trainer)
    by_c = {item: (trial.grid, trial.cross_validation.mean(1).tolist()) for item, trial in trials.items()}
    chosen_by = axis_label("accuracy in cross-validation", share=True, better="more")
    # Of a single row, `draw_trial` has drawn it.
    figure = plots.curves({chosen_by: by_c}, x_label="C", log_x=True) if len(by_c) > 1 else None
    runs.save_figure(folder, "accuracy_by_c", figure, trainer)


def draw_worst_confusions(
    folder: Path,
    trainer: lightning.Trainer,
    classes: Sequence[str],
    gram: torch.Tensor,
    photographs: ImageTensors,
    labels: torch.Tensor,
    train: torch.Tensor,
    test: torch.Tensor,
    trial: Trial,
) -> None:
    """Draw test images of the commonest confusions above the nearest image of the predicted class."""
    counts = torch.from_numpy(confusion_matrix(labels[test], trial.predictions, labels=range(len(classes))))
    confusions = counts.fill_diagonal_(0).flatten()
    commonest = confusions.argsort(descending=True, stable=True)[: min(6, int((confusions > 0).sum()))]
    captions, pairs = [], []
    for cell in commonest.tolist():
        true, predicted = divmod(cell, len(classes))
        indices = test[(labels[test] == true) & (trial.predictions == predicted)]
        candidates = train[labels[train] == predicted]
        squares = gram.diagonal()[candidates]  # |x - y|^2 = |x|^2 - 2 x.y + |y|^2
        distances = gram.diagonal()[indices, None] - 2 * gram[indices][:, candidates] + squares
        row, column = divmod(int(distances.argmin()), len(candidates))
        pair = torch.stack([indices[row], candidates[column]])
        times = "once" if len(indices) == 1 else f"{len(indices)} times"
        captions.append(f"{classes[true]} (left) taken for {classes[predicted]}, {times}")
        pairs.append(photographs[pair][0])
    if pairs:
        title = "test images beside the nearest training image of the class that they were taken for"
        runs.save_figure(folder, "worst_confusions", plots.pairs(captions, pairs, title=title), trainer)
