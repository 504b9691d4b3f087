"""Class visualisation: single steps by hand, classes each for itself, and that it draws what is asked for."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from rdfia.interpret.class_visualization import (
    fourier_image,
    random_parts,
    recognized,
    total_variation,
    visualize_classes,
)
from rdfia.interpret.saliency import gaussian_blur

PLAIN = {"penalty": 0.0, "blur_every": 0, "jitter": 0}


class Quadrants(nn.Module):
    """Class k is a bright quadrant k, in a darker image."""

    def forward(self, images):
        half = images.shape[-1] // 2
        parts = [
            images[..., y : y + half, x : x + half].mean((1, 2, 3)) for y in (0, half) for x in (0, half)
        ]
        return 20 * (torch.stack(parts, 1) - images.mean((1, 2, 3))[:, None])


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.last = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(8, 5))

    def forward(self, images):
        return self.last(self.layers(images))


def test_one_step_by_hand():
    """A step goes along the gradient of logit - penalty |x|^2, x the image in units of 1/4 from grey."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    start = 0.5 + 0.1 * torch.rand(1, 3, 2, 2)
    x = (start - 0.5) * 4
    slope = model[1].weight[1].detach().reshape(1, 3, 2, 2) / 4 - 2 * 0.3 * x
    expected = (x + 0.05 * slope / slope.norm()) / 4 + 0.5
    found = visualize_classes(
        [model], torch.tensor([1]), size=2, start=start, steps=1, rate=0.05, **PLAIN | {"penalty": 0.3}
    )
    torch.testing.assert_close(found, expected.detach())


def test_jitter_rolls_all_images_alike_and_the_gradient_back():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(2, 3, 9, 9))
            self.seen = []

        def forward(self, images):
            self.seen.append(images.detach().clone())
            return (images[:, None] * self.weight).sum((2, 3, 4))

    model, start, shifts = Linear(), 0.4 + 0.2 * torch.rand(2, 3, 9, 9), set()
    for seed in range(30):
        given = PLAIN | {"jitter": 2, "steps": 1, "rate": 0.05, "seed": seed, "size": 9, "start": start}
        found = visualize_classes([model], torch.tensor([1, 0]), **given)
        rolls = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
        (shift,) = [one for one in rolls if torch.allclose(model.seen[-1], start.roll(one, (2, 3)))]
        slope = model.weight.detach()[[1, 0]].roll((-shift[0], -shift[1]), (2, 3))
        step = 0.05 * slope / slope.flatten(1).norm(dim=1)[:, None, None, None]
        torch.testing.assert_close(found, start + step / 4)
        shifts.add(shift)
    assert {one for shift in shifts for one in shift} == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("parametrization", ["pixels", "fourier"])
def test_it_draws_what_is_asked_for(parametrization):
    rate = 2.0 if parametrization == "pixels" else 0.05
    classes = torch.tensor([3, 0, 1, 2])
    images = visualize_classes(
        [Quadrants()], classes, size=16, parametrization=parametrization, steps=60, rate=rate, jitter=1
    )
    assert images.shape == (4, 3, 16, 16)
    assert images.min() >= 0
    assert images.max() <= 1
    chances, before = recognized(Quadrants(), images, classes)
    assert (before == 0).all()
    assert chances.min() > 0.95


@pytest.mark.parametrize("parametrization", ["pixels", "fourier"])
def test_each_class_is_drawn_for_itself_and_no_trace_is_left(parametrization):
    model = Small().train()
    model.layers[1].eval()
    before = copy.deepcopy(model.state_dict())
    settings = {"size": 12, "steps": 5, "rate": 0.1, "rotation": 5.0, "crop": 0.5, "jitter": 2}
    settings["parametrization"] = parametrization
    classes = torch.tensor([0, 1, 2, 3, 4])
    together = visualize_classes([model], classes, **settings)
    split = visualize_classes([model], classes, batch_size=2, **settings)
    torch.testing.assert_close(split, together, rtol=1e-3, atol=1e-4)
    assert not torch.equal(visualize_classes([model], classes, seed=1, **settings), together)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.training, model.layers[1].training) == (True, False)
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_an_ensemble_raises_the_mean_logit():
    """Of two linear models the step goes along the sum of both."""
    models = [nn.Sequential(nn.Flatten(), nn.Linear(12, 2)) for _ in range(2)]
    start = torch.full((1, 3, 2, 2), 0.5)
    slope = sum(model[1].weight[0].detach() for model in models).reshape(1, 3, 2, 2)
    found = visualize_classes(models, torch.tensor([0]), size=2, start=start, steps=1, rate=0.1, **PLAIN)
    torch.testing.assert_close(found - start, 0.1 / 4 * slope / slope.norm(), rtol=1e-4, atol=1e-6)


