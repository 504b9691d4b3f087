"""What latents do, on generators whose answer is known."""

import pytest
import torch
from torch import nn

from rdfia.generation import control
from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import GANModule
from rdfia.generation.latents import draw_latents, truncated


class Painter(nn.Module):
    """An image of which each half has the brightness that a number of the latent says."""

    def __init__(self, weights):
        super().__init__()
        self.first = nn.Linear(weights.shape[1], len(weights), bias=False)
        self.first.weight = nn.Parameter(weights)

    def forward(self, latents):
        halves = torch.tanh(self.first(latents)[:, :2])
        rows = halves[:, :, None].expand(-1, 2, 16).flatten(1)
        return rows[:, None, :, None].expand(-1, 1, 32, 32)


def painter(weights):
    gan = GANModule(latent_dim=weights.shape[1], groups=0)
    gan.average_generator = Painter(weights).requires_grad_(False)
    return gan


def test_directions_are_those_along_which_the_first_layer_changes_most():
    gan = painter(torch.tensor([[0.0, 3.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.1, 0.0]]))
    found, shares = control.directions(gan, 2)
    assert shares.sum() > 0.99
    assert shares[0].item() == pytest.approx(9 / 10.01, abs=0.03)
    for direction, place in zip(found, (1, 0), strict=True):
        assert direction.abs().argmax() == place
        assert direction.abs().max().item() == pytest.approx(1, abs=0.05)  # a standard deviation of latents
        assert direction.norm().item() == pytest.approx(1, abs=0.1)
    images = control.along(gan, torch.zeros(4), found[0], 3)
    assert images.shape == (3, 1, 32, 32)
    assert (images[0, 0, 0, 0] - images[2, 0, 0, 0]).abs() > 0.9
    assert (images[:, 0, 31, 0] - 0.5).abs().max() < 0.2  # the other half hardly changes


def test_the_latent_of_an_image_is_found():
    gan = painter(torch.tensor([[0.7, 0.0], [0.0, 0.7]]))
    wanted = torch.tensor([[0.8, -0.5], [-0.3, 1.0]])
    images = gan(wanted).detach()
    found, squares = control.project(gan, images, steps=300)
    assert squares.max() < 1e-5
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)
    assert (control.psnr(squares) > 50).all()
    assert control.psnr(torch.tensor([0.01])).item() == pytest.approx(20)


def test_projected_latents_stay_where_latents_are_drawn():
    gan = painter(torch.tensor([[0.1, 0.0], [0.0, 0.1]]))  # white and black would need latents of any length
    found, _ = control.project(gan, torch.ones(2, 1, 32, 32), steps=100)
    assert (found.norm(dim=1) <= 2**0.5 + 1e-4).all()
    uniform = GANModule(latent_dim=2, groups=0, latents="uniform")
    uniform.average_generator = gan.average_generator
    assert control.project(uniform, torch.ones(2, 1, 32, 32), steps=100)[0].abs().max() <= 1


def test_mixing_keeps_the_group_of_one_and_takes_the_rest_of_another():
    gan = GANModule(latent_dim=8, groups=3, generator_features=4)
    gan.groups.centres.fill_(1.0)
    first, second = gan.draw(2, 0), gan.draw(4, 1)
    images, taken = control.mixed(gan, first, second)
    assert taken == 3
    assert images.shape == (8, 1, 32, 32)
    expected = gan(torch.cat([first[1, :3], second[2, 3:]])[None])
    torch.testing.assert_close(images[6:7], expected.detach(), atol=1e-5, rtol=1e-4)
    assert control.mixed(GANModule(latent_dim=8, groups=0), first, second)[1] == 4
    with pytest.raises(ValueError, match="all 8 numbers of a latent choose its group"):
        control.mixed(GANModule(latent_dim=8, groups=8), first, second)


def test_classes_are_asked_for():
    gan = cGANModule(latent_dim=8, classes=3, generator_features=4)
    labels = torch.tensor([0, 1, 2, 0])
    assert control.along(gan, torch.zeros(8), torch.ones(8), 4, (labels,)).shape == (4, 1, 32, 32)
    found, _ = control.directions(gan, 2, (torch.arange(30) % 3,), samples=30)
    assert found.shape == (2, 8)
    assert control.project(gan, torch.rand(4, 1, 32, 32), (labels,), steps=2)[0].shape == (4, 8)


def test_truncation_keeps_the_order_of_latents_within_a_limit():
    latents = torch.linspace(-5, 5, 101)
    found = truncated(latents, 1.5)
    assert found.abs().max() <= 1.5
    assert (found.diff() >= 0).all()
    torch.testing.assert_close(truncated(latents, 8.0), latents, atol=1e-4, rtol=1e-4)
    drawn = truncated(draw_latents(20_000, 1, [0]), 1.0)
    assert drawn.std().item() == pytest.approx(0.5396, abs=0.01)  # of a normal cut off at 1
    assert truncated(torch.tensor([0.8, -1.0]), 0.5, distribution="uniform").tolist() == pytest.approx(
        [0.4, -0.5]
    )
    with pytest.raises(ValueError, match="truncation is above 0, got 0"):
        truncated(latents, 0)


def test_truncated_samples_keep_their_groups():
    gan = GANModule(latent_dim=8, groups=3, generator_features=4)
    latents = gan.draw(5, 0)
    cut = gan.truncate(latents, 0.5)
    assert torch.equal(cut[:, :3], latents[:, :3])
    assert cut[:, 3:].abs().max() <= 0.5
    assert not torch.equal(gan.sample(3, truncation=0.1), gan.sample(3))
    with pytest.raises(ValueError, match="none can be truncated"):
        GANModule(latent_dim=8, groups=8).sample(2, truncation=1.0)
