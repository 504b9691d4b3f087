"""Random numbers without state: what is drawn depends on a key, such as a seed and the number of a step.

A resumed run draws what the uninterrupted one would have drawn.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def keyed_generator(key: Iterable[int]) -> torch.Generator:
    """Return torch's CPU generator, begun as a key of non-negative integers says."""
    # It uses 32 bits of a seed; SeedSequence mixes all of the key into them.
    return torch.Generator().manual_seed(int(np.random.SeedSequence(list(key)).generate_state(1)[0]))


def drawn(count: int, columns: int, key: Iterable[int], *, rank: int = 0, world_size: int = 1) -> Tensor:
    """Return numbers in [0, 1), (count, columns) float64: this process's rows of those of all processes."""
    numbers = np.random.default_rng(list(key)).uniform(size=(count * world_size, columns))
    return torch.from_numpy(numbers[rank::world_size])