def test_regularisers_do_what_they_are_for():
    model, classes = Small().eval(), torch.arange(3)
    settings = {"size": 24, "steps": 40, "rate": 1.0, **PLAIN}
    rough = visualize_classes([model], classes, **settings)
    blurred = visualize_classes([model], classes, **settings | {"blur_every": 4, "blur": 1.0})
    grey = visualize_classes([model], classes, **settings | {"penalty": 1.0})
    smooth = visualize_classes([model], classes, **settings | {"smoothness": 1e4})
    assert total_variation(blurred).max() < total_variation(rough).min()
    assert total_variation(smooth).max() < total_variation(rough).min()
    assert (grey - 0.5).abs().mean() < (rough - 0.5).abs().mean() / 2


def test_it_begins_with_an_image_or_with_noise():
    model, start = Small(), torch.rand(2, 3, 8, 8)
    classes = torch.tensor([0, 1])
    torch.testing.assert_close(visualize_classes([model], classes, size=8, start=start, steps=0), start)
    noise = visualize_classes([model], classes, size=8, steps=0)
    assert (noise - 0.5).abs().max() < 0.2
    with pytest.raises(ValueError, match="fourier begins with noise"):
        visualize_classes([model], classes, size=8, start=start, parametrization="fourier")


def test_the_whole_way_can_be_watched():
    frames = []
    last = visualize_classes(
        [Small()],
        torch.tensor([2]),
        size=8,
        steps=3,
        watch=lambda step, images: frames.append((step, images)),
    )
    assert [step for step, _ in frames] == [0, 1, 2, 3]
    assert torch.equal(frames[-1][1], last)


def test_a_spectrum_makes_photographs_colours_and_sizes_of_detail():
    spectrum = torch.randn(400, 3, 16, 9, 2)
    images = fourier_image(spectrum, 16)
    assert images.min() > 0
    assert images.max() < 1
    # colours hang together
    pixels = torch.logit(images).transpose(0, 1).flatten(1)
    correlation = torch.corrcoef(pixels)
    assert correlation[0, 1] > 0.7
    assert correlation[0, 2] > 0.5
    # amplitudes fall as one over the frequency
    power = torch.fft.rfft2(torch.logit(images)).abs().square().mean((0, 1))
    assert (power[0, 1] / power[0, 4]).item() == pytest.approx(16, rel=0.3)


def test_only_the_models_are_rounded_under_autocast():
    spectrum = torch.randn(2, 3, 8, 5, 2)
    images = torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, blurred = fourier_image(spectrum, 8), gaussian_blur(images, 1.0)
    assert torch.equal(rounded, fourier_image(spectrum, 8))
    assert torch.equal(blurred, gaussian_blur(images, 1.0))


def test_it_climbs_where_gradients_are_off():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    settings = {"size": 8, "steps": 2, "rate": 1.0, "parametrization": "pixels"}
    expected = visualize_classes([model], torch.tensor([1]), **settings)
    with torch.no_grad():
        assert torch.equal(visualize_classes([model], torch.tensor([1]), **settings), expected)


def test_total_variation_by_hand():
    image = torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]])
    assert total_variation(image).item() == pytest.approx((1 + 9) / 2 + (0 + 4) / 2)


def test_parts_of_images_by_hand():
    images = torch.rand(2, 3, 8, 8)
    # area, turn, right, down, mirror: all of it; its upper right quarter; the same mirrored
    whole = torch.tensor([0.9999999, 0.5, 0.5, 0.5, 0.9]).expand(2, -1)
    torch.testing.assert_close(random_parts(images, whole, 0.25, 10.0), images, atol=1e-4, rtol=0)
    quarter = torch.tensor([0.0, 0.5, 1.0, 0.0, 0.9]).expand(2, -1)
    corner = functional.interpolate(images[:, :, :4, 4:], size=8, mode="bilinear")
    seen = random_parts(images, quarter, 0.25, 10.0)
    torch.testing.assert_close(seen[:, :, 1:-1, 1:-1], corner[:, :, 1:-1, 1:-1], atol=1e-4, rtol=0)
    mirrored = quarter.clone()
    mirrored[:, 4] = 0.1
    torch.testing.assert_close(random_parts(images, mirrored, 0.25, 10.0), seen.flip(-1), atol=1e-4, rtol=0)
    turned = quarter.clone()
    turned[:, 1] = 1.0
    assert not torch.allclose(random_parts(images, turned, 0.25, 10.0), seen, atol=1e-2)


def test_recognition_by_hand():
    class Fixed(nn.Module):
        def forward(self, images):
            return torch.tensor([[4.0, 1, 0, 2], [0, 3, 2, 1]])

    chances, before = recognized(Fixed(), torch.zeros(2, 3, 4, 4), torch.tensor([3, 1]))
    assert before.tolist() == [1, 0]
    assert chances.tolist() == pytest.approx(
        [torch.tensor([4.0, 1, 0, 2]).softmax(0)[3].item(), torch.tensor([0.0, 3, 2, 1]).softmax(0)[1].item()]
    )
