"""Features of images as they come, in memory that does not grow with their number."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from rdfia.common.draws import drawn
from rdfia.common.parallel import place
from rdfia.generation.distances import (
    density_coverage,
    frechet_distance,
    frechet_of_moments,
    kernel_distance,
    precision_recall,
)

LEAST = 6  # images on a side: more than the neighbours that are looked at
KEPT = 10_000  # features of real and of generated images, for distances between single images


class Chosen(NamedTuple):
    """Which rows (N,) of a batch are kept, and in which places (N,), rising; those past the end are new."""

    rows: Tensor
    places: Tensor


class SampledFeatures(Metric):
    """Features (N, D) of real and of generated images: moments of all, and `KEPT` of them.

    Which are kept is drawn, all with the same chance, as folders come class by class.

    `distances` are, of all images, the Fréchet distance, named `fid`; of those that are kept ``kid``,
    ``precision``, ``recall``, ``density`` and ``coverage`` (see `rdfia.generation.distances`).

    Args:
        dimensions: D.
        sync_on_compute: Gather what all processes have seen.
    """

    full_state_update = False
    fid = "fid"
    """Name of the score that a training is watched by."""
    real_count: Tensor
    generated_count: Tensor

    def __init__(self, dimensions: int, *, sync_on_compute: bool = True) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        shapes = {"count": (), "total": (dimensions,), "products": (dimensions, dimensions)}
        for side in ("real", "generated"):
            for name, shape in shapes.items():
                zeros = torch.zeros(shape, dtype=torch.float64)
                self.add_state(f"{side}_{name}", zeros, dist_reduce_fx="sum")
            self.add_state(f"{side}_kept", [], dist_reduce_fx="cat")
        self.seen = {"real": 0, "generated": 0}  # of this process

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.seen = dict.fromkeys(self.seen, 0)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> "SampledFeatures":
        def moved(tensor: Tensor) -> Tensor:  # moments stay in float64, whatever the training's precision
            found = fn(tensor)
            return found if found.dtype == tensor.dtype else tensor.to(found.device)

        super()._apply(moved, exclude_state)
        return self

    def add(self, features: Tensor, *, real: bool) -> Chosen:
        """Add features (B, D) of real or of generated images; return which of them are kept."""
        side, exact = "real" if real else "generated", features.double()
        sums = {"count": len(features), "total": exact.sum(0), "products": exact.T @ exact}
        for name, value in sums.items():
            setattr(self, f"{side}_{name}", getattr(self, f"{side}_{name}") + value)
        chosen = self._choose(side, len(features))
        self.keep(f"{side}_kept", features, chosen)
        return chosen

    def _choose(self, side: str, count: int) -> Chosen:
        """Draw which of the next images are kept, and whose places they take (Vitter 1985, algorithm R)."""
        most = math.ceil(KEPT / (place()[1] if self.sync_on_compute else 1))
        first = self.seen[side]
        self.seen[side] += count
        places = torch.arange(first, first + count)
        if first + count > most:
            chance = drawn(count, 1, (first, int(side == "real")))[:, 0]
            places = torch.where(places < most, places, (chance * (places + 1)).long())
        # Of several for one place the last stays.
        row_of = {at: row for row, at in enumerate(places.tolist()) if at < most}
        taken = torch.tensor(sorted(row_of), dtype=torch.long)
        return Chosen(torch.tensor([row_of[at] for at in taken.tolist()], dtype=torch.long), taken)

    def keep(self, state: str, values: Tensor, chosen: Chosen) -> None:
        """Keep some of a batch's values (B, ...) in a state that is a list."""
        kept: list[Tensor] = getattr(self, state)
        known = sum(len(part) for part in kept)
        new = chosen.places >= known
        if not new.all():
            kept[:] = [torch.cat(kept)]
            old = ~new
            kept[0][chosen.places[old].to(values.device)] = values[chosen.rows[old].to(values.device)]
        if new.any():
            kept.append(values[chosen.rows[new].to(values.device)])

    def kept(self, side: str) -> Tensor:
        """Return the features that were kept of ``real`` or of ``generated`` images."""
        return dim_zero_cat(getattr(self, f"{side}_kept"))

    def moments(self, side: str) -> tuple[Tensor, Tensor]:
        """Return mean (D,) and covariance (D, D) of all ``real`` or ``generated`` images, float64."""
        count, total = getattr(self, f"{side}_count"), getattr(self, f"{side}_total")
        mean = total / count
        spread = getattr(self, f"{side}_products") - count * torch.outer(mean, mean)
        return mean, spread / (count - 1)

    def distances(self) -> dict[str, Tensor]:
        """Return the distances as scalars, nan with fewer than `LEAST` images on a side, and the counts."""
        real, generated = self.kept("real"), self.kept("generated")
        counts = {"n_real": self.real_count, "n_generated": self.generated_count}
        names = (self.fid, "kid", "precision", "recall", "density", "coverage")
        scores = dict.fromkeys(names, torch.tensor(torch.nan))
        if min(len(real), len(generated)) >= LEAST:
            if len(real) == self.real_count and len(generated) == self.generated_count:
                fid = frechet_distance(real, generated)
            else:
                fid = frechet_of_moments(*self.moments("real"), *self.moments("generated"))
            of_pairs = (*precision_recall(real, generated), *density_coverage(real, generated))
            values = (fid, kernel_distance(real, generated), *of_pairs)
            scores = dict(zip(names, values, strict=True))
        return scores | counts
