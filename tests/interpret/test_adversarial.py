"""Attacks: by hand on linear models, against torchattacks on SqueezeNet, and no trace left on the model."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchattacks
from PIL import Image
from torch import nn
from torch.nn import functional

from rdfia.interpret.adversarial import fgsm, fool, pgd, project
from rdfia.interpret.attack_results import judge, quantised, rounded
from rdfia.interpret.black_box_attacks import few_pixels, shapes
from rdfia.interpret.classifier import l2_norms, predict
from rdfia.interpret.robust_attacks import patch, random_transform, robustness, with_patch


@pytest.fixture(scope="module")
def photographs(squeezenet, photographs):
    """The embedded photographs, and what the network takes them for as labels."""
    images, _ = photographs
    return images, predict(squeezenet, images)


def linear(weights: list[list[float]]) -> nn.Module:
    """Return a classifier of images (B, 1, 2, 2) by the inner product with weights."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, len(weights), bias=False))
    model[1].weight.data = torch.tensor(weights)
    return model


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.last = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(32, 5))

    def forward(self, images):
        return self.last(self.layers(images))


EVERY = {
    "fool": lambda *given: fool(*given, (given[2] + 1) % 5, max_steps=3),
    "fgsm": lambda *given: fgsm(*given, epsilon=0.1),
    "pgd": lambda *given: pgd(*given, epsilon=0.1, steps=3),
    "eot": lambda *given: pgd(*given, epsilon=0.1, steps=2, transform=random_transform, views=2),
    "few_pixels": lambda *given: few_pixels(*given, population=8, iterations=2),
    "shapes": lambda *given: shapes(*given, count=3, generations=4, candidates=4),
}


@pytest.mark.parametrize("attack", EVERY.values(), ids=EVERY)
def test_no_trace_is_left_and_the_same_seed_gives_the_same_images(attack):
    model = Small().train()
    model.layers[1].eval()
    before = copy.deepcopy(model.state_dict())
    images = torch.rand(3, 3, 16, 16)
    kept = images.clone()
    found = attack(model, images, torch.tensor([0, 3, 2]))
    torch.rand(7)
    assert torch.equal(attack(model, images, torch.tensor([0, 3, 2])).images, found.images)
    assert torch.equal(images, kept)
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.training, model.layers[1].training) == (True, False)
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("targeted", [False, True])
def test_equal_to_torchattacks_on_squeezenet(squeezenet, photographs, targeted):
    # In float64: over the steps, rounding would grow at the kinks of the network.
    squeezenet = copy.deepcopy(squeezenet).double()
    images, labels = photographs[0].double(), photographs[1]
    targets = (labels + 100) % 1000 if targeted else None

    def theirs(attack):
        attack.set_mode_default()
        if targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        return attack(images, targets if targeted else labels)

    found = fgsm(squeezenet, images, labels, epsilon=4 / 255, targets=targets)
    torch.testing.assert_close(found.unrounded, theirs(torchattacks.FGSM(squeezenet, eps=4 / 255)))

    same = {"targets": targets, "random_start": False, "stop_early": False, "steps": 5}
    found = pgd(squeezenet, images, labels, epsilon=4 / 255, step=1 / 255, **same)
    attack = torchattacks.PGD(squeezenet, eps=4 / 255, alpha=1 / 255, steps=5, random_start=False)
    torch.testing.assert_close(found.unrounded, theirs(attack))
    found = pgd(squeezenet, images, labels, epsilon=1.0, step=0.3, norm="l2", **same)
    attack = torchattacks.PGDL2(squeezenet, eps=1.0, alpha=0.3, steps=5, random_start=False)
    torch.testing.assert_close(found.unrounded, theirs(attack))


