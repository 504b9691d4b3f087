"""Distances between two sets of images, by their features (N, D): pure functions.

- `frechet_distance`, `frechet_of_moments`: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule",
  2017.
- `kernel_distance`: Bińkowski et al., "Demystifying MMD GANs", ICLR 2018 (KID).
- `precision_recall`: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative
  Models", 2019.
- `density_coverage`: Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", ICML
  2020.
"""

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 256  # rows of distances, which bounds their memory


def frechet_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Fréchet distance between Gaussians fitted to two sets of features.

    ``|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2))``, in float64.

    Args:
        a: Features (N, D), N >= 2.
        b: Features (M, D), M >= 2.

    Returns:
        A scalar; nan if a feature is not finite.
    """

    def moments(features: Tensor) -> tuple[Tensor, Tensor]:
        exact = features.double()
        return exact.mean(0), torch.cov(exact.T)

    return frechet_of_moments(*moments(a), *moments(b))


def frechet_of_moments(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """Return the squared Fréchet distance between Gaussians of means (D,) and covariances (D, D), float64.

    Returns:
        A scalar; nan if a number is not finite, as of a generator that diverged.
    """
    if not all(torch.isfinite(part).all() for part in (mean_a, cov_a, mean_b, cov_b)):
        return torch.tensor(torch.nan)
    # A^(1/2) B A^(1/2) has the eigenvalues of A B but is symmetric, so no complex root is needed.
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = vectors * values.clamp(min=0).sqrt() @ vectors.T
    root_trace = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    means = (mean_a - mean_b).square().sum()
    distance: Tensor = means + cov_a.trace() + cov_b.trace() - 2 * root_trace
    return distance


def kernel_distance(a: Tensor, b: Tensor, *, size: int = 1000, seed: int = 0) -> Tensor:
    """Return the kernel distance: the squared maximum mean discrepancy, unbiased, mean over subsets.

    The kernel is ``(x . y / D + 1)^3``. It may be slightly negative. The subsets are disjoint and drawn at
    random, as many as the smaller set has room for: each image counts once. (Usual are 100 that overlap.)

    Args:
        a: Features (N, D), N >= 2.
        b: Features (M, D), M >= 2.
        size: Of a subset.
        seed: Of what is drawn.

    Returns:
        A scalar float64.
    """
    generator = np.random.default_rng(seed)
    size, dimensions = min(size, len(a), len(b)), a.shape[1]
    subsets = min(len(a), len(b)) // size
    orders = [torch.from_numpy(generator.permutation(len(part))).to(part.device) for part in (a, b)]
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for number in range(subsets):
        rows = slice(number * size, (number + 1) * size)
        x, y = (part[order[rows]].double() for part, order in zip((a, b), orders, strict=True))
        same = torch.zeros_like(total)
        for part in (x, y):
            kernel = (part @ part.T / dimensions + 1) ** 3
            same += (kernel.sum() - kernel.diagonal().sum()) / (size * (size - 1))
        total += same - 2 * ((x @ y.T / dimensions + 1) ** 3).mean()
    return total / subsets


def _share_inside(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Return the share of points (N, D) that lie in at least one ball around centres (M, D)."""
    parts = torch.split(points, AT_ONCE)
    inside = sum((torch.cdist(part, centres) <= radii).any(1).sum() for part in parts)
    return torch.as_tensor(inside).double() / len(points)


def neighbour_radii(points: Tensor, k: int) -> Tensor:
    """Return each point's distance to its k-th nearest other point."""
    radii = torch.empty_like(points[:, 0])  # at once: small pieces would lie between what is freed
    for rows, found in zip(points.split(AT_ONCE), radii.split(AT_ONCE), strict=True):
        # The point itself is among the k + 1 nearest, at distance 0.
        found.copy_(torch.cdist(rows, points).topk(k + 1, largest=False).values[:, -1])
    return radii


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Return improved precision and recall (Kynkäänniemi et al. 2019).

    Precision is the share of generated samples inside the real manifold, recall the share of real samples
    inside the generated one; a manifold is the union of balls that reach to the k-th neighbour.

    Args:
        real: Features (N, D), N > k.
        generated: Features (M, D), M > k.
        k: Which neighbour sets the radius.
    """
    precision = _share_inside(generated, real, neighbour_radii(real, k))
    recall = _share_inside(real, generated, neighbour_radii(generated, k))
    return precision, recall


def density_coverage(real: Tensor, generated: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """Return density and coverage (Naeem et al. 2020).

    Density is the mean number of balls around real samples in which a generated one lies, over k: one odd
    real sample with a large ball does not make it large; about 1 where both are alike. Coverage is the share
    of real samples whose ball holds a generated one.

    Args:
        real: Features (N, D), N > k.
        generated: Features (M, D).
        k: Which neighbour sets the radius.
    """
    radii = neighbour_radii(real, k)
    balls = torch.zeros((), dtype=torch.float64, device=real.device)
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for part in torch.split(generated, AT_ONCE):
        inside = torch.cdist(part, real) < radii
        balls += inside.sum()
        covered |= inside.any(0)
    return balls / (k * len(generated)), covered.double().mean()
