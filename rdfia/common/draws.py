"""Random numbers without state: what is drawn depends on a key, such as a seed and the number of a step.

A resumed run draws what the uninterrupted one would have drawn.
"""

from collections.abc import Callable, Iterable
from typing import Any

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


class Ahead:
    """Numbers of the next steps, drawn together and copied to the device at once: each copy makes it wait.

    Args:
        draw: Returns the numbers of one step, a tensor on the CPU, given B and the step's key.
        steps: How many are drawn together.
    """

    def __init__(self, draw: Callable[..., Tensor], steps: int = 50) -> None:
        self.draw, self.steps = draw, steps
        self.asked: tuple[Any, ...] = ()
        self.first, self.block = 0, torch.empty(0)

    def at(self, device: torch.device, count: int, *key: int) -> Tensor:
        """Return ``draw(count, *key)`` on the device; the last number of the key counts steps."""
        *of_all, step = key
        asked = (device, count, *of_all)
        place = step - self.first if self.asked == asked else -1
        if not 0 <= place < len(self.block):
            block = torch.stack([self.draw(count, *of_all, step + later) for later in range(self.steps)])
            if device.type == "cuda":
                block = block.pin_memory()
            self.block, self.first, place = block.to(device, non_blocking=True), step, 0
            self.asked = asked
        return self.block[place]
