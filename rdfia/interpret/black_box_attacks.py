"""Attacks that see the logits of a network and no gradient.

Su et al., "One Pixel Attack for Fooling Deep Neural Networks", 2019; Williams & Li, "Art-Attack:
Black-Box Adversarial Attack via Evolutionary Art", 2022. They judge as `rdfia.interpret.adversarial` does.
"""

from contextlib import suppress

import numpy as np
import torch
from scipy import optimize
from torch import Tensor, nn

from rdfia.common.checks import Classes
from rdfia.common.draws import keyed_generator
from rdfia.common.exact import exact
from rdfia.common.progress import Teller, progress
from rdfia.interpret.attack_results import Attacked, judge, prepared, rounded
from rdfia.interpret.classifier import Ask, frozen_eval


def _misses(logits: Tensor, label: int, target: int | None) -> tuple[Tensor, Tensor]:
    """Return how far candidates (S, K) are from fooling, less than 0 where they do, and whether they do."""
    asked = label if target is None else target
    others = logits.clone()
    others[:, asked] = -torch.inf
    margin = logits[:, asked] - others.amax(1)
    return (margin, logits.argmax(1) != label) if target is None else (-margin, logits.argmax(1) == target)


@torch.no_grad()
@exact()
def few_pixels(
    model: nn.Module,
    images: Tensor,
    labels: Classes,
    *,
    pixels: int = 1,
    population: int = 400,
    iterations: int = 100,
    targets: Classes | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Attacked:
    """Change a few pixels, found by differential evolution from the logits alone.

    They become black, white or pure colours: with all colours to choose from, the search took longer.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the true classes.
        pixels: That may change.
        population: Candidates of a generation, which go through the model together.
        iterations: Generations after the first.
        targets: (B,), the classes that shall win; by default any wrong one will do.
        seed: Of the evolution.
        batch_size: Candidates that go through the model at once, which bounds the memory; by default 32 on a
            CPU, where more do not stay in its caches, and 512 on a GPU.
    """
    labels, wanted = prepared(model, images, labels, targets)
    if batch_size is None:
        batch_size = 32 if images.device.type == "cpu" else 512
    changed, queries = images.clone(), torch.zeros_like(labels)
    with frozen_eval(model) as ask:
        for number, image in enumerate(progress(images, "pixels")):
            search = _PixelSearch(
                ask,
                image,
                int(labels[number]),
                None if wanted is None else int(wanted[number]),
                pixels,
                batch_size,
            )
            generator = np.random.default_rng([seed, number])
            size = pixels * (2 + len(image))
            with suppress(_Found):
                search.best = optimize.differential_evolution(
                    search,
                    [(0, 1)] * size,
                    strategy="rand1bin",
                    mutation=0.5,
                    recombination=1.0,
                    init=generator.uniform(size=(population, size)),
                    maxiter=iterations,
                    tol=0,
                    polish=False,
                    vectorized=True,
                    updating="deferred",
                    rng=generator,
                ).x
            changed[number] = search.painted(search.best)[0]
            queries[number] = search.queries
    return judge(model, images, changed, labels, wanted, queries=queries, batch_size=batch_size)


class _Found(Exception):  # noqa: N818 - no error: a candidate fools
    """Ends an evolution."""


class _PixelSearch:
    """What differential evolution minimises for one image, until a candidate fools, which is kept."""

    def __init__(
        self, ask: Ask, image: Tensor, label: int, target: int | None, pixels: int, batch_size: int
    ) -> None:
        self.ask, self.image, self.label, self.target = ask, rounded(image), label, target
        self.pixels, self.batch_size = pixels, batch_size
        self.queries, self.said = 0, Teller("pixels, queries for one image")
        self.best: np.ndarray = np.zeros(0)

    def painted(self, candidates: np.ndarray) -> Tensor:
        """Return images (S, C, H, W), rounded, of candidates (S, pixels x (2 + C)) in [0, 1].

        Those are positions and colours, of which each channel is 0 or 1: nothing changes an image more.
        """
        channels, height, width = self.image.shape
        found = torch.from_numpy(np.atleast_2d(candidates)).to(self.image)
        found = found.reshape(len(found), self.pixels, 2 + channels)
        rows = (found[:, :, 0] * height).long().clamp(max=height - 1)
        columns = (found[:, :, 1] * width).long().clamp(max=width - 1)
        shown, indices = self.image.repeat(len(found), 1, 1, 1), torch.arange(len(found))
        for pixel in range(self.pixels):
            shown[indices, :, rows[:, pixel], columns[:, pixel]] = (found[:, pixel, 2:] > 0.5).to(shown)
        return shown

    def __call__(self, candidates: np.ndarray) -> np.ndarray:
        """Return how far candidates (parameters, S) are from fooling, (S,)."""
        parts = np.array_split(candidates.T, -(-candidates.shape[1] // self.batch_size))
        logits = torch.cat([self.ask(self.painted(part)) for part in parts])
        misses, hit = _misses(logits, self.label, self.target)
        self.queries += len(logits)
        self.said.tell(self.queries)
        if hit.any():
            self.best = candidates.T[int(hit.nonzero()[0, 0])]
            raise _Found
        return misses.double().cpu().numpy()


@torch.no_grad()
@exact()
def shapes(
    model: nn.Module,
    images: Tensor,
    labels: Classes,
    *,
    count: int = 50,
    opacity: float = 0.2,
    radius: float = 0.2,
    generations: int = 200,
    candidates: int = 32,
    targets: Classes | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> Attacked:
    """Draw transparent discs over an image, evolved from the logits alone.

    In each generation one disc of the best drawing so far is drawn again in some ways, and the best way is
    kept if it is better. What lies under that disc and what lies over it are each computed once.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,), the true classes.
        count: Discs.
        opacity: Of a disc, at most.
        radius: Of a disc, at most, in widths of the image.
        generations: Where it gives up.
        candidates: Ways to redraw a disc, which go through the model together.
        targets: (B,), the classes that shall win; by default any wrong one will do.
        seed: Of the evolution.
        batch_size: Images that go through the model at once when they are judged.
    """
    labels, wanted = prepared(model, images, labels, targets)
    changed, queries = images.clone(), torch.zeros_like(labels)
    channels, height, width = images.shape[1:]
    y = (torch.arange(height, device=images.device) + 0.5)[:, None] / height
    x = (torch.arange(width, device=images.device) + 0.5)[None] / width

    def disc(genes: Tensor) -> tuple[Tensor, Tensor]:
        """Return opacities (S, 1, H, W) and colours (S, C, 1, 1) of genes (S, 4 + C) in [0, 1]."""
        row, column, size, strength = (gene[:, None, None] for gene in genes[:, :4].T)
        inside = (y - row).square() + (x - column).square() <= (radius * size).square()
        return (opacity * strength * inside)[:, None], genes[:, 4:, None, None]

    with frozen_eval(model) as ask:
        for number, image in enumerate(progress(images, "shapes")):
            label, target = int(labels[number]), None if wanted is None else int(wanted[number])
            generator = keyed_generator([seed, number])
            genes = torch.rand(count, 4 + channels, generator=generator).to(image)
            genes[:, 3] = 0  # nothing is seen at first
            queries[number] += 1
            best, hit = _misses(ask(rounded(image[None])), label, target)
            for generation in progress(
                range(generations), f"shapes, image {number + 1}, generations at most"
            ):
                # Strong and weak changes: what is found early is far off, what is found late is near.
                chosen = generation % count
                spread = torch.rand(candidates, 1, generator=generator).to(image)
                offset = torch.randn(candidates, 4 + channels, generator=generator).to(image)
                tried = (genes[chosen] + spread * offset).clamp(0, 1)
                opacities, colours = disc(genes)
                under, seen_through, over = image, torch.ones_like(image[:1]), torch.zeros_like(image)
                for own, colour in zip(opacities[:chosen], colours[:chosen], strict=True):
                    under = torch.lerp(under, colour.expand_as(under), own)
                for own, colour in zip(opacities[chosen + 1 :], colours[chosen + 1 :], strict=True):
                    seen_through = seen_through * (1 - own)
                    over = torch.lerp(over, colour.expand_as(over), own)
                own, colour = disc(tried)
                shown = seen_through * (under + own * (colour - under)) + over
                misses, hit = _misses(ask(rounded(shown)), label, target)
                queries[number] += candidates
                place = int(hit.double().argmax()) if hit.any() else int(misses.argmin())
                if hit.any() or misses[place] < best:
                    best, genes[chosen], changed[number] = misses[place], tried[place], shown[place]
                if hit.any():
                    break
    return judge(model, images, changed, labels, wanted, queries=queries, batch_size=batch_size)
