"""The networks of DANN."""

import lightning
import pytest
import torch
from torch import nn

from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule
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


def own_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Sequential(nn.AvgPool2d(4))
    )


def test_a_network_of_ones_own_is_handed_in(tmp_path):
    """It trains, keeps statistics of each domain, and its checkpoint is loaded with such a network again."""
    module = DANNModule(network=own_network(), dropout=0.0)
    assert module.network.classifier[0].in_features == 6 * 3 * 3
    digits = MNISTToMNISTMDataModule("sample", batch_size=32)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=3,
        limit_val_batches=1,
        **quiet,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, digits)
    norm = module.network.features[0][1]
    assert norm.source_seen
    assert (norm.source_mean - norm.running_mean).abs().max() > 1e-3  # digits on black, digits on photographs
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    again = DANNModule.load_from_checkpoint(tmp_path / "own.ckpt", network=own_network(), weights_only=True)
    images = torch.rand(4, 3, 28, 28)
    assert torch.equal(module.eval()(images), again.eval()(images))


def test_a_network_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"does not take images \(B, 3, 28, 28\)"):
        DANNModule(network=nn.Conv2d(1, 4, 3))
    with pytest.raises(ValueError, match="BatchNorm 1 is without weights or running statistics"):
        DANNModule(network=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)))
    with pytest.raises(
        ValueError,
        match=r"network is paper, modern, or a backbone and its layer .*; got 'papre'",
    ):
        DANNModule(network="papre")