def test_one_step_on_a_linear_model_by_hand():
    model = linear([[1.0, 2, -3, 0], [0, 0, 0, 0]])
    image, label = torch.tensor([[[[0.5, 0.5], [0.2, 0.5]]]]), torch.tensor([0])
    found = fgsm(model, image, label, epsilon=0.1)
    torch.testing.assert_close(found.unrounded, torch.tensor([[[[0.4, 0.4], [0.3, 0.5]]]]))
    assert found.before.item() == 0
    assert not found.success  # 0.4 + 0.8 - 0.9 is still above 0
    found = fgsm(model, image, label, epsilon=0.2)
    assert found.success  # 0.3 + 0.6 - 1.2
    assert (found.queries.item(), found.gradients.item(), found.l0.item()) == (1, 1, 3)
    assert found.linf.item() == pytest.approx(0.2, abs=1 / 255)


@pytest.mark.parametrize("margin", [10.0, 20.0, 40.0])
def test_a_network_that_is_very_sure_is_climbed_as_well(margin):
    """Softmax's float32 gradient of the true class is 0 from a margin of 17; the L2 step was lost before."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model[1].weight.data = margin * torch.tensor([[2.0, 0, 0, 0], [0, 0, 0, 0]])
    model[1].bias.data = torch.tensor([-margin, 0])
    images, labels = (
        torch.ones(1, 1, 2, 2),
        torch.tensor([0]),
    )
    assert fgsm(model, images, labels, epsilon=0.7).success.all()
    assert pgd(model, images, labels, epsilon=0.7, step=0.1, steps=7, random_start=False).success.all()
    by_l2 = pgd(model, images, labels, epsilon=1.0, norm="l2", step=0.1, steps=9, random_start=False)
    assert by_l2.success.all()
    assert by_l2.gradients.item() == 5  # five tenths lie on the boundary, their nearest grey level beyond it


def test_fool_on_a_linear_model_takes_as_many_steps_as_the_distance_to_the_boundary():
    """The target's logit grows by rate x |w| a step; it begins 0.5 below the other."""
    model = linear([[0.0, 0, 0, 0], [0.6, 0.8, 0, 0]])
    model[1].bias = nn.Parameter(torch.tensor([1.2, 0.0]))
    image = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]])  # 0.7 for class 1
    found = fool(model, image, torch.tensor([0]), torch.tensor([1]), rate=0.1)
    assert found.success
    assert found.gradients.item() == 6  # 0.5 takes five steps, and one to be above
    assert found.l2.item() == pytest.approx(0.6, abs=0.01)
    torch.testing.assert_close(
        found.unrounded - image, torch.tensor([[[[0.36, 0.48], [0, 0]]]]), rtol=1e-4, atol=1e-5
    )


