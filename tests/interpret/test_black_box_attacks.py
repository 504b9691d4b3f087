"""Attacks that see logits alone, on classifiers that can be fooled in one known way."""

import pytest
import torch
from torch import nn

from rdfia.interpret.attack_results import rounded
from rdfia.interpret.black_box_attacks import few_pixels, shapes


def test_one_pixel_is_found_where_one_decides():
    """The class depends on the brightest pixel of the middle rows: 1 pixel of 16 x 16 fools."""

    class Brightest(nn.Module):
        def forward(self, images):
            bright = images[:, :, 6:10].amax((1, 2, 3))
            return torch.stack([torch.full_like(bright, 0.8), bright], 1)

    images = torch.rand(2, 3, 16, 16) * 0.5
    found = few_pixels(Brightest(), images, torch.tensor([0, 0]), population=30, iterations=30)
    assert found.success.all()
    assert (found.l0 == 1).all()
    assert (found.queries <= 31 * 30).all()
    assert (found.queries % 30 == 0).all()
    wrong = few_pixels(Brightest(), images + 0.5, torch.tensor([0, 0]), population=30, iterations=30)
    assert wrong.queries.tolist() == [30, 30]  # the first generation fools at once
    first = few_pixels(Brightest(), images[:1], torch.tensor([0]), population=30, iterations=30)
    assert torch.equal(first.images[0], found.images[0])  # whatever the others are
    split = few_pixels(Brightest(), images, torch.tensor([0, 0]), population=30, iterations=30, batch_size=7)
    assert torch.equal(split.images, found.images)
    assert torch.equal(split.queries, found.queries)


def test_pixels_turn_black_or_white():
    images = torch.full((1, 1, 4, 4), 0.5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    model[1].weight.data = torch.tensor([[1.0], [0.0]]).expand(2, 16).clone()
    model[1].bias.data = torch.tensor([-7.6, 0.0])  # 8 - 7.6, and 7.5 - 7.6 with one pixel black
    found = few_pixels(model, images, torch.tensor([0]), population=10, iterations=5)
    assert found.success.all()
    assert sorted(found.images.unique().tolist()) == pytest.approx([0, 0.5], abs=0.002)


def test_pixels_that_cannot_fool_leave_the_budget_spent():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    model[1].weight.data = torch.stack([torch.linspace(1, 2, 64), torch.zeros(64)])
    found = few_pixels(model, torch.full((1, 1, 8, 8), 0.9), torch.tensor([0]), population=10, iterations=5)
    assert not found.success.any()
    assert found.queries.item() == 60


def test_discs_darken_an_image_until_it_fools():
    class Bright(nn.Module):
        def forward(self, images):
            mean = images.mean((1, 2, 3))
            return torch.stack([mean, 1.1 - mean], 1)

    images = torch.full((2, 3, 24, 24), 0.6)
    images[1] = 0.551
    given = {"count": 10, "opacity": 0.5, "radius": 0.5, "candidates": 8, "generations": 100}
    found = shapes(Bright(), images, torch.tensor([0, 0]), **given)
    assert found.success.all()
    assert found.queries[1] <= found.queries[0] <= 801
    assert found.gradients.sum() == 0
    assert (found.images.mean((1, 2, 3)) < 0.55).all()
    assert (found.images.mean((1, 2, 3)) > 0.45).all()  # no more than it takes


def test_discs_that_do_not_help_are_not_drawn():
    class Fixed(nn.Module):
        def forward(self, images):
            return torch.tensor([[1.0, 0.0]]).expand(len(images), -1)

    images = rounded(torch.rand(1, 3, 12, 12))
    found = shapes(Fixed(), images, torch.tensor([0]), generations=3, candidates=4)
    assert torch.equal(found.images, images)
    assert found.queries.item() == 13


@pytest.mark.parametrize(
    "attack",
    [
        lambda *given: few_pixels(*given[:3], targets=given[3], population=30, iterations=30),
        lambda *given: shapes(*given[:3], targets=given[3], count=10, opacity=1.0, candidates=16),
    ],
    ids=["few_pixels", "shapes"],
)
def test_a_target_is_reached_though_another_class_is_nearer(attack):
    class Brightest(nn.Module):
        """Grey, red or blue; red wins over blue where both are bright."""

        def forward(self, images):
            red, _, blue = images[:, :, 6:10].amax((2, 3)).T
            return torch.stack([torch.full_like(red, 0.8), 2 * red, blue], 1)

    images, truth, targets = torch.full((2, 3, 16, 16), 0.3), torch.tensor([0, 0]), torch.tensor([1, 2])
    found = attack(Brightest(), images, truth, targets)
    assert found.success.all()
    assert found.after.tolist() == [1, 2]
    assert attack(Brightest(), images, truth, torch.tensor([0, 1])).success.tolist() == [False, True]
