"""Pretrained networks as features: what is trained, at which rate, and what a checkpoint holds of them."""

import copy

import pytest
import torch
from conftest import quiet_trainer
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from rdfia.adaptation.dann import DANNModule
from rdfia.adaptation.methods import METHODS, module_of
from rdfia.adaptation.trunk import Trunk, _frozen
from rdfia.common.backbones import load_backbone

FLAGS = {
    "network": "squeezenet1_1/fire9",
    "image_size": 64,
    "classes": 4,
    "domain_width": 8,
    "ema_decay": 0.0,
}
IMAGES = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 4
BATCHES = DataLoader([{"source": (IMAGES, LABELS), "target": IMAGES}] * 2, batch_size=None)


def test_features_are_the_means_of_the_layers_maps_and_may_be_given_in_place_of_images():
    module = DANNModule(**FLAGS, trunk_trained="none").eval()
    maps = load_backbone("squeezenet1_1").tap(IMAGES, ["fire9"])["fire9"]
    torch.testing.assert_close(module.network.trunk(IMAGES), maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert torch.equal(module(IMAGES), module(module.network.trunk(IMAGES)))
    assert module.network.bottleneck == 256
    assert module.network.scaling == "none"
    with pytest.raises(ValueError, match="the pretrained network makes 512 features, got 100"):
        module(torch.rand(2, 100))
    with pytest.raises(ValueError, match=r"images lie in \[0, 1\]"):
        module(2 * IMAGES)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_takes_features_of_one_view_or_of_several(method):
    module = module_of(method)(**FLAGS, trunk_trained="none")
    for shape in ((6, 512), (6, 3, 512)):
        features = torch.rand(shape)
        batches = DataLoader([{"source": (features, LABELS), "target": features}] * 2, batch_size=None)
        quiet_trainer(max_epochs=1).fit(module, batches)
    assert module(torch.rand(2, 512)).isfinite().all()


def test_a_frozen_trunk_is_shared_and_stays_out_of_the_checkpoint(tmp_path):
    module = DANNModule(**FLAGS, trunk_trained="none")
    assert module.network.trunk.network is DANNModule(**FLAGS, trunk_trained="none").network.trunk.network
    assert copy.deepcopy(module).network.trunk.network is module.network.trunk.network
    assert not [name for name in module.state_dict() if "trunk" in name]
    trainer = quiet_trainer(max_epochs=1)
    before = {name: value.clone() for name, value in module.network.trunk.network.state_dict().items()}
    trainer.fit(module, BATCHES)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    assert (tmp_path / "one.ckpt").stat().st_size < 3e6
    for name, value in module.network.trunk.network.state_dict().items():
        assert torch.equal(value, before[name])
    again = DANNModule.load_from_checkpoint(tmp_path / "one.ckpt", map_location="cpu", weights_only=True)
    assert torch.equal(module.eval()(IMAGES), again.eval()(IMAGES))

    other = tmp_path / "other" / "weights" / "squeezenet1_1.safetensors"
    other.parent.mkdir(parents=True)
    save_file({name: (value * 1.01).contiguous() for name, value in before.items()}, other)
    with pytest.raises(ValueError, match="squeezenet1_1 are not those that the heads were trained on"):
        DANNModule.load_from_checkpoint(
            tmp_path / "one.ckpt", map_location="cpu", weights_only=True, data_dir=str(tmp_path / "other")
        )
    _frozen.cache_clear()


def test_all_of_a_trunk_or_its_last_layers_are_trained_at_a_rate_of_their_own():
    whole = DANNModule(**FLAGS, optimizer="sgd", lr=0.1, trunk_lr=0.01)
    used = [name for name, one in whole.network.trunk.named_parameters() if one.requires_grad]
    assert used  # up to fire9, and not the classifier of ImageNet behind it
    assert not [name for name in used if "classifier" in name]
    optimizer = whole.configure_optimizers()
    assert [len(group["params"]) for group in optimizer.param_groups][1] == len(used)

    last = DANNModule(**FLAGS, trunk_trained="fire8")
    trained = {name.split(".")[3] for name, one in last.network.trunk.named_parameters() if one.requires_grad}
    assert trained == {"11", "12"}  # features.11 is fire8, features.12 fire9
    before = {name: value.clone() for name, value in last.network.trunk.named_parameters()}
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(last, BATCHES)
    changed = {
        name.split(".")[3]
        for name, value in last.network.trunk.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert changed == trained
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert rates[1] == pytest.approx(0.1 * rates[0])


def test_batch_norm_is_kept_or_adapted():
    images = torch.rand(4, 3, 32, 32)
    for how, moves in (("kept", False), ("adapted", True)):
        trunk = Trunk("resnet18/layer2", batch_norm=how, weights="random", image_size=32).train()
        norm = next(one for one in trunk.modules() if isinstance(one, nn.BatchNorm2d))
        before = norm.running_mean.clone()
        trunk(images)
        assert torch.equal(norm.running_mean, before) != moves
    for weights in ("imagenet", "random"):
        with pytest.raises(ValueError, match="of which nothing is trained keeps its BatchNorm statistics"):
            Trunk("squeezenet1_1/fire9", trained="none", batch_norm="adapted", weights=weights)
    counts = [
        sum(
            weight.requires_grad
            for weight in Trunk(
                "resnet18/layer3", trained="layer3", batch_norm=how, weights="random", image_size=32
            ).parameters()
        )
        for how in ("kept", "adapted")
    ]
    assert counts[0] == counts[1] == 15


@pytest.mark.parametrize(
    ("network", "more", "message"),
    [
        ("squeezenet1_1", {}, "name a layer of it, as resnet50/avgpool"),
        ("squeezenet1_1/layer4", {}, "has no layer 'layer4'"),
        (
            "squeezenet1_1/fire9",
            {"image_size": 8},
            "does not take images of 8 x 8, give a larger",
        ),
        ("resnet19/avgpool", {}, "no backbone 'resnet19'"),
        (
            "squeezenet1_1/fire3",
            {"trained": "fire9"},
            "fire3 depends on no weights of fire9",
        ),
    ],
)
def test_what_makes_no_trunk_is_named(network, more, message):
    with pytest.raises(ValueError, match=message):
        Trunk(network, **({"image_size": 32} | more))
