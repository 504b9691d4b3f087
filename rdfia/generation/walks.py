"""Walks between latents: what a GAN draws between two digits."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from rdfia.generation.digit_judge import confident_share
from rdfia.generation.gan import GANModule
from rdfia.generation.latents import interpolate


def ways(module: GANModule) -> list[Literal["linear", "slerp"]]:
    """Return how to walk between latents: an arc between uniform ones leaves the cube they are drawn from."""
    return ["linear", "slerp"] if module.latents == "normal" else ["linear"]


def judge_of(module: GANModule) -> Callable[[Tensor], Tensor] | None:
    """Return what maps digits to logits (B, 10); None where images are no digits."""
    found: Callable[[Tensor], Tensor] | None = getattr(module.scores, "judge", None)
    return found


def halfway_scores(module: GANModule, count: int) -> dict[str, float]:
    """Return the `confident_share` of ``count`` images, each halfway between two latents, by way."""
    if (judge := judge_of(module)) is None:
        return {}  # nobody says how sure an image is
    first, second = module.draw(count, 8), module.draw(count, 9)
    with torch.no_grad():
        halfway = {how: module(interpolate(first, second, 0.5, how)) for how in ways(module)}
        return {
            f"halfway_confident_share_{how}": float(confident_share(judge(images)))
            for how, images in halfway.items()
        }


def walks(module: GANModule, pairs: list[tuple[int, int]], steps: int) -> dict[str, Tensor]:
    """Generate walks between digits, along the line and along the arc.

    Args:
        module: The generator.
        pairs: Digits to begin and to end with; the latents are those whose digit the judge is surest of.
            Where images are no digits, these are the numbers of latents as they are drawn.
        steps: Images in a walk.

    Returns:
        By name of the way, images (pairs x steps, 1, 32, 32) in [0, 1].
    """
    latents = module.draw(1000, 5)
    with torch.no_grad():
        surest = torch.arange(len(latents))
        if (judge := judge_of(module)) is not None:
            surest = judge(module(latents)).softmax(1).argmax(0)
        alpha = torch.linspace(0, 1, steps)
        ends = [(latents[surest[first]], latents[surest[second]]) for first, second in pairs]
        return {
            how: torch.cat([module(interpolate(a, b, alpha, how)) for a, b in ends]).cpu()
            for how in ways(module)
        }
