"""What the two networks of a GAN minimise, by hand."""

import pytest
import torch
from torch.nn import functional

from rdfia.generation.losses import discriminator_loss, generator_loss, gradient_penalty, score


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
