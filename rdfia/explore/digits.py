"""What a judge reads in a drawn digit, what generators draw between latents, and in a style asked for."""

from typing import Any, Literal

import torch
from torch import Tensor

from rdfia.explore.pictures import address, map_address
from rdfia.generation.cgan import cGANModule
from rdfia.generation.control import project, psnr
from rdfia.generation.digit_judge import DigitJudge
from rdfia.generation.gan import GANModule
from rdfia.generation.latents import interpolate
from rdfia.interpret.saliency import gradient

# Images of a walk; of a projection what it begins with, among how many random latents, and its steps:
# under 3 seconds on two cores.
FRAMES, TRIES, STARTS, STEPS = 25, 2, 32, 60
MOST_LATENTS = 1000  # that one can walk between


def read(judge: DigitJudge, digit: Tensor) -> dict[str, Any]:
    """Return how likely a judge takes a digit (1, 1, 32, 32) in [0, 1] for each, and by which pixels."""
    with torch.no_grad():
        shares = judge(digit).softmax(1)[0]
    likeliest = shares.argmax()[None]
    return {
        "given": address(digit[0]),
        "shares": shares.tolist(),
        "map": map_address(gradient(judge, digit, likeliest)[0]),
    }


@torch.no_grad()
def walk(gan: GANModule, first: int, second: int) -> dict[str, Any]:
    """Return images between two latents by their numbers: along the arc, or the line of uniform ones."""
    latents = gan.draw(MOST_LATENTS, 8)
    shares = torch.linspace(0, 1, FRAMES)
    how: Literal["linear", "slerp"] = "linear" if gan.latents == "uniform" else "slerp"
    between = interpolate(latents[first], latents[second], shares, how)
    return {"frames": [address(image) for image in gan(between)], "how": how}


def in_style(gan: cGANModule, judge: DigitJudge, digit: Tensor) -> dict[str, Any]:
    """Return all classes in the style of a drawn digit, whose latent is found by gradient.

    Args:
        gan: Of digits.
        judge: Reads which digit it is.
        digit: (1, 1, 32, 32) in [0, 1].
    """
    with torch.no_grad():
        label = judge(digit).argmax(1)
    # What the nearest of random latents becomes depends on them: two are improved.
    latents, squares = project(
        gan, digit.expand(TRIES, -1, -1, -1), [label.expand(TRIES)], starts=STARTS, steps=STEPS
    )
    best = int(squares.argmin())
    with torch.no_grad():
        drawn = gan(latents[best].expand(gan.classes, -1), torch.arange(gan.classes))
    return {
        "given": address(digit[0]),
        "read_as": int(label),
        "nearest": address(drawn[int(label)]),
        "psnr": float(psnr(squares[best])),
        "digits": [address(image) for image in drawn],
    }
