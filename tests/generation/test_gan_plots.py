"""Figures of GANs."""

import pytest
import torch

from rdfia.generation.plots import gan_curves, said


@pytest.mark.parametrize(
    ("name", "label"),
    [("judge_fid", "judge-FID"), ("fid", "FID"), ("resnet18_avgpool_fid", "resnet18-avgpool-FID")],
)
def test_the_distance_that_was_measured_has_a_panel_of_its_own(name, label):
    assert said(name) == label
    steps = ([1.0, 2.0, 3.0], [3.0, float("nan"), 2.0])
    history = {f"val/{name}": steps, f"test/{name}": steps, "train/discriminator_loss": steps}
    figure = gan_curves(history, torch.rand(4, 3, 64, 64))
    labels = [axes.get_ylabel() or axes.get_title() for axes in figure.axes]
    assert labels.count(f"{label} (less is better)") == 1
