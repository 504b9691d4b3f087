import math

import pytest
import torch

from datamodules.mnist import MNISTDataModule
from rdfia.generation.digit_style import slant, style_correlation, thickness


def bar(width: float, lean: float) -> torch.Tensor:
    """Return a bar 20 rows high, leaning right by ``lean`` pixels a row upwards, smoothly drawn."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    middle = 15.5 - lean * (y - 15.5)
    ink = (width / 2 + 0.5 - (x - middle).abs()).clamp(0, 1)
    return (ink * ((y >= 6) & (y < 26)))[None, None]


@pytest.mark.parametrize("lean", [-0.4, 0.0, 0.25])
def test_the_slant_of_a_bar_is_its_lean(lean):
    assert slant(bar(3, lean)).item() == pytest.approx(lean, abs=0.01)


@pytest.mark.parametrize("width", [2.0, 3.0, 5.0])
def test_the_thickness_of_a_bar_is_its_width_but_for_the_ends(width):
    # by hand: area 20 w, outline 2 (20 + w)
    assert thickness(bar(width, 0.0)).item() == pytest.approx(20 * width / (20 + width), rel=0.03)


def test_nothing_has_no_style():
    assert slant(torch.zeros(1, 1, 32, 32)).item() == 0
    assert thickness(torch.zeros(1, 1, 32, 32)).item() == 0


def test_shearing_real_digits_shifts_their_slant():
    digits = MNISTDataModule("sample", image_size=32)
    digits.setup()
    images = digits.test_data[range(200)][0]
    places = torch.nn.functional.affine_grid(
        torch.tensor([[1.0, 0.3, 0], [0, 1, 0]]).expand(200, 2, 3), list(images.shape), align_corners=False
    )
    sheared = torch.nn.functional.grid_sample(images, places, align_corners=False)
    apart = slant(sheared) - slant(images)
    assert apart.mean().item() == pytest.approx(0.3, abs=0.03)
    assert thickness(torch.nn.functional.max_pool2d(images, 3, 1, 1)).mean() > thickness(images).mean() + 1


def test_the_correlation_is_that_of_numpy_and_0_for_strangers():
    import numpy as np

    style = torch.randn(500, 1, dtype=torch.float64)
    moments = style + 0.5 * torch.randn(500, 4, dtype=torch.float64)
    table = np.corrcoef(moments.numpy().T)
    expected = (table.sum() - 4) / 12
    assert style_correlation(moments).item() == pytest.approx(expected)
    assert style_correlation(moments).item() == pytest.approx(1 / 1.25, abs=0.05)
    strangers = torch.stack([column[torch.randperm(500)] for column in moments.T], 1)
    assert abs(style_correlation(strangers).item()) < 3 / math.sqrt(500)
    assert style_correlation(torch.ones(5, 3)).item() == 0
