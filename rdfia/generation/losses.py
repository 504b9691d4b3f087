"""What the two networks of a GAN minimise, gradient penalties, and how real the discriminator finds images.

The discriminator learns to score real images high and generated ones low, the generator to be scored high::

    L_D = softplus(-D(x)) + softplus(D(G(z)))        L_G = softplus(-D(G(z)))

which are the binary cross-entropies of Goodfellow et al., "Generative Adversarial Nets", 2014, written on
logits so that they neither saturate nor overflow in half precision.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from rdfia.common.exact import exact

# What a step tells of itself, in this order.
NUMBERS = ("discriminator_loss", "generator_loss", "real_score", "fake_score", "discriminator_accuracy")
LOGGED = tuple(f"train/{name}" for name in NUMBERS)
Loss = Literal["non-saturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"]
# Those that have no target for real images, which could be smoothed.
UNSMOOTHED: tuple[Loss, ...] = ("hinge", "wasserstein", "relativistic")
UNCENTRED: tuple[Loss, ...] = ("wasserstein", "relativistic")  # whose logits have no 0


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
            ``wasserstein`` (Arjovsky et al. 2017): the mean of generated ones less that of real ones; it
            needs `wasserstein_penalty`. ``relativistic`` (Jolicoeur-Martineau 2018, Huang et al., "The GAN is
            dead; long live the GAN!", 2024): each real image against the generated one beside it.
        label_smoothing: The target for real images is 1 minus this (Salimans et al. 2016).
    """
    real, fake = real_logits.float(), fake_logits.float()
    if loss == "wasserstein":
        return fake.mean() - real.mean()
    if loss == "relativistic":
        return functional.softplus(fake - real).mean()
    if loss == "hinge":
        return (1 - real).relu().mean() + (1 + fake).relu().mean()
    if loss == "least-squares":
        return (real - 1 + label_smoothing).square().mean() / 2 + fake.square().mean() / 2
    right, wrong = functional.softplus(-real).mean(), functional.softplus(real).mean()
    return (1 - label_smoothing) * right + label_smoothing * wrong + functional.softplus(fake).mean()


