"""Figures of domain adaptation."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from rdfia.common.plots import Line, curves


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
        "lambda": {"strength of the reversal": "train/lambda"},
    }
    found = {
        label: {line: history[metric] for line, metric in lines.items() if metric in history}
        for label, lines in panels.items()
    }
    return curves(found, x_label="batch", smooth=smooth)
