"""Control over what a trained GAN draws: which latents make an image, and what a change of them changes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rdfia.generation.samples import MakesSamples


def _images(gan: MakesSamples, latents: Tensor, condition: Sequence[Tensor]) -> Tensor:
    parts = (part.split(100) for part in (latents, *condition))
    return torch.cat([gan(*inputs) for inputs in zip(*parts, strict=True)])


def first_maps(gan: MakesSamples, latents: Tensor, condition: Sequence[Tensor] = ()) -> Tensor:
    """Return what the generator's first layer makes of latents (N, latent_dim), (N, maps x 16)."""
    found: list[Tensor] = []
    first: torch.nn.Module = gan.average_generator.first  # type: ignore[assignment]
    hook = first.register_forward_hook(lambda layer, inputs, output: found.append(output.flatten(1)))
    try:
        _images(gan, latents, condition)
    finally:
        hook.remove()
    return torch.cat(found).float()


@torch.no_grad()
def directions(
    gan: MakesSamples, count: int, condition: Sequence[Tensor] = (), *, samples: int = 2000
) -> tuple[Tensor, Tensor]:
    """Return directions of latents along which most changes, and the share of the variance of each.

    Härkönen et al., "GANSpace: Discovering Interpretable GAN Controls", NeurIPS 2020: the principal
    components of what the first layer makes of random latents, brought back to latents by least squares.

    Args:
        gan: Trained.
        count: Of the directions.
        condition: What all samples are asked for, such as their labels (samples,).
        samples: Latents that are looked at.

    Returns:
        (count, latent_dim), each of the length by which latents differ along it (one standard deviation of
        the component); and (count,).
    """
    latents = gan.draw(samples, 11)
    maps = first_maps(gan, latents, condition).cpu()
    centred = maps - maps.mean(0)
    _, values, components = torch.linalg.svd(centred, full_matrices=False)
    scores = centred @ components[:count].T
    scores = scores / scores.std(0).clamp(min=1e-12)
    # Latents as a linear function of the standardised components.
    found = torch.linalg.lstsq(scores, latents.cpu().float() - latents.cpu().float().mean(0)).solution
    shares = values.square() / values.square().sum().clamp(min=1e-30)
    return found, shares[:count]


@torch.no_grad()
def along(
    gan: MakesSamples, start: Tensor, direction: Tensor, steps: int, condition: Sequence[Tensor] = ()
) -> Tensor:
    """Return images (steps, C, H, W) from a latent, minus to plus three times a direction.

    Args:
        gan: Trained.
        start: (latent_dim,).
        direction: (latent_dim,), see `directions`.
        steps: Images.
        condition: What each is asked for, such as labels (steps,).
    """
    reach = torch.linspace(-3, 3, steps)[:, None]
    latents = start.cpu() + reach * direction.cpu()
    latents = latents.clamp(-1, 1) if gan.latents == "uniform" else latents
    return _images(gan, latents, condition).cpu()


@torch.no_grad()
def mixed(
    gan: MakesSamples, first: Tensor, second: Tensor, condition: Sequence[Tensor] = ()
) -> tuple[Tensor, int]:
    """Return images whose group is that of one latent and whose style that of another, and how many choose.

    With `rdfia.generation.clusters` the first numbers of a latent choose its group. Without groups it is the
    first half of the numbers that is taken from ``first``: a plain DCGAN has no place for style alone.

    Args:
        gan: Trained.
        first: (N, latent_dim), whose group is kept.
        second: (M, latent_dim), whose other numbers are taken.
        condition: Asked for, (N * M,) each.

    Returns:
        (N * M, C, H, W), a row for each of first; and the count of numbers that are taken from first.

    Raises:
        ValueError: All numbers choose the group.
    """
    choosing = gan.groups.count if gan.groups else first.shape[1] // 2
    if choosing == first.shape[1]:
        raise ValueError(f"all {choosing} numbers of a latent choose its group: there is no style to mix")
    kept = first[:, :choosing].repeat_interleave(len(second), 0)
    taken = second[:, choosing:].repeat(len(first), 1)
    return _images(gan, torch.cat([kept, taken], 1), condition).cpu(), choosing


def project(
    gan: MakesSamples,
    images: Tensor,
    condition: Sequence[Tensor] = (),
    *,
    features: Callable[[Tensor], Tensor] | None = None,
    starts: int = 8,
    steps: int = 200,
    rate: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Return the latents whose images are nearest to given ones, found by gradient, and how near.

    Minimises the squared difference of pixels, and that of features if there are any (Zhu et al.,
    "Generative Visual Manipulation on the Natural Image Manifold", ECCV 2016). Each image begins at the
    nearest of some random latents, so that few end in a bad place. Latents are at most as long as drawn ones
    are on average: after each step those that are longer are shortened.

    Args:
        gan: Trained.
        images: (N, C, H, W) in [0, 1].
        condition: Asked for, (N,) each.
        features: Maps images to (N, D); None for pixels alone.
        starts: Random latents for each image, of which the nearest is taken.
        steps: Of Adam.
        rate: Of Adam.

    Returns:
        Latents (N, latent_dim), and the mean squared difference of pixels (N,).
    """
    wanted = images.to(gan.device)
    of_wanted = None if features is None else features(wanted).detach()

    def distances(made: Tensor) -> Tensor:
        far = (made - wanted).square().mean((1, 2, 3))
        if features is not None and of_wanted is not None:
            scale = of_wanted.square().mean(1).clamp(min=1e-12)
            far = far + 0.1 * (features(made) - of_wanted).square().mean(1) / scale
        return far

    def bound(latents: Tensor) -> Tensor:
        if gan.latents == "uniform":
            return latents.clamp(-1, 1)
        longer: Tensor = latents.norm(dim=1, keepdim=True) / gan.latent_dim**0.5
        return latents / longer.clamp(min=1)

    with torch.no_grad():
        tried = [gan.draw(len(images), 13, start).to(gan.device) for start in range(starts)]
        far = torch.stack([distances(gan(latents, *condition)) for latents in tried])
        latents = torch.stack(tried)[far.argmin(0), torch.arange(len(images), device=gan.device)]
    latents = bound(latents).clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], rate)
    best, nearest = latents.detach().clone(), torch.full((len(images),), torch.inf, device=gan.device)
    with torch.enable_grad():
        for _ in range(steps):
            far = distances(gan(latents, *condition))
            nearer = far.detach() < nearest
            nearest = torch.where(nearer, far.detach(), nearest)
            best = torch.where(nearer[:, None], latents.detach(), best)
            optimizer.zero_grad()
            (gradient,) = torch.autograd.grad(far.sum(), latents)
            latents.grad = gradient
            optimizer.step()
            # Here, not before the network: beyond the ball no gradient would lead back into it.
            latents.data = bound(latents.data)
    with torch.no_grad():
        pixels = (gan(best, *condition) - wanted).square().mean((1, 2, 3))
    return best.cpu(), pixels.cpu()


def psnr(squares: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in decibels of mean squared differences of images in [0, 1]."""
    return -10 * squares.clamp(min=1e-12).log10()
