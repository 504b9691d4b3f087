"""What real images score against others: the floor, below which no generator is expected to come."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from datamodules.files import say
from datamodules.tensors import ImageTensors
from rdfia.generation.digit_judge import FIRST_JUDGED
from rdfia.generation.sampled_features import LEAST, SampledFeatures


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


def said_of_few(against: int, watched: int, distance: str) -> list[str]:
    """Say of which images there are too few to score; return what was said.

    Args:
        against: Number of images that are scored against.
        watched: Number of images of validation.
        distance: Name of the distance that is logged in training.
    """
    said = []
    if against < LEAST:
        said.append(f"{against} images to score against are too few, scores need {LEAST}: they are nan")
    if watched < LEAST:
        said.append(
            f"{watched} images to validate with are too few, {LEAST} are needed: val/{distance} is nan"
        )
    for one in said:
        say(one)
    return said


def note_on_scores(kind: str, count: int, data: Mapping[str, Any], *, held_out: bool, first: bool) -> str:
    """Return what the judge-FID and its floor are of.

    Args:
        kind: Of the digits that are scored against.
        count: How many the floor is of.
        data: Description of the data; the judge was trained on MNIST's.
        held_out: They are the last of the training set.
        first: The floor is of the first ones, in place of some spread evenly.
    """
    judged_at_all = data["name"] == "MNIST"
    judged = max(0, count - FIRST_JUDGED) if judged_at_all else 0
    # Held-out digits are the last of the training set, which trained the judge; the GAN has not seen them.
    known = " (all of which trained the judge)" if held_out and judged_at_all else ""
    return (
        f"judge-FID uses the features of rdfia's digit judge, against {kind}{known}; the floor is what the "
        f"{'first ' if first else ''}{count:,} training digits get against as many of these"
        f"{'' if first else ', spread evenly'}, of which {judged:,} trained the judge"
    )
