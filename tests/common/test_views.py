"""Random views: parts, mirror images, small turns and shifts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rdfia.common.views import augmented, check_augmentations, jittered, random_views, transformed


def test_views_are_parts_of_the_image_and_follow_from_the_key():
    ramp = torch.arange(32.0).expand(40, 1, 32, 32)  # brightness is the column
    views = random_views(ramp, [0, 1])
    assert torch.equal(views, random_views(ramp, [0, 1]))
    assert not torch.equal(views, random_views(ramp, [0, 2]))
    assert views.min() >= 0
    assert views.max() <= 31
    rising = (views[:, 0, :, -1] > views[:, 0, :, 0]).all(1)
    assert 10 < rising.sum() < 30  # about half are mirrored
    span = (views.amax((1, 2, 3)) - views.amin((1, 2, 3))) / 31
    assert span.min() > 0.35**0.5 * 0.75**0.5 - 0.05
    assert span.std() > 0.05
    halves = [random_views(ramp[rank::2], [0, 1], rank=rank, world_size=2) for rank in range(2)]
    torch.testing.assert_close(torch.stack(halves, 1).flatten(0, 1), views)


def test_a_view_of_the_whole_image_is_the_image_or_its_mirror_image(monkeypatch):
    images = torch.rand(2, 3, 8, 8)
    draws = np.array([[1, 0.5, 0.3, 0.3, 0.9], [1, 0.5, 0.3, 0.3, 0.1]])
    drawn = SimpleNamespace(uniform=lambda size: draws)
    monkeypatch.setattr(np.random, "default_rng", lambda key: drawn)
    first, second = random_views(images, [0])
    torch.testing.assert_close(first, images[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second, images[1].flip(-1), rtol=1e-4, atol=1e-4)


def test_jitter_depends_on_its_key_alone_and_moves_little():
    images = torch.rand(8, 3, 28, 28)
    views = jittered(images, (0, 1))
    torch.rand(5)
    assert torch.equal(views, jittered(images, (0, 1)))
    assert not torch.equal(views, jittered(images, (0, 2)))
    halves = [jittered(images[rank::2], (0, 1), rank=rank, world_size=2) for rank in range(2)]
    torch.testing.assert_close(torch.stack(halves, 1).flatten(0, 1), views)
    # a dot in the middle stays within 2 pixels right and down, and 1 by the rounding
    dot = torch.zeros(200, 1, 28, 28)
    dot[:, :, 13:15, 13:15] = 1
    moved = jittered(dot, (0,))
    weight = moved.sum((2, 3))[:, 0]
    for axis in (2, 3):
        place = (moved.sum(5 - axis)[:, 0] * torch.arange(28)).sum(1) / weight
        assert (place - 13.5).abs().max() < 2.5
        assert place.std() > 0.5


def test_half_precision_gives_what_float32_gives():
    """In torch itself the gradient writes outside its memory, and the process may die."""
    images = torch.rand(25, 3, 64, 64).bfloat16().float()
    matrices = torch.tensor([[0.3, 0.05, 0.6], [-0.05, 0.3, 0.6]]) + 0.1 * torch.randn(25, 2, 3)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        seen = images.to(dtype).requires_grad_()
        view = transformed(seen, matrices, "reflection")
        assert view.dtype == dtype
        (slope,) = torch.autograd.grad(view.float().square().sum(), seen)
        found.append((view.detach().float(), slope.float()))
    for exact, rounded in zip(*found, strict=True):
        torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "names", [["flip"], ["crop"], ["randaugment"], ["trivial"], ["crop", "flip", "trivial"]]
)
def test_augmentations_by_name_follow_from_the_key_alone(names):
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    kept = images.clone()
    state = torch.get_rng_state()
    seen = augmented(images, names, (1, 2, 3))
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(augmented(images, names, (1, 2, 3)), seen)
    assert not torch.equal(augmented(images, names, (1, 2, 4)), seen)
    assert seen.shape == images.shape
    assert seen.min() >= -1e-3
    assert seen.max() <= 1 + 1e-3
    # two processes see, together, what one would
    parts = [augmented(images[rank::2], names, (1, 2, 3), rank=rank, world_size=2) for rank in (0, 1)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), seen)


def test_flip_alone_mirrors_and_nothing_else():
    images = torch.rand(64, 3, 8, 8)
    seen = augmented(images, ["flip"], (0,))
    mirrored = (seen == images.flip(-1)).flatten(1).all(1)
    same = (seen == images).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert 16 < mirrored.sum() < 48


def test_names_of_augmentations_are_checked():
    assert check_augmentations(["flip", "crop"]) == ["crop", "flip"]
    with pytest.raises(ValueError, match="augmentations are crop, flip, randaugment, trivial; got 'blur'"):
        check_augmentations(["blur"])
    with pytest.raises(ValueError, match="randaugment and trivial are two policies; take one"):
        check_augmentations(["randaugment", "trivial"])
