"""The networks of DCGAN."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from rdfia.generation.networks import Discriminator, Generator, Halve, RepeatAndConvolve


def test_networks_have_the_shapes_and_sizes_of_the_paper():
    generator, discriminator = Generator(), Discriminator()
    images = generator(torch.randn(3, 100))
    assert images.shape == (3, 1, 32, 32)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (3,)
    # by hand: 4x4 kernels 100-128-64-32-1, BatchNorm scale and bias, one bias at the end
    weights = 16 * (100 * 128 + 128 * 64 + 64 * 32 + 32)
    assert sum(p.numel() for p in generator.parameters()) == weights + 2 * 224 + 1
    # 1-32-64-128-1, biases of the first and last layer
    weights = 16 * (32 + 32 * 64 + 64 * 128 + 128)
    assert sum(p.numel() for p in discriminator.parameters()) == weights + 33 + 2 * 192


def test_nearest_neighbours_and_convolutions_have_the_size_worked_out_by_hand():
    generator = Generator(upsampling="nearest")
    assert generator(torch.randn(3, 100)).shape == (3, 1, 32, 32)
    # 100-128 of 4x4, 3x3 kernels 128-64-32-8-1, BatchNorm scale and bias, one bias at the end
    weights = 16 * 100 * 128 + 9 * (128 * 64 + 64 * 32 + 32 * 8 + 8)
    assert sum(p.numel() for p in generator.parameters()) == weights + 2 * 232 + 1


def test_one_transposed_convolution_is_nearest_neighbours_and_a_3x3_one():
    layer = RepeatAndConvolve(5, 7).double()
    maps = torch.randn(2, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    repeated = functional.interpolate(maps, scale_factor=2)
    expected = functional.conv2d(repeated, layer.weight, padding=1)
    torch.testing.assert_close(layer(maps), expected)
    weights = torch.randn_like(expected)
    inputs = (maps, layer.weight)
    ours = torch.autograd.grad((layer(maps) * weights).sum(), inputs)
    torch.testing.assert_close(ours, torch.autograd.grad((expected * weights).sum(), inputs))


@pytest.mark.parametrize("inputs", [3, 256])
def test_wide_or_not_half_the_places_are_convolved_4x4(inputs):
    layer = Halve(inputs, 7).double()
    maps = torch.randn(2, inputs, 4, 6, dtype=torch.float64, requires_grad=True)
    expected = functional.conv2d(maps, layer.weight, stride=2, padding=1)
    torch.testing.assert_close(layer(maps), expected)
    weights, inputs = torch.randn_like(expected), (maps, layer.weight)

    def gradients(result):
        first = torch.autograd.grad((result.square() * weights).sum(), inputs, create_graph=True)
        return *first, *torch.autograd.grad(first[0].square().sum(), inputs)  # as the R1 penalty needs them

    torch.testing.assert_close(gradients(layer(maps)), gradients(expected))


def test_weights_are_drawn_as_the_paper_says():
    generator = Generator(features=64, initialization="dcgan")
    for layer in generator.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert layer.weight.mean().item() == pytest.approx(0, abs=0.002)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.mean().item() == pytest.approx(1, abs=0.01)
            assert layer.bias.abs().max() == 0


@pytest.mark.parametrize("initialization", ["pytorch", "orthogonal"])
def test_other_initializations(initialization):
    torch.manual_seed(0)
    generator = Generator(16, 8, initialization=initialization)
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(16, 32, 4, bias=False)  # the first that is drawn
    found = generator.first[0].weight
    if initialization == "pytorch":
        assert torch.equal(found, layer.weight)
    else:
        rows = found.flatten(1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(16), rtol=1e-4, atol=1e-5)
