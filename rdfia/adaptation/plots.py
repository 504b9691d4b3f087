"""Figures of domain adaptation."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from rdfia.adaptation.selection import Run
from rdfia.common.figure_style import axis_label, colour, end_at_one, styled
from rdfia.common.plots import Line, curves


def dann_curves(history: Mapping[str, Line], smooth: float = 0, *, title: str | None = None) -> Figure | None:
    """Draw what domain adaptation is watched by: losses, accuracies and lambda.

    Args:
        history: Metrics by name, as `DANNModule` logs them, against batches.
        smooth: Running mean over this many batches; not of schedules.
        title: Which training it is.
    """
    panels = {
        "loss": {"class, source": "train/class_loss", "domain": "train/domain_loss"},
        axis_label("accuracy", share=True): {
            "class, source": "val/source_accuracy",
            "class, target (to look at only)": "val/target_accuracy",
            "domain": "train/domain_accuracy",
        },
        "loss of the adaptation": {"": "train/adaptation_loss"},
        "lambda": {"weight of the adaptation": "train/lambda"},
        "learning rate": {"": "train/lr"},
    }
    found = {
        label: {line: history[metric] for line, metric in lines.items() if metric in history}
        for label, lines in panels.items()
    }
    found = {label: lines for label, lines in found.items() if lines} or found
    return curves(found, x_label="batch", smooth=smooth, schedules=("lambda", "learning rate"), title=title)


@styled
def trust(runs: Sequence[Run], correlations: Mapping[str, Sequence[float]]) -> Figure:
    """Draw each score that needs no target labels against the accuracy on the target, a point a training.

    Args:
        runs: The trainings.
        correlations: Of each score its rank correlation with the accuracy, by pair.
    """
    names, rows = list(runs[0].scores), list(dict.fromkeys(run.row for run in runs))
    figure = Figure(figsize=(3.6 * len(names), 4.2), layout="constrained")
    colours = colormaps["tab20" if len(rows) > 10 else "tab10"]
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for number, row in enumerate(rows):
            own = [run for run in runs if run.row == row and math.isfinite(run.scores[name])]
            x, y = [run.scores[name] for run in own], [run.accuracy for run in own]
            axes.scatter(x, y, s=12, alpha=0.7, linewidths=0, color=colours(number), label=row)
        found = correlations.get(name, ())
        told = f"{fmean(found):.2f} (mean of {len(found)} pairs)" if found else "-"
        axes.set_title(f"{name.replace('_', ' ')}\nrank correlation {told}", fontsize=9)
        axes.set_xlabel("score, high is best")
        axes.set_ylabel("target accuracy")
        axes.grid()
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(rows), 6), fontsize=8
    )
    return figure


@styled
def gained_by_class(
    before: Tensor, after: Tensor, truth: Tensor, classes: Sequence[str], title: str
) -> Figure:
    """Draw how much of each class is right before and after the adaptation.

    Args:
        before: Predicted classes (N,).
        after: Too.
        truth: (N,); images without a class are left out.
        classes: Names of the K classes.
        title: Which training it is.
    """
    shares = []
    for predicted in (before, after):
        right = torch.bincount(truth[(predicted == truth) & (truth >= 0)], minlength=len(classes))
        shares.append(right / torch.bincount(truth[truth >= 0], minlength=len(classes)).clamp(min=1))
    figure = Figure(figsize=(7, 1.2 + 0.3 * len(classes)), layout="constrained")
    axes = figure.subplots()
    places = list(range(len(classes)))
    axes.hlines(places, shares[0].tolist(), shares[1].tolist(), color="0.6", zorder=1)
    axes.scatter(shares[0].tolist(), places, color=colour(1), label="source-only", zorder=2)
    axes.scatter(shares[1].tolist(), places, color=colour(0), label="adapted", zorder=2)
    counts = torch.bincount(truth[truth >= 0], minlength=len(classes)).tolist()
    axes.set_yticks(places, [f"{name} ({count})" for name, count in zip(classes, counts, strict=True)])
    axes.invert_yaxis()
    axes.set_xlabel("share of the class's target images that is right")
    end_at_one(axes, "x")
    axes.grid()
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title(title)
    changes = zip((shares[1] - shares[0]).tolist(), classes, counts, strict=True)
    order = sorted((gain, name) for gain, name, count in changes if count)
    (least, worst), (most, best) = order[0], order[-1]
    figure.set_label(
        f"{title}: share of each class's target images that is right, before and after; "
        f"{best} changes by {most:+.3f}, {worst} by {least:+.3f}."
    )
    return figure
