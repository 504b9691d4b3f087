"""What real images score against others: the floor, below which no generator is expected to come."""

from collections.abc import Callable, Sequence

import torch

from datamodules.tensors import ImageTensors
from rdfia.generation.sampled_features import SampledFeatures


def evenly(length: int, count: int, *, first: bool = False) -> Sequence[int]:
    """Return ``count`` rows of ``length``: spread evenly, as a folder's images are ordered by class.

    Args:
        length: Rows there are.
        count: At most as many.
        first: Take the first ones instead, for data whose order says nothing.
    """
    return range(count) if first else [row * length // count for row in range(count)]


def floor_of(
    training: ImageTensors,
    real: ImageTensors,
    count: int,
    kind: Callable[..., SampledFeatures],
    device: torch.device,
    *,
    first: bool = False,
) -> dict[str, float]:
    """Return the scores of ``count`` training images in place of generated ones, see `evenly`.

    Args:
        training: The images that a generator learns from.
        real: Those that it is scored against.
        count: Of both.
        kind: Makes the scores.
        device: Where they are computed.
        first: See `evenly`.
    """
    scores = kind(sync_on_compute=False).to(device)
    for data, are_real in ((training, False), (real, True)):
        for rows in torch.tensor(evenly(len(data), count, first=first)).split(500):
            scores.update(data[rows][0].to(device), real=are_real)
    return {name: float(value) for name, value in scores.compute().items()}
