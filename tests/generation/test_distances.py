"""Distances between sets of features: by hand, and beside other libraries."""

import numpy as np
import pytest
import torch
from scipy import linalg
from sklearn.neighbors import NearestNeighbors

from rdfia.generation.distances import (
    density_coverage,
    frechet_distance,
    frechet_of_moments,
    kernel_distance,
    precision_recall,
)


def test_frechet_distance_of_equal_covariances_is_the_distance_of_means():
    features = torch.randn(500, 5)
    shift = torch.tensor([3.0, 4.0, 0, 0, 0])
    assert frechet_distance(features, features).item() == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features, features + shift).item() == pytest.approx(25, rel=1e-5)


def test_frechet_distance_agrees_with_scipys_matrix_root():
    generator = np.random.default_rng(0)
    a = generator.normal(size=(300, 6)) @ generator.normal(size=(6, 6))
    b = generator.normal(size=(200, 6)) @ generator.normal(size=(6, 6)) + 1
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    found = frechet_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_features_that_span_no_space():
    features = torch.randn(50, 4) * torch.tensor([1.0, 1, 0, 0])  # singular covariance
    assert frechet_distance(features, 2 * features).item() > 0
    assert frechet_distance(features, features).item() == pytest.approx(0, abs=1e-9)


def test_precision_and_recall_agree_with_scikit_learns_neighbours():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(300, 4, generator=generator)
    generated = 0.7 * torch.randn(200, 4, generator=generator) + 0.5

    def share(points, centres):
        radii = NearestNeighbors(n_neighbors=4).fit(centres).kneighbors(centres)[0][:, 3]
        distances = torch.cdist(points.double(), centres.double()).numpy()
        return (distances <= radii).any(1).mean()

    precision, recall = precision_recall(real, generated)
    assert precision.item() == pytest.approx(share(generated, real), abs=0.01)
    assert recall.item() == pytest.approx(share(real, generated), abs=0.01)


def test_precision_and_recall_by_hand():
    line = torch.arange(10.0)[:, None]
    # the 3rd neighbour of an end is 3 away, of an inner point 2: balls cover [-3, 12]
    assert [value.item() for value in precision_recall(line, line)] == [1, 1]
    far = line + 100
    assert [value.item() for value in precision_recall(line, far)] == [0, 0]
    one_place = torch.linspace(4.4, 4.6, 10)[:, None]
    precision, recall = precision_recall(line, one_place)
    assert precision == 1  # all of them among the real ones
    assert recall == 0  # but no real one among them: no mode is covered


def test_features_that_are_not_finite_have_no_distance():
    assert torch.isnan(frechet_distance(torch.full((9, 3), torch.nan), torch.randn(9, 3)))


def test_moments_give_the_distance_of_their_features():
    a, b = torch.randn(40, 5).double(), 1 + 2 * torch.randn(30, 5).double()
    moments = (a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))
    assert frechet_of_moments(*moments).item() == pytest.approx(frechet_distance(a, b).item(), rel=1e-12)
    assert torch.isnan(frechet_of_moments(*moments[:3], moments[3] * torch.inf))


def test_kernel_distance_by_hand_and_written_out():
    # One dimension, kernel (x y + 1)^3: pairs of 0 and 1 have 1, of 2 and 3 have 343; the rest 1, 1, 27, 64.
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    assert kernel_distance(a, b).item() == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)
    x, y = torch.randn(60, 8).double(), torch.randn(60, 8).double() + 0.5
    kernels = [(u @ v.T / 8 + 1) ** 3 for u, v in ((x, x), (x, y), (y, y))]
    assert kernel_distance(x, y).item() == pytest.approx(mmd(*kernels))
    assert abs(kernel_distance(x[:30], x[30:]).item()) < kernel_distance(x, y).item()


def mmd(k_xx, k_xy, k_yy):
    """Return the unbiased squared maximum mean discrepancy, written out."""
    count = len(k_xx)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    same = sum((k_xx[i, j] + k_yy[i, j]).item() for i, j in pairs) / (count * (count - 1))
    return same - 2 * k_xy.mean().item()


def test_kernel_distance_is_the_mean_over_random_subsets():
    x, y = torch.randn(300, 4), torch.randn(250, 4) + 1
    whole = kernel_distance(x[:250], y, size=250).item()
    parts = [kernel_distance(x, y, size=50, seed=seed).item() for seed in (0, 1)]
    assert parts[0] != parts[1]
    assert parts == pytest.approx([whole, whole], rel=0.2)
    assert kernel_distance(x, y, size=50) == kernel_distance(x, y, size=50)


def test_density_and_coverage_by_hand():
    line = torch.arange(10.0)[:, None]
    # The 5th neighbour of an end is 5 away, of inner ones 4 or 3; a ball has no edge.
    density, coverage = density_coverage(line, line)
    radii = [5, 4, 3, 3, 3, 3, 3, 3, 4, 5]
    inside = sum(abs(a - b) < radii[b] for a in range(10) for b in range(10))
    assert density.item() == pytest.approx(inside / 50)
    assert coverage == 1
    density, coverage = density_coverage(line, torch.full((20, 1), 4.4))
    assert density.item() == pytest.approx(sum(abs(4.4 - b) < radii[b] for b in range(10)) / 5)
    assert coverage.item() == pytest.approx(sum(abs(4.4 - b) < radii[b] for b in range(10)) / 10)
    assert [value.item() for value in density_coverage(line, line + 100)] == [0, 0]
