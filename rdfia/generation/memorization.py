"""Did a generator learn pictures by heart? Distances of its samples to the nearest training images.

A sample near a training image is no copy yet: real images that were not trained on have near ones too. So
samples are compared with test images (Webster et al., "Detecting Overfitting of Deep Generative Networks via
Latent Recovery", CVPR 2019, and Meehan et al., "A Non-Parametric Test to Detect Data-Copying in Generative
Models", AISTATS 2020, do so, too).
"""

from collections.abc import Iterable

import torch
from torch import Tensor

SMALLEST = 0.05  # of the test images' distances: as near come so many of them


def nearest(features: Tensor, others: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the distance of each to its nearest among others, and which that is, (N,) and (N,).

    Args:
        features: (N, D).
        others: Parts (M, D), looked at one after another.

    Raises:
        ValueError: There are no others.
    """
    distance = torch.full((len(features),), torch.inf, device=features.device)
    place = torch.full((len(features),), -1, device=features.device)
    start = 0
    for part in others:
        found = torch.cdist(features, part.to(features)).min(1)
        nearer = found.values < distance
        distance = torch.where(nearer, found.values, distance)
        place = torch.where(nearer, found.indices + start, place)
        start += len(part)
    if not start:
        raise ValueError("there are no images to be near to")
    return distance, place


def near_training_share(samples: Tensor, held_out: Tensor) -> float:
    """Return the share of samples that are nearer to a training image than the nearest test images are.

    The 5 % of test images that are nearest to a training image say how near that is, so the share is about
    0.05 for a generator that draws new images, and 1 for one that draws its training images.

    Args:
        samples: Distances (N,) to the nearest training image.
        held_out: Those of test images (M,).
    """
    # As near counts, too: where test images are copies of training images, that is no distance at all.
    return float((samples <= torch.quantile(held_out.float(), SMALLEST)).double().mean())
