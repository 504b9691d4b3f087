"""Latents are drawn without state, and walked between on the line or on the arc."""

import math

import pytest
import torch

from rdfia.common.draws import keyed_generator
from rdfia.generation.latents import draw_latents, interpolate


def test_latents_depend_on_key_and_rank_alone():
    latents = draw_latents(6, 5, [1, 2])
    torch.manual_seed(123)
    assert torch.equal(draw_latents(6, 5, [1, 2]), latents)
    others = [draw_latents(6, 5, key) for key in ([1, 3], [2, 2], [2, 1], [1, 2, 0, 1])]
    assert not any(torch.equal(latents, other) for other in others)
    ranks = [draw_latents(3, 5, [1, 2], rank=rank, world_size=2) for rank in range(2)]
    assert torch.equal(torch.stack(ranks, 1).flatten(0, 1), latents)


def test_latents_are_those_of_recorded_trainings():
    drawn = torch.randn(5, 5, generator=keyed_generator([1, 2]))
    assert torch.equal(draw_latents(5, 5, [1, 2]), drawn)


def test_both_distributions_are_what_they_are_called():
    normal = draw_latents(20_000, 2, [0])
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert normal.std().item() == pytest.approx(1, rel=0.02)
    uniform = draw_latents(20_000, 2, [0], distribution="uniform")
    assert -1 <= uniform.min() < -0.99
    assert 0.99 < uniform.max() <= 1
    assert uniform.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.02)


def test_interpolation_by_hand():
    first, second = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    alpha = torch.tensor([0.0, 0.5, 1.0])
    line = torch.tensor([[2.0, 0], [1, 1], [0, 2]])
    torch.testing.assert_close(interpolate(first, second, alpha, "linear"), line)
    root = math.sqrt(2)
    arc = torch.tensor([[2.0, 0], [root, root], [0, 2]])  # on the circle of radius 2
    torch.testing.assert_close(interpolate(first, second, alpha), arc)
    torch.testing.assert_close(interpolate(first, second, 1 / 3), 2 * torch.tensor([3**0.5 / 2, 0.5]))


def test_slerp_keeps_the_length_of_normal_latents_where_the_line_is_shorter():
    first, second = draw_latents(2, 1000, [0]).split(1)
    l2_norms = {how: interpolate(first, second, 0.5, how).norm().item() for how in ("linear", "slerp")}
    assert l2_norms["slerp"] == pytest.approx(math.sqrt(1000), rel=0.05)
    assert l2_norms["linear"] == pytest.approx(math.sqrt(500), rel=0.05)


def test_slerp_of_parallel_and_of_opposite_latents_is_the_line():
    z = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(interpolate(z, 3 * z, 0.5), 2 * z)
    assert interpolate(z, z, torch.linspace(0, 1, 5)).shape == (5, 2)
    assert interpolate(z, -z, 0.25).isfinite().all()


def test_pairs_are_walked_together():
    first, second = draw_latents(3, 4, [0]), draw_latents(3, 4, [1])
    together = interpolate(first, second, torch.tensor([[0.0], [0.5], [1.0]]))
    assert together.shape == (3, 3, 4)
    torch.testing.assert_close(together[1, 2], interpolate(first[2], second[2], 0.5))
    torch.testing.assert_close(together[2], second)
