"""The networks of DANN."""

import pytest
import torch

from rdfia.adaptation.dann import DANNModule
from rdfia.adaptation.network import DomainAdversarialNetwork, standardized


def test_the_paper_network_has_the_parameters_of_the_paper():
    network = DomainAdversarialNetwork("paper", batch_norm=False)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert count["features"] == (3 * 25 + 1) * 32 + (32 * 25 + 1) * 48
    assert count["classifier"] == (48 * 7 * 7 + 1) * 100 + 101 * 100 + 101 * 10
    assert count["domain_classifier"] == (48 * 7 * 7 + 1) * 100 + 101
    assert network.extract(torch.rand(2, 3, 28, 28)).shape == (2, 48 * 7 * 7)


def test_standardized_images_do_not_depend_on_contrast_and_brightness():
    images = torch.rand(4, 3, 28, 28)
    same = standardized(images)
    torch.testing.assert_close(standardized(0.5 * images + 0.2), same, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(same.mean((1, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    assert standardized(torch.zeros(1, 3, 28, 28)).abs().max() == 0  # no division by zero


@pytest.mark.parametrize("network", ["paper", "modern"])
def test_scores_do_not_depend_on_the_rest_of_the_batch(network):
    module = DANNModule(network=network).eval()
    images = torch.rand(6, 3, 28, 28)
    torch.testing.assert_close(module(images)[:2], module(images[:2]), rtol=1e-4, atol=1e-5)
