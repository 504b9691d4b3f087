"""What the two networks of a GAN minimise, R1, and how real the discriminator finds images.

The discriminator learns to score real images high and generated ones low, the generator to be scored high:

    L_D = softplus(-D(x)) + softplus(D(G(z)))        L_G = softplus(-D(G(z)))

which are the binary cross-entropies of Goodfellow et al., "Generative Adversarial Nets", 2014, written on
logits so that they neither saturate nor overflow in half precision.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

# What a step tells of itself, in this order.
NUMBERS = ("discriminator_loss", "generator_loss", "real_score", "fake_score", "discriminator_accuracy")
LOGGED = tuple(f"train/{name}" for name in NUMBERS)
Loss = Literal["non-saturating", "minimax", "least-squares", "hinge"]


def discriminator_loss(
    real_logits: Tensor, fake_logits: Tensor, loss: Loss = "non-saturating", label_smoothing: float = 0.0
) -> Tensor:
    """Return what the discriminator minimises.

    Args:
        real_logits: (B,), of real images.
        fake_logits: (B,), of generated images.
        loss: ``non-saturating`` and ``minimax``: the binary cross-entropy that scores real images 1 plus the
            one that scores generated ones 0. ``least-squares`` (Mao et al. 2017): half the squares of what
            the logits lack of 1 and of 0. ``hinge`` (Lim & Ye 2017): what they lack of 1 and of -1.
        label_smoothing: The target for real images is 1 minus this (Salimans et al. 2016).
    """
    real, fake = real_logits.float(), fake_logits.float()
    if loss == "hinge":
        return (1 - real).relu().mean() + (1 + fake).relu().mean()
    if loss == "least-squares":
        return (real - 1 + label_smoothing).square().mean() / 2 + fake.square().mean() / 2
    right, wrong = functional.softplus(-real).mean(), functional.softplus(real).mean()
    return (1 - label_smoothing) * right + label_smoothing * wrong + functional.softplus(fake).mean()


def generator_loss(fake_logits: Tensor, loss: Loss = "non-saturating") -> Tensor:
    """Return what the generator minimises.

    Args:
        fake_logits: (B,), of generated images.
        loss: ``non-saturating``: the binary cross-entropy that scores generated images 1. ``minimax``, the
            equation of the game: ``log(1 - D(G(z)))``, with next to no gradient where D is sure.
            ``least-squares``: half the square of what the logits lack of 1. ``hinge``: minus the logits.
    """
    fake = fake_logits.float()
    if loss == "minimax":
        return -functional.softplus(fake).mean()
    if loss == "least-squares":
        return (fake - 1).square().mean() / 2
    return -fake.mean() if loss == "hinge" else functional.softplus(-fake).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Return the mean over images of the squared length of the logits' gradient, itself differentiable.

    On real images it is the R1 penalty (Mescheder et al., "Which Training Methods for GANs do actually
    Converge?", 2018): the discriminator stays smooth around them, and the generator has a slope to climb.
    Under BatchNorm an image's logit depends on its whole batch, and the gradient is that of the sum of all.

    In float32 only: the second derivative of BatchNorm overflows in half precision.

    Args:
        logits: (B,), of ``images``; or (S, B), of S networks.
        images: (B, C, H, W) that require gradients; or (S, B, C, H, W).

    Returns:
        A scalar; or (S,).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    squares = gradient.square().sum((-3, -2, -1))
    return squares.mean() if squares.ndim == 1 else squares.mean(1)


def score(logits: Tensor, loss: Loss = "non-saturating") -> Tensor:
    """Return how real the discriminator finds images: 1 for what real ones should get, 0 for generated ones.

    The probability, of which logits are the log odds; for ``least-squares`` the logit itself, for ``hinge``
    the place between -1 and 1.
    """
    logits = logits.detach().float()
    if loss == "hinge":
        return (logits + 1) / 2
    return logits if loss == "least-squares" else logits.sigmoid()


def looks_of(
    real_logits: Tensor, fake_logits: Tensor, loss: Loss = "non-saturating"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean `score` of real and of generated images, and the share of both that is told right."""
    real, fake = score(real_logits, loss), score(fake_logits, loss)
    return real.mean(), fake.mean(), torch.cat([real > 0.5, fake < 0.5]).float().mean()
