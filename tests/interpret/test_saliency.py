"""Saliency: by hand on linear models, against captum on SqueezeNet, and no trace left on the model."""

import copy

import captum.attr
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from rdfia.interpret.saliency import (
    area,
    cascading_randomization,
    channel_max,
    class_gradient,
    deletion_and_insertion,
    gaussian_blur,
    grad_cam,
    gradient,
    integrated_gradients,
    random_maps,
    rank_correlation,
    smooth_grad,
)


class Small(nn.Module):
    """A network with all that may leave traces: BatchNorm, dropout, an activation in place."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3)
        )
        self.head = nn.Sequential(
            nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5)
        )
        self.last = nn.Linear(5, 7)

    def forward(self, images):
        return self.last(self.head(self.body(images)))


EVERY = {
    "gradient": gradient,
    "smooth_grad": lambda *given, **kwargs: smooth_grad(*given, samples=3, **kwargs),
    "integrated_gradients": lambda *given, **kwargs: integrated_gradients(*given, steps=4, **kwargs),
    "grad_cam": lambda model, *given, **kwargs: grad_cam(model, *given, model.body[3], **kwargs),
}


@pytest.mark.parametrize("explain", EVERY.values(), ids=EVERY)
def test_no_trace_is_left_on_the_model(explain):
    model = Small().train()
    model.body[1].eval()
    model.last.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    images = torch.rand(3, 3, 12, 12)
    explain(model, images, torch.tensor([0, 3, 6]))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [module.training for module in (model, model.body[0], model.body[1])] == [True, True, False]
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == ["last.weight"]
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert not images.requires_grad


def test_the_model_is_given_back_when_it_fails():
    model = Small().train()
    with pytest.raises(ValueError, match="labels lie from 0 to"):
        gradient(model, torch.rand(1, 3, 12, 12), torch.tensor([99]))
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("explain", EVERY.values(), ids=EVERY)
def test_a_map_depends_neither_on_the_batch_nor_on_its_size(explain):
    model, images, labels = Small(), torch.rand(5, 3, 12, 12), torch.tensor([0, 3, 6, 1, 1])
    together = explain(model, images, labels)
    for batch_size in (1, 2, 100):
        torch.testing.assert_close(explain(model, images, labels, batch_size=batch_size), together)
    torch.testing.assert_close(explain(model, images[2:3], labels[2:3])[0], together[2])


def test_a_linear_model_by_hand():
    weights = torch.tensor(
        [[[[1.0, -2], [0, 3]], [[-4, 1], [0, 0]]], [[[0.0, 1], [1, 0]], [[2, 0], [0, -5]]]]
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 2, bias=False))
    model[1].weight.data = weights.flatten(1)
    images, labels = torch.rand(2, 2, 2, 2), torch.tensor([0, 1])
    assert torch.equal(class_gradient(model, images, labels), weights)
    largest = torch.tensor([[[4.0, 2], [0, 3]], [[2, 1], [1, 5]]])
    assert torch.equal(gradient(model, images, labels), largest)
    torch.testing.assert_close(smooth_grad(model, images, labels, samples=3), largest)
    torch.testing.assert_close(integrated_gradients(model, images, labels, steps=3), weights * images)
    baseline = torch.full((2, 1, 1), 0.5)
    found = integrated_gradients(model, images, labels, baseline=baseline)
    torch.testing.assert_close(found, weights * (images - 0.5))


def test_grad_cam_by_hand():
    """One layer of two maps, the logit their mean times 3 and -2: weights are 3/4 and -2/4."""
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1, bias=False))
    model[3].weight.data = torch.tensor([[3.0, -2.0]])
    maps = torch.tensor([[[[1.0, 2], [0, 4]], [[1.0, 1], [3, 0]]]]) / 8
    found = grad_cam(model, maps, torch.tensor([0]), model[0], upsample=False)
    torch.testing.assert_close(found, torch.tensor([[[0.25, 1.0], [0, 3.0]]]) / 8)
    larger = grad_cam(model, 2 * maps, torch.tensor([0]), model[0], upsample=False)
    torch.testing.assert_close(larger, 2 * found)  # the scale is kept


def test_grad_cam_of_a_layer_without_maps_is_named():
    model = Small()
    with pytest.raises(ValueError, match="Linear gives no maps"):
        grad_cam(model, torch.rand(1, 3, 12, 12), torch.tensor([0]), model.last)
    assert not any(module._forward_hooks for module in model.modules())


def test_smooth_grads_noise_is_relative_to_the_range_of_each_image():
    seen = []

    class Watch(nn.Module):
        def forward(self, images):
            seen.append(images.detach().clone())
            return images.flatten(1)

    images = torch.zeros(2, 1, 40, 40)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 1.0, 0.1
    smooth_grad(Watch(), images, torch.tensor([0, 0]), samples=200, noise=0.2)
    views = torch.cat(seen).reshape(2, 200, 40, 40)
    assert views[0, :, 5:].std().item() == pytest.approx(0.2, rel=0.01)
    assert views[1, :, 5:].std().item() == pytest.approx(0.02, rel=0.01)
    torch.testing.assert_close(views[1] - images[1], (views[0] - images[0]) / 10, rtol=1e-3, atol=1e-6)


def test_equal_to_captum_on_squeezenet(squeezenet, photographs, monkeypatch):
    images, labels = photographs
    expected = captum.attr.Saliency(squeezenet).attribute(images, labels).amax(1)
    torch.testing.assert_close(gradient(squeezenet, images, labels), expected, rtol=1e-4, atol=1e-6)

    integrated = captum.attr.IntegratedGradients(squeezenet)
    expected = integrated.attribute(images, target=labels, n_steps=20).float()
    found = integrated_gradients(squeezenet, images, labels, steps=20)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)

    layer = squeezenet.find_layer("fire9")
    cam = captum.attr.LayerGradCam(squeezenet, layer)
    expected = cam.attribute(images, labels, relu_attributions=True)[:, 0]
    found = grad_cam(squeezenet, images, labels, layer, upsample=False)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)

    # captum draws its noise by torch.normal, for all copies of an image at once: give it ours
    samples, noise = 6, 0.15
    generator = torch.Generator().manual_seed(3)
    drawn = torch.stack([torch.randn(images.shape[1:], generator=generator) for _ in range(samples)])
    for number in range(len(images)):
        image, label = images[[number]], labels[[number]]
        monkeypatch.setattr(torch, "normal", lambda mean, std, **kwargs: drawn * std)
        tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(squeezenet))
        deviation = noise * (image.max() - image.min()).item()
        expected = tunnel.attribute(
            image, nt_type="smoothgrad", nt_samples=samples, stdevs=deviation, target=label, abs=False
        )
        found = smooth_grad(squeezenet, image, label, samples=samples, noise=noise, seed=3)
        torch.testing.assert_close(found, channel_max(expected), rtol=1e-3, atol=1e-6)


def test_integrated_gradients_add_up_to_the_difference_of_the_logits(squeezenet, photographs):
    images, labels = photographs
    found = integrated_gradients(squeezenet, images, labels, steps=100).sum((1, 2, 3))
    with torch.no_grad():
        logits = [squeezenet(shown)[torch.arange(3), labels] for shown in (images, torch.zeros_like(images))]
    torch.testing.assert_close(found, logits[0] - logits[1], rtol=0.05, atol=0.3)


def test_deletion_and_insertion_by_hand():
    """The class is a bright left half: a map of it is right, its mirror image wrong."""

    class LeftHalf(nn.Module):
        def forward(self, images):
            bright = images[..., :8].mean((1, 2, 3))
            return torch.stack([4 * bright, 4 * (1 - bright)], 1)

    image = torch.zeros(1, 1, 16, 16)
    image[..., :8] = 1
    right, wrong = image[:, 0], image[:, 0].flip(-1)
    label = torch.tensor([0])
    deletion, insertion = deletion_and_insertion(LeftHalf(), image, label, right, steps=4)
    against, _ = deletion_and_insertion(LeftHalf(), image, label, wrong, steps=4)
    # the mean colour is 1/2: with a quarter of all pixels gone, the left half has a mean of 3/4
    chance = [torch.tensor(4 * (2 * bright - 1)).sigmoid().item() for bright in (1, 0.75, 0.5, 0.5, 0.5)]
    assert deletion[0].tolist() == pytest.approx(chance)
    assert against[0].tolist() == pytest.approx([chance[0]] * 3 + [chance[1], 0.5])
    assert insertion[0, 0] < insertion[0, 2] == insertion[0, 4]
    assert insertion[0, -1].item() == pytest.approx(chance[0])


def test_a_better_map_has_better_areas(squeezenet, photographs):
    images, _ = photographs
    with torch.no_grad():
        told = squeezenet(images).argmax(1)
    cam = grad_cam(squeezenet, images, told, squeezenet.find_layer("fire9"))
    random = torch.rand(images.shape[0], *images.shape[2:])
    areas = {
        name: [
            curve.mean().item() for curve in deletion_and_insertion(squeezenet, images, told, maps, steps=10)
        ]
        for name, maps in {"cam": cam, "random": random}.items()
    }
    assert areas["cam"][1] > areas["random"][1]


def test_ranks_correlate_as_scipy_says_with_ties():
    a, b = torch.rand(3, 6, 6), torch.rand(3, 6, 6)
    a[0, :3] = 0
    b[1] = a[1].round(decimals=1)
    expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    assert rank_correlation(a, b).tolist() == pytest.approx(expected)


def test_areas_and_constant_maps_by_hand():
    assert area(torch.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])).tolist() == [0.5, 1.0]
    nothing = rank_correlation(torch.zeros(1, 3, 3), torch.rand(1, 3, 3))
    assert nothing.isnan().all()  # no order, and so no number that would look like "unlike"


def test_equal_values_are_not_deleted_from_top_to_bottom():
    seen = []

    class Watch(nn.Module):
        def forward(self, images):
            seen.append(images.clone())
            return images.mean((1, 2, 3))[:, None].expand(-1, 2)

    image = torch.zeros(1, 1, 20, 20)
    image[..., 0] = 1.0
    deletion_and_insertion(Watch(), image, torch.tensor([0]), torch.zeros(1, 20, 20), steps=2)
    half = (seen[0][1] != image).sum((0, 2))  # changed pixels by row, after half of all are gone
    assert half.min() >= 3
    assert half.max() <= 17


def test_blur_keeps_the_mean_and_spreads_a_dot():
    dot = torch.zeros(1, 2, 41, 41)
    dot[..., 20, 20] = 1
    blurred = gaussian_blur(dot, 3.0)
    assert blurred.sum().item() == pytest.approx(2, rel=1e-4)
    x = torch.arange(41.0) - 20
    assert (blurred[0, 0].sum(0) * x**2).sum().item() == pytest.approx(9, rel=0.03)
    torch.testing.assert_close(
        gaussian_blur(torch.full((1, 3, 9, 9), 0.3), 2.0), torch.full((1, 3, 9, 9), 0.3)
    )


def test_randomization_tells_maps_that_hang_on_the_weights_from_those_that_do_not():
    torch.manual_seed(0)
    model, images, labels = Small().eval(), torch.rand(4, 3, 16, 16), torch.arange(4)
    before = copy.deepcopy(model.state_dict())
    learned = cascading_randomization(model, lambda one: gradient(one, images, labels))
    edges = cascading_randomization(model, lambda one: images.amax(1))
    assert list(learned) == ["last", "body.3", "body.1", "body.0"]
    halves = cascading_randomization(model, lambda one: gradient(one, images, labels), stages=2)
    assert list(halves) == ["body.3", "body.0"]
    torch.testing.assert_close(halves["body.0"], learned["body.0"])
    assert all(value.shape == (4,) for value in learned.values())
    assert learned["body.0"].abs().max() < 0.5
    assert edges["body.0"].min() == pytest.approx(1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_randomization_begins_the_statistics_of_batch_norm_anew_and_says_which_maps_are_empty():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 5))
    model[1].running_mean.fill_(7.0)
    model[1].running_var.fill_(9.0)
    seen = []

    def explain(one):
        seen.append((one[1].running_mean.clone(), one[1].running_var.clone()))
        # Empty for the third image, whose map has no order to compare.
        maps = torch.rand(4, 6, 6)
        maps[2] = 0.0
        return maps

    alike = cascading_randomization(model.eval(), explain)
    assert torch.equal(seen[-1][0], torch.zeros(4))
    assert torch.equal(seen[-1][1], torch.ones(4))
    assert torch.equal(model[1].running_mean, torch.full((4,), 7.0))  # a copy was made random
    for values in alike.values():
        assert values.isnan().tolist() == [False, False, True, False]


def test_grad_cam_of_a_module_that_is_used_twice_takes_the_last_use():
    class Twice(nn.Module):
        """The ReLU of a residual block: used before and after the second convolution."""

        def __init__(self):
            super().__init__()
            self.one, self.two, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()
            self.block = nn.Identity()
            self.last = nn.Linear(4, 5)

        def forward(self, images):
            maps = self.block(self.relu(self.two(self.relu(self.one(images)))))
            return self.last(maps.mean((2, 3)))

    torch.manual_seed(0)
    model, images = Twice().eval(), torch.rand(2, 3, 12, 12)
    found = grad_cam(model, images, torch.tensor([0, 1]), model.relu, upsample=False)
    torch.testing.assert_close(found, grad_cam(model, images, [0, 1], "block", upsample=False))
    assert found.shape == (2, 8, 8)


def test_chance_maps_are_as_smooth_as_said_and_know_nothing_of_the_images():
    images = torch.rand(3, 3, 32, 32)
    pixels, blobs = (random_maps(images, kind, maps_size=(4, 4)) for kind in ("pixels", "blobs"))
    assert pixels.shape == blobs.shape == (3, 32, 32)
    assert torch.equal(blobs, random_maps(1 - images, "blobs", maps_size=(4, 4)))
    assert torch.equal(blobs[1:2], random_maps(images[:2], "blobs", maps_size=(4, 4))[1:])

    def roughness(maps):
        return (maps[..., 1:] - maps[..., :-1]).abs().mean() / maps.std()

    assert roughness(pixels) > 5 * roughness(blobs)
    coarse = torch.nn.functional.interpolate(blobs[:, None], (4, 4), mode="area")
    again = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear", align_corners=False)[:, 0]
    assert rank_correlation(again, blobs).min() > 0.95  # nothing finer than the layer's maps


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (torch.rand(1, 6, 6), "maps are one for each image"),
        (torch.full((2, 12, 12), torch.nan), "not finite"),
    ],
)
def test_maps_that_give_no_order_are_refused(maps, message):
    with pytest.raises(ValueError, match=message):
        deletion_and_insertion(Small(), torch.rand(2, 3, 12, 12), [0, 1], maps)
