import math

import pytest
import torch

from rdfia.adaptation.embeddings import proxy_a_distance, sample, tsne


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 10, 40])
def test_tsne_takes_any_number_of_samples(count):
    places = tsne(torch.randn(count, 8))
    assert places.shape == (count, 2)
    assert places.isfinite().all()


def test_tsne_takes_what_does_not_vary():
    assert tsne(torch.ones(12, 5)).isfinite().all()
    assert tsne(torch.randn(12, 1)).isfinite().all()


def test_tsne_is_seeded_and_keeps_clusters_apart():
    features = torch.cat([torch.randn(40, 6), torch.randn(40, 6) + 20])
    places = tsne(features, seed=3)
    assert torch.equal(places, tsne(features, seed=3))
    first, second = places[:40], places[40:]
    within = torch.cdist(first, first.mean(0, keepdim=True)).max()
    assert torch.cdist(second, first.mean(0, keepdim=True)).min() > within


def test_tsne_names_features_that_are_no_numbers():
    with pytest.raises(ValueError, match="finite features"):
        tsne(torch.tensor([[1.0], [torch.nan], [2.0]]))


def test_the_a_distance_of_two_gaussians_is_that_of_the_bayes_error():
    generator = torch.Generator().manual_seed(0)
    for shift in (0.0, 1.0, 2.0):
        source, target = torch.randn(2, 20_000, 1, generator=generator)
        error = 0.5 * (1 - math.erf(shift / 2 / math.sqrt(2)))
        found = proxy_a_distance(source, target + shift)
        assert found == pytest.approx(2 * (1 - 2 * error), abs=0.05)


def test_domains_of_different_sizes_count_the_same():
    assert proxy_a_distance(torch.randn(40, 3), torch.randn(800, 3) + 30) == pytest.approx(2)
    assert abs(proxy_a_distance(torch.randn(100, 3), torch.randn(2000, 3))) < 0.3
    assert math.isnan(proxy_a_distance(torch.tensor([[1.0], [torch.nan]]), torch.randn(2, 1)))
    with pytest.raises(ValueError, match="two images of each domain, got 1 and 5"):
        proxy_a_distance(torch.randn(1, 3), torch.randn(5, 3))


def test_a_sample_has_no_repetitions():
    assert sorted(sample(10, 99).tolist()) == list(range(10))
    assert len(set(sample(1000, 50).tolist())) == 50
    assert torch.equal(sample(1000, 50, 1), sample(1000, 50, 1))
    assert not torch.equal(sample(1000, 50, 1), sample(1000, 50, 2))