def test_numbers_of_a_change_by_hand():
    model = linear([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    originals = torch.tensor([[[[0.6, 0.2], [0.0, 1.0]]], [[[0.2, 0.6], [0.0, 1.0]]]])
    originals = rounded(originals)
    images = originals.clone()
    images[:, :, 0, 0] -= 51 / 255  # 0.2
    images[:, :, 1, 1] += 0.2  # outside: a file cannot hold it
    found = judge(model, originals, images, torch.tensor([0, 0]))
    assert found.before.tolist() == [0, 1]
    assert found.right_before.tolist() == [True, False]
    assert found.success.tolist() == [False, False]  # the second was wrong before
    assert found.l0.tolist() == [1, 1]
    assert found.l2.tolist() == pytest.approx([0.2, 0.2], abs=1e-6)
    assert found.linf.tolist() == pytest.approx([0.2, 0.2], abs=1e-6)
    assert found.psnr.tolist() == pytest.approx([-10 * math.log10(0.04 / 4)] * 2, abs=1e-3)
    assert found.success_rate() == 0
    assert math.isnan(judge(model, originals[1:], images[1:], torch.tensor([0])).success_rate())


def test_what_rounding_undoes_does_not_count():
    model = linear([[1.0, 0, 0, 0], [0, 0, 0, 100 / 255]])
    original = torch.full((1, 1, 2, 2), 100 / 255)
    original[..., 1, 1] = 0.999
    image = original.clone()
    image[..., 0, 0] -= 0.4 / 255
    found = judge(model, original, image, torch.tensor([0]))
    assert model(image).argmax(1).item() == 1
    assert found.after.item() == 0
    assert not found.success
    assert found.l0.item() == 0


def test_a_target_that_is_the_truth_is_no_success():
    model = linear([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    image, label = torch.tensor([[[[0.8, 0.2], [0, 0]]]]), torch.tensor([0])
    assert not judge(model, image, image, label, label).success


def test_eight_bits_never_leave_the_ball_of_linf():
    image = rounded(torch.rand(1, 3, 50, 50))
    for size in (0.5, 1.0, 2.0, 2.7):
        changed = (image + size / 255 * (2 * torch.rand_like(image) - 1)).clamp(0, 1)
        kept = quantised(image, changed, size / 255, "linf")
        assert (kept - image).abs().max() <= size / 255 + 1e-6
        assert torch.equal(kept, rounded(kept))
    between = torch.rand(1, 3, 16, 16)  # of no whole levels, as after a resize in float
    for size in (0.2, 2.0):
        changed = (between + size / 255 * (2 * torch.rand_like(between) - 1)).clamp(0, 1)
        kept = quantised(between, changed, size / 255, "linf")
        assert (kept - rounded(between)).abs().max() <= size / 255 + 1e-5
        assert torch.equal(kept, rounded(kept))
    full = quantised(image, (image + 2 / 255).clamp(0, 1), 2 / 255, "linf")
    torch.testing.assert_close(full, (image + 2 / 255).clamp(0, 1))


def test_eight_bits_of_a_small_l2_change_are_the_nearest_within_the_ball():
    """Rounding towards the image took nearly all of it: at 224 pixels most change by less than a level."""
    torch.manual_seed(0)
    image = rounded(0.2 + 0.6 * torch.rand(2, 3, 224, 224))
    change = torch.randn_like(image) ** 3  # some values count more, as in a gradient
    for epsilon in (0.15, 0.5, 2.0):
        changed = image + epsilon * change / l2_norms(change)
        kept = quantised(image, changed, epsilon, "l2")
        assert torch.equal(kept, rounded(kept))
        within = l2_norms(kept - image).flatten()
        assert (within <= epsilon * (1 + 1e-5)).all()
        assert (within > 0.5 * epsilon).all()
        nearest = rounded(changed)
        undone = kept != nearest
        if (l2_norms(nearest - image) <= epsilon).all():
            assert not undone.any()
        elif undone.any():  # the smallest changes only
            assert torch.equal(kept[undone], image[undone])
            for number in range(2):
                size = (changed - image)[number].abs()
                stays = size[(kept != image)[number]]
                assert size[undone[number]].max() <= stays.min() + 1e-7


def test_what_an_l2_attack_did_before_rounding_stands_beside_it(squeezenet, photographs):
    images, labels = photographs
    found = pgd(squeezenet, images, labels, epsilon=0.1, norm="l2", steps=10)
    assert found.success_unrounded.sum() >= found.success.sum()
    exact = predict(squeezenet, found.unrounded) != labels
    assert torch.equal(found.success_unrounded, exact)
    assert (found.l2 <= 0.1 * (1 + 1e-5)).all()


def test_a_file_holds_what_was_judged(squeezenet, photographs, tmp_path):
    images, labels = photographs
    found = pgd(squeezenet, images, labels, epsilon=2 / 255, steps=5)
    assert found.success_rate() == 1
    for number, image in enumerate(found.images):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        read = torch.from_numpy(np.array(Image.open(tmp_path / f"{number}.png"))).permute(2, 0, 1) / 255
        assert torch.equal(read, image)
        assert predict(squeezenet, read[None]).item() == found.after[number] != labels[number]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_stays_within_epsilon_and_more_never_helps_less(squeezenet, photographs, norm):
    images, labels = photographs
    targets = (labels + 7) % 1000
    sizes = [0.5 / 255, 1 / 255, 2 / 255, 4 / 255] if norm == "linf" else [0.1, 0.3, 1.0, 3.0]
    rates = []
    for size in sizes:
        found = pgd(squeezenet, images, labels, epsilon=size, norm=norm, targets=targets, steps=8)
        for change in (found.unrounded - images, found.images - images):
            length = change.abs().amax((1, 2, 3)) if norm == "linf" else change.flatten(1).norm(dim=1)
            assert length.max() <= size * 1.001
        rates.append(found.success_rate())
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]
    assert rates[-1] >= 2 / 3
    by_steps = [
        pgd(
            squeezenet,
            images,
            labels,
            epsilon=sizes[2],
            norm=norm,
            targets=targets,
            step=sizes[2] / 4,
            steps=n,
        )
        for n in (1, 3, 6, 10)
    ]
    for fewer, more in pairwise(by_steps):
        assert (fewer.success <= more.success).all()


@pytest.mark.parametrize("attack", ["fool", "fgsm", "pgd", "eot"])
def test_an_image_is_attacked_for_itself_whatever_the_batch(attack):
    model, images, labels = Small(), torch.rand(4, 3, 16, 16), torch.tensor([0, 3, 2, 2])
    images = rounded(images)
    run = {
        "fool": lambda *given, **size: fool(*given, (given[2] + 1) % 5, max_steps=3, **size),
        "fgsm": lambda *given, **size: fgsm(*given, epsilon=0.1, **size),
        "pgd": lambda *given, **size: pgd(*given, epsilon=0.1, steps=3, restarts=2, **size),
        "eot": lambda *given, **size: pgd(
            *given, epsilon=0.1, steps=2, transform=random_transform, views=2, **size
        ),
    }[attack]
    together = run(model, images, labels)
    for batch_size in (1, 3):
        split = run(model, images, labels, batch_size=batch_size)
        torch.testing.assert_close(split.images, together.images, rtol=0, atol=1.1 / 255)
        assert ((split.images - together.images).abs() > 1e-6).double().mean() < 0.02
        assert torch.equal(split.queries, together.queries)


def test_restarts_only_add(squeezenet, photographs):
    images, labels = photographs
    given = {"epsilon": 0.5 / 255, "steps": 3, "targets": (labels + 7) % 1000}
    once, often = (pgd(squeezenet, images, labels, restarts=n, **given) for n in (1, 3))
    assert (once.success <= often.success).all()
    assert (often.queries >= once.queries).all()


def test_random_starts_are_uniform_within_epsilon():
    model = linear([[0.0] * 4, [0.0] * 4])
    images = torch.full((2000, 1, 2, 2), 0.5)
    labels = torch.zeros(2000, dtype=torch.int64)
    given = {"epsilon": 0.1, "step": 0.0, "steps": 1, "stop_early": False}
    change = pgd(model, images, labels, **given).unrounded - images
    assert change.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.03)
    change = pgd(model, images, labels, norm="l2", **given).unrounded - images
    l2_norms = change.flatten(1).norm(dim=1)
    assert l2_norms.max() <= 0.1001
    assert l2_norms.mean().item() == pytest.approx(0.1 * 4 / 5, rel=0.02)  # of a ball in 4 dimensions


def test_projection_by_hand():
    image = torch.tensor([[[[0.5, 0.9]]]])
    torch.testing.assert_close(
        project(image + torch.tensor([0.3, 0.3]), image, 0.2, "linf"), torch.tensor([[[[0.7, 1.0]]]])
    )
    near = project(image + torch.tensor([-0.3, -0.4]), image, 0.25, "l2")
    torch.testing.assert_close(near, torch.tensor([[[[0.35, 0.7]]]]))


def test_transformations_follow_from_their_key_and_are_differentiable():
    images = torch.rand(3, 3, 24, 24)
    seen = random_transform(images, (1, 2))
    assert seen.shape == images.shape
    assert torch.equal(seen, random_transform(images, (1, 2)))
    assert not torch.equal(seen, random_transform(images, (1, 3)))
    still = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "brightness": 0.0, "noise": 0.0}
    torch.testing.assert_close(random_transform(images, (1, 2), **still), images, rtol=1e-4, atol=1e-4)
    images.requires_grad_()
    random_transform(images, (1, 2)).sum().backward()
    assert images.grad.abs().sum() > 0
    light = random_transform(images.detach() * 0 + 0.5, (0,), **(still | {"brightness": 0.2})) - 0.5
    assert light.abs().max() <= 0.2001
    assert light.flatten(1).std(1).max() < 1e-5


def test_examples_made_over_transformations_outlast_others(squeezenet, photographs):
    images, labels = photographs
    given = {"epsilon": 16 / 255, "step": 2 / 255, "steps": 20, "stop_early": False}
    targets = (labels + 7) % 1000
    plain = pgd(squeezenet, images, labels, targets=targets, **given)
    robust = pgd(squeezenet, images, labels, targets=targets, transform=random_transform, views=4, **given)
    shares = [robustness(squeezenet, found.images, labels, targets, views=8) for found in (plain, robust)]
    assert shares[1].mean() > shares[0].mean() + 0.2
    assert (robust.gradients == 80).all()


def test_a_patch_is_placed_inside_and_whole():
    images, square = torch.zeros(50, 3, 32, 32), torch.ones(3, 8, 8)
    shown = with_patch(images, square, (0,), rotation=0.0)
    sums = shown.sum((1, 2, 3)) / 3
    torch.testing.assert_close(sums, torch.full((50,), 64.0), rtol=0.02, atol=0.5)
    places = shown.mean(1).flatten(1).argmax(1)
    assert places.unique().numel() > 20
    assert torch.equal(with_patch(images, square, (0,)), with_patch(images, square, (0,)))
    turned = with_patch(images, square, (0,), rotation=20.0).sum((1, 2, 3)) / 3
    assert turned.min() > 0.85 * 64


def test_a_patch_makes_a_target_of_images_it_never_saw():
    class Red(nn.Module):
        """Class 1 is what has a red place."""

        def forward(self, images):
            red = images[:, :1] - images[:, 1:].amax(1, keepdim=True)
            red = functional.avg_pool2d(red, 4, 1).amax((1, 2, 3))
            return torch.stack([torch.full_like(red, 0.6), red], 1) * 10

    images = torch.rand(20, 3, 24, 24) * 0.5
    made = patch(Red(), images[:10], 1, size=6, steps=60, batch_size=8)
    assert made.shape == (3, 6, 6)
    assert (predict(Red(), images[10:]) == 1).float().mean() < 0.2
    assert (predict(Red(), with_patch(images[10:], made, (9,))) == 1).float().mean() > 0.9
    few = patch(Red(), images[:10], 1, size=6, steps=60, batch_size=8, at_once=3)
    torch.testing.assert_close(few, made, atol=1.01 / 255, rtol=0)  # rounded to grey levels


def test_channels_last_images_are_attacked_alike(squeezenet, photographs):
    images, labels = photographs
    there = pgd(squeezenet, images, labels, epsilon=0.05, norm="l2", steps=2)
    swapped = images.to(memory_format=torch.channels_last)
    here = pgd(squeezenet, swapped, labels, epsilon=0.05, norm="l2", steps=2)
    torch.testing.assert_close(there.l2, here.l2, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_of_an_image_between_grey_levels_rounding_alone_is_no_change(norm):
    """At 224 pixels it is an L2 distance of 0.44, which took the whole of a small epsilon."""
    torch.manual_seed(0)
    image = 0.2 + 0.6 * torch.rand(1, 3, 64, 64)
    change = torch.randn_like(image) ** 3
    epsilon = 0.1 if norm == "l2" else 1.0 / 255
    change = epsilon * (change / l2_norms(change) if norm == "l2" else change.sign())
    kept = quantised(image, image + change, epsilon, norm)
    moved = kept - rounded(image)
    distance = moved.norm() if norm == "l2" else moved.abs().max()
    assert 0.5 * epsilon < distance <= epsilon * (1 + 1e-4)
    same = judge(linear([[1.0, 0, 0, 0], [0, 1, 0, 0]]), image[:, :1, :2, :2], image[:, :1, :2, :2], 0)
    assert (same.l0.item(), same.l2.item(), same.linf.item()) == (0, 0, 0)