def generator_loss(
    fake_logits: Tensor,
    loss: Loss = "non-saturating",
    real_logits: Tensor | None = None,
    *,
    top_k: float | Tensor | None = None,
) -> Tensor:
    """Return what the generator minimises.

    Args:
        fake_logits: (B,), of generated images.
        loss: ``non-saturating``: the binary cross-entropy that scores generated images 1. ``minimax``, the
            equation of the game: ``log(1 - D(G(z)))``, with next to no gradient where D is sure.
            ``least-squares``: half the square of what the logits lack of 1. ``hinge``, ``wasserstein``: minus
            the logits. ``relativistic``: each against the real image beside it.
        real_logits: (B,), of the real images beside them; the relativistic loss needs them.
        top_k: Heed only so many images, those that look most real (Sinha et al., "Top-k Training of GANs",
            NeurIPS 2020); None for all.

    Raises:
        ValueError: The loss is relativistic, and there are no real images.
    """
    fake = fake_logits.float()
    if loss == "relativistic":
        if real_logits is None:
            raise ValueError("the relativistic loss compares with real images: give real_logits")
        fake = fake - real_logits.float()
    if top_k is not None:
        fake = fake.sort(descending=True).values
    if loss == "minimax":
        each = -functional.softplus(fake)
    elif loss == "least-squares":
        each = (fake - 1).square() / 2
    else:
        each = -fake if loss in ("hinge", "wasserstein") else functional.softplus(-fake)
    if top_k is None:
        return each.mean()
    heeded = (torch.arange(len(each), device=each.device) < top_k).to(each)
    return (heeded * each).sum() / heeded.sum()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Return the mean over images of the squared length of the logits' gradient, itself differentiable.

    On real images it is the R1 penalty (Mescheder et al., "Which Training Methods for GANs do actually
    Converge?", 2018), on generated ones R2: the discriminator stays smooth around them, and the generator has
    a slope to climb. Under BatchNorm an image's logit depends on its whole batch, and the gradient is that of
    the sum of all.

    In float32 only: the second derivative of BatchNorm overflows in half precision.

    Args:
        logits: (B,), of ``images``; or (S, B), of S networks.
        images: (B, C, H, W) that require gradients; or (S, B, C, H, W).

    Returns:
        A scalar; or (S,).
    """
    return _squared_gradients(logits, images).mean(-1)


def wasserstein_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Return the mean over images of the squared difference of the gradient's length from 1.

    On images between real and generated ones it makes a critic whose mean scores measure a Wasserstein
    distance (Gulrajani et al., "Improved Training of Wasserstein GANs", 2017). As `gradient_penalty`
    otherwise.
    """
    return ((_squared_gradients(logits, images) + 1e-12).sqrt() - 1).square().mean(-1)


def judge(
    discriminator: Callable[..., Tensor],
    images: Tensor,
    condition: Sequence[Tensor] = (),
    weight: float = 0.0,
    penalty: Callable[[Tensor, Tensor], Tensor] = gradient_penalty,
) -> tuple[Tensor, Tensor | float]:
    """Return the logits of images, and ``weight`` times a penalty of them.

    In exact float32 where there is a penalty; ``backward``, with its second derivatives, is to be so as well.

    Args:
        discriminator: Maps images and ``condition`` to logits.
        images: (B, C, H, W), detached.
        condition: Such as labels (B,).
        weight: Of the penalty; with 0 there is none.
        penalty: Of logits and images.
    """
    if not weight:
        return discriminator(images, *condition), 0.0
    with torch.autocast(images.device.type, enabled=False), exact():
        # Under autocast generated images are in half precision; where weights are, all images are.
        images = images.detach().to(torch.get_default_dtype()).requires_grad_()
        logits = discriminator(images, *condition)
        return logits, weight * penalty(logits, images)


def between(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Return images between real ones (..., C, H, W) and those beside them, by the share (...) of real."""
    share = share[..., None, None, None]
    return (share * real + (1 - share) * fake).detach()


def _squared_gradients(logits: Tensor, images: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum((-3, -2, -1))


def score(logits: Tensor, loss: Loss = "non-saturating") -> Tensor:
    """Return how real the discriminator finds images: 1 for what real ones should get, 0 for generated ones.

    The probability, of which logits are the log odds; for ``least-squares`` the logit itself, for ``hinge``
    the place between -1 and 1. For ``wasserstein`` and ``relativistic``, whose logits have no zero, see
    `looks_of`.
    """
    logits = logits.detach().float()
    if loss == "hinge":
        return (logits + 1) / 2
    return logits if loss == "least-squares" else logits.sigmoid()


def looks_of(
    real_logits: Tensor, fake_logits: Tensor, loss: Loss = "non-saturating"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean `score` of real and of generated images, and the share of both that is told right.

    For ``wasserstein`` and ``relativistic`` logits are counted from the mean of all of the batch.
    """
    if loss in UNCENTRED:
        both = torch.cat([real_logits, fake_logits]).detach().float()
        real_logits, fake_logits = real_logits.float() - both.mean(), fake_logits.float() - both.mean()
    real, fake = score(real_logits, loss), score(fake_logits, loss)
    return real.mean(), fake.mean(), torch.cat([real > 0.5, fake < 0.5]).float().mean()


def heeds_groups(loss: Loss, gp_weight: float) -> bool:
    """Return whether images can be of groups: not where each is compared with the one beside it."""
    return loss not in UNCENTRED and not gp_weight


def check_together(values: Mapping[str, Any]) -> None:
    """Check that settings of a GAN go together.

    Args:
        values: By name, those of `rdfia.generation.gan.GANModule`.

    Raises:
        ValueError: They do not.
    """
    loss, normalization, groups = values["loss"], values["normalization"], values["groups"]
    gp_weight, top_k = values["gp_weight"], values["top_k"]
    if values["label_smoothing"] and loss in UNSMOOTHED:
        raise ValueError(f"the {loss} loss has no labels to smooth; take label_smoothing=0")
    if loss == "wasserstein" and not gp_weight and normalization != "spectral":
        mend = "take gp_weight=10 and normalization='none', or normalization='spectral'"
        raise ValueError(f"the wasserstein loss needs a bounded critic; {mend}")
    if gp_weight and normalization == "batch":
        mend = "take normalization='none' or 'spectral'"
        raise ValueError(f"gp_weight is of single images, and BatchNorm mixes those of a batch; {mend}")
    if gp_weight and values["r1_weight"] + values["r2_weight"] > 0:
        raise ValueError("gp_weight pulls gradients to 1, R1 and R2 to 0; take r1_weight=0 and r2_weight=0")
    if values["augment"] == "ada" and loss in (*UNCENTRED, "least-squares"):
        what = f"ada heeds the sign of logits, and the {loss} loss has no 0 between real and fake"
        raise ValueError(f"{what}; take augment='diffaugment'")
    if values["blocks"] == "residual" and values["upsampling"] == "transposed":
        raise ValueError("residual blocks enlarge by nearest neighbours; take upsampling='nearest'")
    if groups and (gp_weight or loss == "relativistic"):
        what = "the relativistic loss" if loss == "relativistic" else "gp_weight"
        raise ValueError(f"{what} is of pairs of images, which are of different groups; take groups=0")
    if not 0 < top_k <= 1:
        raise ValueError(f"top_k is a share above 0 and at most 1, got {top_k}")
