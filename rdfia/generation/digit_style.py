"""Slant and thickness of digits, and whether one latent keeps them over all classes.

A conditional GAN is asked for ten digits with the same noise z. If z means style, the ten are slanted and
drawn alike. `style_correlation` says how much: it compares the moments of digits that share their z.
"""

import torch
from torch import Tensor

from rdfia.generation.cgan import cGANModule


def slant(images: Tensor) -> Tensor:
    """Return how far ink leans right per row upwards, (N,): the shear that would set each digit upright.

    The second central moment across and down over that of the rows (Teague 1980); 0 where there is no ink.

    Args:
        images: (N, 1, H, W) in [0, 1], ink bright.
    """
    ink = images[:, 0].double()
    height, width = ink.shape[1:]
    mass = ink.sum((1, 2)).clamp(min=1e-9)
    y = torch.arange(height, device=ink.device, dtype=ink.dtype)[None, :, None]
    x = torch.arange(width, device=ink.device, dtype=ink.dtype)[None, None, :]
    y = y - ((ink * y).sum((1, 2)) / mass)[:, None, None]
    x = x - ((ink * x).sum((1, 2)) / mass)[:, None, None]
    rows = (ink * y * y).sum((1, 2))
    return -(ink * x * y).sum((1, 2)) / rows.clamp(min=1e-9)


def thickness(images: Tensor) -> Tensor:
    """Return how thick the strokes are in pixels, (N,): twice the area of the ink over its outline.

    Of a bar of width w and length l it is w l / (w + l): the width of long strokes, less of short ones. The
    outline is the total variation of the image, which a blurred edge leaves as it is. 0 without ink.

    Args:
        images: (N, 1, H, W) in [0, 1], ink bright.
    """
    ink = torch.nn.functional.pad(images[:, 0].double(), (1, 1, 1, 1))
    right = ink[:, :-1, 1:] - ink[:, :-1, :-1]
    down = ink[:, 1:, :-1] - ink[:, :-1, :-1]
    outline = (right.square() + down.square()).sqrt().sum((1, 2))
    return 2 * ink.sum((1, 2)) / outline.clamp(min=1e-9)


def style_correlation(moments: Tensor) -> Tensor:
    """Return the mean correlation, over all pairs of classes, of a moment of digits with the same latent.

    Args:
        moments: (Z, K): of the digit of each of K classes made from each of Z latents, Z > 2.

    Returns:
        A scalar in [-1, 1]; about 0 if the latent does not say what the moment is.
    """
    standard = (moments - moments.mean(0)) / moments.std(0, correction=0).clamp(min=1e-12)
    correlations = standard.T @ standard / len(moments)
    classes = moments.shape[1]
    return (correlations.sum() - correlations.diagonal().sum()) / (classes * (classes - 1))


def style_scores(module: cGANModule, count: int = 1000) -> dict[str, float]:
    """Return how far one latent means one style: the correlation of slant and of thickness over the digits.

    Beside each what chance gives: the same digits, each paired with those of other latents.
    """
    scores = {}
    together = module.class_grid(module.draw(count, 6))
    shuffled = torch.stack([together[digit].roll(digit, 0) for digit in range(10)])
    for moment in (slant, thickness):
        for name, grid in {"": together, "_of_shuffled_pairs": shuffled}.items():
            moments = torch.stack([moment(row) for row in grid], 1)
            scores[f"{moment.__name__}_correlation{name}"] = float(style_correlation(moments))
    return scores
