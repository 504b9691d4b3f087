"""Figures of GANs."""

import math
from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from rdfia.common.figure_style import axis_label
from rdfia.common.plots import Line, curves


def said(distance: str) -> str:
    """Return how people write the name of a Fréchet distance, such as judge-FID for ``judge_fid``."""
    return distance.removesuffix("fid").replace("_", "-") + "FID"


def gan_curves(
    history: Mapping[str, Line], samples: Tensor, smooth: float = 0, *, held_out: bool = True
) -> Figure | None:
    """Draw what GAN training is watched by: losses, mean scores of both kinds of images, distances, samples.

    Args:
        history: Metrics by name, as `GANModule` logs them, against batches.
        samples: (N, C, H, W) in [0, 1].
        smooth: Running mean over this many batches.
        held_out: The images of validation were not trained on.
    """

    def line(metric: str) -> Line:
        x, y = history.get(metric, ([], []))
        known = [place for place, value in enumerate(y) if math.isfinite(value)]
        return [x[place] for place in known], [y[place] for place in known]

    against = "held-out images" if held_out else "images that are trained on"
    distances = sorted(name for name in history if name.startswith("val/") and name.endswith("fid"))
    panels = {
        label: {name: line(metric) for name, metric in lines.items()}
        for label, lines in {
            "loss": {"discriminator": "train/discriminator_loss", "generator": "train/generator_loss"},
            axis_label("mean score (1: real)", share=True): {
                "real": "train/real_score",
                "generated": "train/fake_score",
            },
            **{
                axis_label(said(name.removeprefix("val/")), better="less"): {against: name}
                for name in distances
            },
        }.items()
    }
    return curves(panels, x_label="batch", smooth=smooth, images={"generated": samples})
