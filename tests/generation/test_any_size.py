"""GANs of other sizes, in colour, with other blocks and losses: what holds for digits holds for them."""

import copy

import pytest
import torch
from conftest import half_precision, quiet_trainer
from torch import nn
from torch.utils.data import DataLoader

from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import GANModule
from rdfia.generation.networks import ResidualDown, ResidualUp, widths

SMALL = {"latent_dim": 8, "generator_features": 4, "discriminator_features": 4, "groups": 0}
KINDS = {
    "colour": {"channels": 3},
    "64": {"image_size": 64, "channels": 3, "upsampling": "transposed"},
    "128": {"image_size": 128, "blocks": "residual", "channels": 1},
    "two channels": {"channels": 2},
    "r3gan": {
        "channels": 3,
        "blocks": "residual",
        "normalization": "none",
        "loss": "relativistic",
        "r2_weight": 0.5,
    },
    "wgan_gp": {"normalization": "none", "loss": "wasserstein", "gp_weight": 10.0, "r1_weight": 0.0},
    "spectral": {"normalization": "spectral", "loss": "hinge"},
    "few_images": {"channels": 3, "augment": "diffaugment", "flips": True, "top_k": 0.5},
    "ada": {"channels": 3, "augment": "ada", "groups": 4},
}


def batches(settings, count=4, size=8):
    side, channels = settings.get("image_size", 32), settings.get("channels", 1)
    images = torch.rand(count * size, channels, side, side, generator=torch.Generator().manual_seed(1))
    return DataLoader(list(zip(images, torch.arange(count * size) % 3, strict=True)), batch_size=size)


def made(kind, conditional=False, **more):
    torch.manual_seed(0)
    settings = SMALL | KINDS[kind] | more
    if conditional:
        return cGANModule(classes=3, **settings | {"groups": 0})
    return GANModule(**settings)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_and_a_step_are_of_the_size_that_is_asked_for(kind, conditional):
    module = made(kind, conditional)
    before = copy.deepcopy(module)
    settings = KINDS[kind]
    side, channels = settings.get("image_size", 32), settings.get("channels", 1)
    assert module.sample(3).shape == (3, channels, side, side)
    quiet_trainer(max_epochs=1, limit_train_batches=1).fit(module, batches(settings))
    for network in ("generator", "discriminator"):
        assert not same(getattr(before, network), getattr(module, network))
        assert all(weight.isfinite().all() for weight in getattr(module, network).parameters())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("kind", ["colour", "r3gan", "wgan_gp", "spectral", "few_images", "ada"])
def test_half_precision_trains_all_kinds(kind, precision):
    module = made(kind)
    quiet_trainer(max_epochs=2, precision=precision).fit(module, batches(KINDS[kind], count=2))
    assert all(weight.isfinite().all() for weight in module.parameters())


@pytest.mark.parametrize("kind", ["colour", "r3gan", "wgan_gp", "spectral", "few_images", "ada"])
def test_float16_with_scaled_losses_trains_all_kinds(kind):
    module, scaler = made(kind), torch.amp.GradScaler("cpu", init_scale=256.0)
    before = copy.deepcopy(module)
    plugins = [half_precision(torch.float16, scaler)]
    quiet_trainer(max_epochs=2, plugins=plugins).fit(module, batches(KINDS[kind], count=2))
    assert scaler.get_scale() == 256.0  # no step was left out for gradients that overflow
    for network in ("generator", "discriminator"):
        assert not same(getattr(before, network), getattr(module, network))
    assert all(weight.isfinite().all() for weight in module.parameters())


@pytest.mark.parametrize("kind", ["r3gan", "wgan_gp", "spectral", "few_images", "ada"])
def test_interrupted_and_resumed_equals_uninterrupted(kind, tmp_path):
    settings = KINDS[kind]
    whole, first, second = (made(kind, lr_schedule="none") for _ in range(3))
    quiet_trainer(max_epochs=4).fit(whole, batches(settings, count=2))
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(first, batches(settings, count=2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = quiet_trainer(max_epochs=4)
    again.fit(second, batches(settings, count=2), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert same(whole, second)
    if kind == "ada":  # it has seen too few to be sure of real images; each batch of 8 counts
        assert second.augment.surety.shape == (2,)


def test_images_of_another_size_are_refused_with_the_mend():
    module = made("64")
    with pytest.raises(
        ValueError, match=r"images are \(B, 3, 64, 64\), got \(8, 1, 32, 32\); take a data module"
    ):
        module.training_step(next(iter(batches({}))), 0)
    with pytest.raises(ValueError, match="image_size is 32, 64 or 128, got 48"):
        GANModule(image_size=48)


def test_maps_double_their_width_with_each_halving_up_to_eight_times():
    assert widths(32, 32) == [32, 64, 128]
    assert widths(16, 64) == [16, 32, 64, 128]
    assert widths(8, 128) == [8, 16, 32, 64, 64]


def test_residual_blocks_are_their_convolutions_beside_the_resized_maps():
    up, down = ResidualUp(5, 7), ResidualDown(5, 7)
    assert up(torch.randn(2, 5, 4, 4)).shape == (2, 7, 8, 8)
    assert down(torch.randn(2, 5, 8, 8)).shape == (2, 7, 4, 4)
    with torch.no_grad():
        up.after[2].weight.zero_(), up.after[2].bias.zero_()
        down.layers[-1].weight.zero_()
    maps = torch.randn(2, 5, 8, 8)
    torch.testing.assert_close(up(maps), nn.Upsample(scale_factor=2)(up.skip(maps)))
    torch.testing.assert_close(down(maps), nn.AvgPool2d(2)(down.skip(maps)))


def test_spectral_normalisation_bounds_each_layer():
    critic = made("spectral").discriminator.train()
    with torch.no_grad():
        for _ in range(50):  # one power iteration each
            critic(torch.rand(2, 1, 32, 32))
    layers = [layer for layer in critic.modules() if isinstance(layer, nn.Conv2d)]
    assert len(layers) == 4
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.05)
    assert not [layer for layer in critic.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "wasserstein"}, "the wasserstein loss needs a bounded critic"),
        ({"loss": "wasserstein", "gp_weight": 10.0}, "BatchNorm mixes those of a batch"),
        (
            {"loss": "relativistic", "groups": 4},
            "of pairs of images, which are of different groups; take groups=0",
        ),
        ({"loss": "relativistic", "label_smoothing": 0.1}, "the relativistic loss has no labels to smooth"),
        ({"top_k": 0.0}, "top_k is a share above 0 and at most 1, got 0.0"),
        ({"augment": "mixup"}, "augment is none, diffaugment or ada, got 'mixup'"),
        ({"blocks": "dense"}, "blocks is plain or residual, got 'dense'"),
        ({"r2_weight": -1.0}, "r2_weight is not negative"),
        ({"gp_weight": 1.0, "normalization": "none"}, "gp_weight pulls gradients to 1, R1 and R2 to 0"),
        ({"loss": "least-squares", "augment": "ada"}, "ada heeds the sign of logits"),
        ({"blocks": "residual", "upsampling": "transposed"}, "residual blocks enlarge by nearest neighbours"),
        ({"scores": "digits", "channels": 3}, "the digit judge knows grey digits of 32 pixels"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        GANModule(**{"latent_dim": 8} | settings)


def test_losses_of_pairs_and_penalties_between_images_have_no_groups_by_default():
    assert GANModule(loss="relativistic").groups is None
    critic = {"loss": "wasserstein", "normalization": "none", "gp_weight": 1.0, "r1_weight": 0.0}
    assert GANModule(**critic).groups is None
    assert GANModule().groups.count == 50
