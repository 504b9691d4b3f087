"""Latent vectors: drawn without state, and walked between."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rdfia.common.draws import keyed_generator


def draw_latents(
    count: int,
    latent_dim: int,
    key: Iterable[int],
    *,
    distribution: Literal["normal", "uniform"] = "normal",
    rank: int = 0,
    world_size: int = 1,
) -> Tensor:
    """Draw latents (count, latent_dim) that depend on ``key`` and ``rank`` alone.

    There is no state to lose: a resumed run draws what the uninterrupted one would have drawn, and the
    processes of a run draw, together, what one process would draw.

    Args:
        count: Latents for this process.
        latent_dim: Numbers in each.
        key: Non-negative integers, such as a seed and the number of a batch.
        distribution: ``normal`` is N(0, 1), ``uniform`` is from -1 to 1.
        rank: Of this process among ``world_size``.
        world_size: Number of processes.
    """
    generator = keyed_generator(key)
    draw = torch.randn if distribution == "normal" else torch.rand
    latents = draw(count * world_size, latent_dim, generator=generator)[rank::world_size]
    return latents if distribution == "normal" else 2 * latents - 1


def truncated(
    latents: Tensor, limit: float, *, distribution: Literal["normal", "uniform"] = "normal"
) -> Tensor:
    """Return latents that lie within a limit: fewer odd images, and less variety (Brock et al. 2019, BigGAN).

    Each number is moved to the same quantile of the distribution cut off at plus and minus the limit, so that
    the same seed gives images that are alike.

    Args:
        latents: Of any shape.
        limit: Above 0; 2 leaves a normal latent 95 % of its range.
        distribution: Of the latents.

    Raises:
        ValueError: The limit is not above 0.
    """
    if not 0 < limit < float("inf"):
        raise ValueError(f"truncation is above 0, got {limit}")
    if distribution == "uniform":
        return latents * min(limit, 1.0)
    exact = latents.double()
    below = torch.special.ndtr(torch.tensor(-limit, dtype=torch.float64, device=latents.device))
    quantile = below + torch.special.ndtr(exact) * (1 - 2 * below)
    within: Tensor = torch.special.ndtri(quantile).clamp(-limit, limit)
    return within.to(latents.dtype)


def interpolate(
    first: Tensor, second: Tensor, alpha: Tensor | float, how: Literal["linear", "slerp"] = "slerp"
) -> Tensor:
    """Return latents between two.

    ``linear`` is ``(1 - alpha) first + alpha second``: halfway between two draws from N(0, 1) it is 0.7 times
    as long as they are, where a generator has hardly been trained. ``slerp`` (White, "Sampling Generative
    Networks", 2016) goes along the arc between them, and keeps a length that both have.

    Args:
        first: (..., D).
        second: (..., D).
        alpha: (...,) or a number, 0 for the first and 1 for the second.
        how: ``linear`` or ``slerp``.

    Returns:
        (..., D), all shapes broadcast.
    """
    alpha = torch.as_tensor(alpha, dtype=first.dtype, device=first.device)[..., None]
    line = (1 - alpha) * first + alpha * second
    if how == "linear":
        return line
    angle = torch.arccos(functional.cosine_similarity(first, second, -1).clamp(-1, 1))[..., None]
    arc = (((1 - alpha) * angle).sin() * first + (alpha * angle).sin() * second) / angle.sin()
    # Parallel vectors span no arc, of which the line is the limit; opposite ones span any.
    return torch.where(angle.sin() > 1e-3, arc, line)
