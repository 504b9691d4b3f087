"""Running means of lines."""

from collections.abc import Sequence

import numpy as np


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Return the mean over the neighbours of each value, fewer at either end, so that no end is lost."""
    weights = np.ones(window)
    counts = np.convolve(np.ones(len(values)), weights, mode="same")
    means: np.ndarray = np.convolve(values, weights, mode="same") / counts
    return means


def points_within(x: Sequence[float], width: float) -> int:
    """Return how many points of a line lie within a width of x."""
    apart = (x[-1] - x[0]) / (len(x) - 1) if len(x) > 1 else 0
    return min(int(width / apart), len(x)) if apart > 0 else 1
