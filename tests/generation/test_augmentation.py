"""What a discriminator's images go through: by hand, differentiable, and the same on resume."""

import pytest
import torch
from torch.nn import functional

from rdfia.generation import augmentation
from rdfia.generation.augmentation import (
    Augment,
    adaptive,
    brightness,
    contrast,
    cut_out,
    diffaugment,
    flipped,
    saturation,
    translate,
    whole,
)

IMAGE = torch.tensor([[[[0.2, 0.4], [0.6, 0.8]], [[0.0, 0.0], [0.2, 0.2]], [[-0.2, 0.2], [0.4, 0.2]]]])


def test_colours_by_hand():
    number = torch.tensor([0.75])
    torch.testing.assert_close(brightness(IMAGE, number), IMAGE + 0.25)
    grey = torch.tensor([[0.0, 0.2], [0.4, 0.4]])  # means over the channels
    torch.testing.assert_close(saturation(IMAGE, number), grey + 1.5 * (IMAGE - grey))
    torch.testing.assert_close(saturation(IMAGE, torch.tensor([0.0])), grey.expand(1, 3, 2, 2))
    torch.testing.assert_close(contrast(IMAGE, number), 0.25 + 1.25 * (IMAGE - 0.25))


def test_a_shift_brings_in_black_and_is_of_each_image_by_itself():
    images = torch.arange(1.0, 19).reshape(2, 1, 3, 3)
    moved = translate(images, torch.tensor([1, 0]), torch.tensor([0, -1]))
    assert moved[0, 0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert moved[1, 0].tolist() == [[11, 12, 0], [14, 15, 0], [17, 18, 0]]


def test_a_square_is_cut_out_around_a_pixel_and_ends_at_the_edge():
    cut = cut_out(torch.ones(2, 1, 4, 4), torch.tensor([2, 0]), torch.tensor([2, 4]))
    assert cut[0, 0].tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert cut[1, 0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_whole_numbers_are_all_as_likely():
    found = whole(torch.linspace(0, 1 - 1e-7, 7001), -3, 3)
    assert found.unique().tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert torch.bincount(found + 3).float().std() < 2


def test_diffaugment_is_the_published_one_for_the_same_numbers():
    """Written out as Zhao et al. describe it, one image after another."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(6, 3, 8, 8, generator=generator) * 2 - 1
    numbers = torch.rand(6, 7, generator=generator)
    for image, own, found in zip(images, numbers.tolist(), diffaugment(images, numbers), strict=True):
        light, colour, strength, *places = own
        x = image + (light - 0.5)
        x = (x - x.mean(0, keepdim=True)) * (2 * colour) + x.mean(0, keepdim=True)
        x = (x - x.mean()) * (strength + 0.5) + x.mean()
        down, right = (int(number * 3) - 1 for number in places[:2])  # an eighth of 8 pixels either way
        x = functional.pad(x, (1, 1, 1, 1))[:, 1 - down : 9 - down, 1 - right : 9 - right].clone()
        top, left = (int(number * 9) - 2 for number in places[2:])  # a square of 4
        x[:, max(top, 0) : max(top + 4, 0), max(left, 0) : max(left + 4, 0)] = 0
        torch.testing.assert_close(found, x, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_a_chance_nothing_changes_and_with_it_each_image_by_itself(channels):
    images = torch.rand(5, channels, 32, 32) * 2 - 1
    numbers = torch.rand(5, augmentation.NUMBERS["ada"])
    assert torch.equal(adaptive(images, numbers, torch.zeros(5)), images)
    chance = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    changed = adaptive(images, numbers, chance)
    same = [torch.equal(a, b) for a, b in zip(changed, images, strict=True)]
    assert same == [True, False, True, False, False]
    # An image does not depend on the others.
    torch.testing.assert_close(adaptive(images[1:2], numbers[1:2], chance[1:2]), changed[1:2])


def only(change, number, count=1):
    """Return numbers of ADA by which one change alone happens, for a chance of one half."""
    numbers = torch.full((count, augmentation.NUMBERS["ada"]), 0.9)
    numbers[:, 2 * change], numbers[:, 2 * change + 1] = 0.1, number
    return numbers


@pytest.mark.parametrize(
    ("change", "number", "expected"),
    [
        (0, 0.2, lambda x: x.flip(-1)),
        (0, 0.8, lambda x: x),
        (1, 0.3, lambda x: torch.rot90(x, 1, (2, 3))),
        (1, 0.6, lambda x: torch.rot90(x, 2, (2, 3))),
        (7, 0.5, lambda x: x),
        (9, 0.2, lambda x: x - 2 * x.mean(1, keepdim=True)),
    ],
)
def test_changes_of_ada_by_hand(change, number, expected):
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    found = adaptive(images, only(change, number), torch.tensor([0.5]))
    torch.testing.assert_close(found, expected(images), atol=1e-5, rtol=1e-4)


def test_ada_moves_by_whole_pixels_and_mirrors_what_comes_in():
    images = torch.rand(1, 1, 16, 16)
    moved = adaptive(images, only(2, 0.75), torch.tensor([0.5]))  # half of an eighth of 16
    torch.testing.assert_close(moved[..., 1:], images[..., :-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moved[..., 0], images[..., 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["diffaugment", "ada"])
def test_the_generator_learns_through_it(kind):
    augment = Augment(kind)
    augment.chance.fill_(0.5)
    images = torch.rand(4, 3, 32, 32, requires_grad=True)
    numbers = torch.rand(4, augment.numbers)
    augment(images, numbers).sum().backward()
    assert images.grad.abs().sum() > 0
    half = augment(images.detach().bfloat16(), numbers)
    assert half.dtype == torch.bfloat16
    assert half.shape == images.shape


def test_a_grey_image_is_inverted_too():
    images = torch.rand(1, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(adaptive(images, only(9, 0.2), torch.tensor([0.5])), -images)


def test_the_chance_is_kept_exactly_in_half_precision():
    augment = Augment("ada").to(torch.bfloat16)
    assert augment.chance.dtype == torch.float32


def test_stacked_images_are_changed_as_each_alone():
    augment = Augment("ada")
    images, numbers = torch.rand(2, 3, 3, 32, 32), torch.rand(2, 3, augment.numbers)
    augment.chance = torch.tensor([0.0, 1.0])
    both = augment(images, numbers)
    assert torch.equal(both[0], images[0])
    augment.chance = torch.tensor(1.0)
    torch.testing.assert_close(both[1], augment(images[1], numbers[1]))


def test_the_chance_grows_while_the_discriminator_is_sure_of_real_images():
    augment = Augment("ada")
    for _ in range(4):
        augment.watch(torch.tensor([1.0, 2.0, 3.0, 4.0, -0.1]))  # a mean sign of 0.6 is no more than wanted
    augment.adapt()
    assert augment.chance == 0
    for _ in range(4):
        augment.watch(torch.ones(50))
    augment.adapt()
    assert augment.chance.item() == pytest.approx(200 / augmentation.IMAGES_TO_ONE)
    augment.watch(-torch.ones(50))
    augment.adapt()
    assert augment.chance.item() == pytest.approx(150 / augmentation.IMAGES_TO_ONE)
    assert not augment.surety.any()


def test_only_what_adapts_is_in_checkpoints():
    assert set(Augment("ada").state_dict()) == {"chance", "surety"}
    assert not Augment("diffaugment").state_dict()


def test_flips_mirror_by_the_number_of_each():
    images = torch.rand(2, 1, 3, 3)
    found = flipped(images, torch.tensor([0.4, 0.6]))
    assert torch.equal(found[0], images[0].flip(-1))
    assert torch.equal(found[1], images[1])
