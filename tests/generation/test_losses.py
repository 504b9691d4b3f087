"""What the two networks of a GAN minimise, by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from rdfia.generation.losses import (
    between,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    judge,
    looks_of,
    score,
    wasserstein_penalty,
)


def test_losses_are_the_binary_cross_entropies():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    cross_entropy = functional.binary_cross_entropy
    expected = cross_entropy(real.sigmoid(), torch.ones(2)) + cross_entropy(fake.sigmoid(), torch.zeros(2))
    assert discriminator_loss(real, fake).item() == pytest.approx(expected.item(), rel=1e-6)
    assert generator_loss(fake).item() == pytest.approx(
        cross_entropy(fake.sigmoid(), torch.ones(2)).item(), rel=1e-6
    )
    # by hand: log 2 each where the discriminator does not know
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(2 * 0.6931472)
    assert generator_loss(torch.tensor([-500.0], dtype=torch.float16)).item() == 500  # no overflow, no nan


def test_other_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx((0 + 0.5) / 2 + (0 + 1.5) / 2)
    assert generator_loss(fake, "hinge").item() == pytest.approx(1.25)
    squares = (1 + 0.25) / 4 + (9 + 0.25) / 4
    assert discriminator_loss(real, fake, "least-squares").item() == pytest.approx(squares)
    assert generator_loss(fake, "least-squares").item() == pytest.approx((16 + 0.25) / 4)
    minimax = (1 - fake.sigmoid()).log().mean().item()
    assert generator_loss(fake, "minimax").item() == pytest.approx(minimax, rel=1e-5)
    assert discriminator_loss(real, fake, "minimax") == discriminator_loss(real, fake)


def test_smoothed_labels_are_those_of_the_cross_entropy():
    real, fake = torch.randn(5), torch.randn(5)
    cross_entropy = functional.binary_cross_entropy_with_logits
    expected = cross_entropy(real, torch.full((5,), 0.9)) + cross_entropy(fake, torch.zeros(5))
    torch.testing.assert_close(discriminator_loss(real, fake, label_smoothing=0.1), expected)
    squares = (real - 0.9).square().mean() / 2 + fake.square().mean() / 2
    torch.testing.assert_close(discriminator_loss(real, fake, "least-squares", 0.1), squares)


def test_scores_are_1_for_what_real_images_should_get_and_0_for_generated_ones():
    assert score(torch.tensor([-40.0, 0.0, 40.0])).tolist() == pytest.approx([0, 0.5, 1])
    assert score(torch.tensor([0.0, 0.5, 1.0]), "least-squares").tolist() == [0, 0.5, 1]
    assert score(torch.tensor([-1.0, 0.0, 1.0]), "hinge").tolist() == [0, 0.5, 1]


def test_where_the_generator_loses_it_learns_but_for_minimax():
    lost = torch.tensor([-20.0], requires_grad=True)
    input_gradients = {"non-saturating": -1, "hinge": -1, "least-squares": -21, "minimax": 0}
    for loss, slope in input_gradients.items():
        (gradient,) = torch.autograd.grad(generator_loss(lost, loss), lost)
        assert gradient.item() == pytest.approx(slope, abs=1e-6), loss


def test_the_gradient_penalty_by_hand_and_its_own_gradient():
    """Of logits a x1^2 + b x2 the gradient is (2 a x1, b)."""
    images = torch.tensor([[1.0, 5.0], [2.0, 7.0]]).reshape(2, 2, 1, 1).requires_grad_()
    a, b = torch.tensor(3.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    logits = a * images[:, 0, 0, 0] ** 2 + b * images[:, 1, 0, 0]
    penalty = gradient_penalty(logits, images)
    assert penalty.item() == pytest.approx((36 + 144) / 2 + 0.25)
    penalty.backward()
    assert a.grad.item() == pytest.approx((2 * 36 / 3 + 2 * 144 / 3) / 2)
    assert b.grad.item() == pytest.approx(1.0)


def test_losses_of_pairs_and_of_critics_by_hand():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.5])
    assert discriminator_loss(real, fake, "wasserstein").item() == pytest.approx(0.75 - 0.5)
    assert generator_loss(fake, "wasserstein").item() == pytest.approx(-0.75)
    pairs = [math.log1p(math.exp(1.0 - 2.0)), math.log1p(math.exp(0.5 + 1.0))]
    assert discriminator_loss(real, fake, "relativistic").item() == pytest.approx(sum(pairs) / 2)
    other = [math.log1p(math.exp(2.0 - 1.0)), math.log1p(math.exp(-1.0 - 0.5))]
    assert generator_loss(fake, "relativistic", real).item() == pytest.approx(sum(other) / 2)
    with pytest.raises(ValueError, match="give real_logits"):
        generator_loss(fake, "relativistic")


def test_the_generator_heeds_the_images_that_look_most_real():
    fake = torch.tensor([3.0, -2.0, 1.0, 0.0], requires_grad=True)
    loss = generator_loss(fake, "wasserstein", top_k=2)
    assert loss.item() == -2
    (gradient,) = torch.autograd.grad(loss, fake)
    assert gradient.tolist() == [-0.5, 0, -0.5, 0]
    assert generator_loss(fake, top_k=4) == generator_loss(fake)


def test_penalties_by_hand_and_between_which_images():
    weights = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
    images = torch.rand(5, 1, 1, 2, requires_grad=True)
    logits = (images * weights).sum((1, 2, 3))  # a gradient of length 5
    assert gradient_penalty(logits, images).item() == pytest.approx(25)
    assert wasserstein_penalty(logits, images).item() == pytest.approx(16)
    real, fake = torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
    assert between(real, fake, torch.tensor([0.25, 1.0])).flatten().tolist() == [0.25, 1]


def test_judged_images_are_penalised_in_float32_where_there_is_a_penalty():
    network = nn.Conv2d(1, 1, 2)
    seen = []

    def critic(images):
        logits = network(images).flatten()
        seen.append(logits.dtype)
        return logits

    images = torch.rand(3, 1, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        logits, none = judge(critic, images)
        exact, penalty = judge(critic, images.bfloat16(), weight=2.0)
    assert none == 0.0
    assert seen == [torch.bfloat16, torch.float32]
    assert penalty.item() == pytest.approx(2 * network.weight.square().sum().item(), rel=1e-5)
    torch.testing.assert_close(logits.float(), exact, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("loss", ["wasserstein", "relativistic"])
def test_looks_count_from_the_mean_where_logits_have_no_zero(loss):
    real, fake = torch.tensor([102.0, 101.0]), torch.tensor([99.0, 98.0])
    found = looks_of(real, fake, loss)
    assert found[0] > 0.5 > found[1]
    assert found[2] == 1
