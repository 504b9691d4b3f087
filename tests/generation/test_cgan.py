"""The conditional DCGAN: what it is told, what it makes of it, and that it learns."""

import copy

import pytest
import torch
from conftest import quiet_trainer
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from datamodules.mnist import MNISTDataModule
from datamodules.tensors import BatchLoader, ImageTensors, ShuffledBatches
from rdfia.generation.cgan import ConditionalDiscriminator, ConditionalGenerator, cGANModule
from rdfia.generation.networks import Discriminator

SMALL = {"latent_dim": 8, "generator_features": 4, "discriminator_features": 4}
EVERY = ["one-hot", "embedding", "projection"]


def some_batches(count: int = 4, size: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count * size, 1, 32, 32, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(count * size) % 10), batch_size=size)


def test_networks_are_as_large_as_dcgan():
    generator = ConditionalGenerator(100, 32)
    # by hand: 110-128-64-32-1 with 4x4 kernels; BatchNorm; one bias
    weights = 16 * (110 * 128 + 128 * 64 + 64 * 32 + 32)
    assert sum(p.numel() for p in generator.parameters()) == weights + 2 * 224 + 1
    # branches 1-16 and 10-16 with biases, then 32-64-128-1
    discriminator = ConditionalDiscriminator(32)
    weights = 16 * (11 * 16 + 32 * 64 + 64 * 128 + 128)
    assert sum(p.numel() for p in discriminator.parameters()) == weights + 33 + 2 * 192


@pytest.mark.parametrize("embedding", [0, 10])
def test_the_generator_is_told_the_label_and_the_noise(embedding):
    generator = ConditionalGenerator(8, 4, embedding=embedding).eval()
    latents, labels = torch.randn(3, 8), torch.tensor([0, 4, 9])
    images = generator(latents, labels)
    assert images.shape == (3, 1, 32, 32)
    assert images.abs().max() <= 1
    assert not torch.equal(generator(latents, labels.flip(0))[0], images[0])
    assert not torch.equal(generator(latents.flip(0), labels)[0], images[0])


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("conditioning", EVERY)
def test_the_discriminator_hears_of_the_label_if_it_is_told(conditioning, told):
    module = cGANModule(**SMALL, conditioning=conditioning, label_in_discriminator=told)
    discriminator = module.discriminator.eval()
    images, labels = torch.rand(3, 1, 32, 32) * 2 - 1, torch.tensor([0, 4, 9])
    for parameter in discriminator.parameters():  # projections begin at 0
        nn.init.normal_(parameter, std=0.1)
    logits = discriminator(images, labels)
    assert logits.shape == (3,)
    others = discriminator(images, torch.tensor([1, 5, 9]))
    assert torch.equal(logits[2], others[2])
    assert torch.equal(logits[:2], others[:2]) != told


def test_projection_is_the_inner_product_with_the_classes_embedding():
    discriminator = Discriminator(4, classes=10).eval()
    images, labels = torch.rand(5, 1, 32, 32), torch.arange(5)
    before = discriminator(images, labels)
    torch.testing.assert_close(before, discriminator(images))  # it begins at 0
    nn.init.normal_(discriminator.embedding.weight)
    maps = discriminator.layers(discriminator.first(images)).flatten(1)
    inner = torch.einsum("bd,bd->b", maps, discriminator.embedding.weight[:5])
    torch.testing.assert_close(discriminator(images, labels), before + inner)


def test_labels_are_the_groups():
    with pytest.raises(ValueError, match="conditioning is one-hot, embedding or projection, got 'onehot'"):
        cGANModule(conditioning="onehot")
    with pytest.raises(ValueError, match="one-hot labels need discriminator_features of at least 2, got 1"):
        cGANModule(conditioning="one-hot", discriminator_features=1)
    with pytest.raises(ValueError, match="labels are the groups of a conditional GAN, got groups=5"):
        cGANModule(**SMALL, groups=5)


@pytest.mark.parametrize(
    "settings", [{"conditioning": c} for c in EVERY] + [{"label_in_discriminator": False}]
)
def test_training_equals_a_plain_loop(settings):
    rates = {"generator_lr": 1e-3, "discriminator_lr": 5e-4, "lr_schedule": "none", "r1_weight": 0.0}
    module = cGANModule(**SMALL, **settings, **rates)
    reference = copy.deepcopy(module)
    loader = some_batches()
    quiet_trainer(max_epochs=1).fit(module, loader)

    g, d = reference.generator.train(), reference.discriminator.train()
    d_optimizer = torch.optim.Adam(d.parameters(), lr=5e-4, betas=(0.5, 0.99))
    g_optimizer = torch.optim.Adam(g.parameters(), lr=1e-3, betas=(0.5, 0.99))
    cross_entropy = functional.binary_cross_entropy_with_logits
    for number, (images, labels) in enumerate(loader):
        fake = g(reference.draw(8, 1, number), labels)
        d_optimizer.zero_grad()
        real_logits, fake_logits = d(images * 2 - 1, labels), d(fake.detach(), labels)
        (cross_entropy(real_logits, torch.ones(8)) + cross_entropy(fake_logits, torch.zeros(8))).backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        cross_entropy(d(fake, labels), torch.ones(8)).backward()
        g_optimizer.step()
    for name in ("generator", "discriminator"):
        found, expected = (getattr(m, name).state_dict() for m in (module, reference))
        for key in expected:
            # A tenth of a step: Adam divides what is next to nothing by what is next to nothing.
            torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-4, msg=key)


def test_a_column_of_the_grid_has_one_latent_and_a_row_one_digit():
    module = cGANModule(**SMALL)
    latents = torch.randn(3, 8)
    grid = module.class_grid(latents)
    assert grid.shape == (10, 3, 1, 32, 32)
    for digit, column in ((0, 0), (7, 2)):
        torch.testing.assert_close(
            grid[digit, column], module(latents[[column]], torch.tensor([digit]))[0], rtol=1e-4, atol=1e-5
        )


def test_samples_are_those_that_are_asked_for():
    module = cGANModule(**SMALL)
    images = module.sample(20)
    assert torch.equal(images, module.sample(20, labels=torch.arange(20) % 10))
    assert not torch.equal(images, module.sample(20, labels=torch.zeros(20, dtype=torch.int64)))
    for labels in (torch.arange(3), torch.tensor([10, 0]), torch.tensor([-1, 0])):
        with pytest.raises(
            ValueError, match=r"labels are one class for each of 2 images|labels lie from 0 to 9"
        ):
            module.sample(2, labels=labels)


def test_the_judge_is_told_what_was_asked_for():
    digits = MNISTDataModule("sample", image_size=32, batch_size=100)
    module = cGANModule(**SMALL)
    scores = quiet_trainer(limit_test_batches=3).test(module, digits, verbose=False)[0]
    names = {f"accuracy_{digit}" for digit in range(10)}
    names |= {"conditional_accuracy", "worst_accuracy", "diversity"}
    assert {f"test/{name}" for name in names} <= set(scores)
    assert 0 <= scores["test/conditional_accuracy"] < 0.3


def test_a_checkpoint_reloads(tmp_path):
    module = cGANModule(**SMALL, conditioning="embedding", label_in_discriminator=False, seed=3)
    run = quiet_trainer(max_epochs=1)
    run.fit(module, some_batches())
    run.save_checkpoint(tmp_path / "cgan.ckpt")
    loaded = cGANModule.load_from_checkpoint(tmp_path / "cgan.ckpt", weights_only=True)
    assert loaded.sample(0).shape == (0, 1, 32, 32)
    assert torch.equal(loaded.sample(10), module.sample(10))
    latents = (torch.randn(2, 8), torch.tensor([1, 2]))
    (predicted,) = run.predict(loaded, DataLoader(TensorDataset(*latents), batch_size=2))
    torch.testing.assert_close(predicted, module(*latents))


def bars(labels: torch.Tensor) -> torch.Tensor:
    """Return images with one bright bar of 3 rows, at the label's place: digits that anyone can read."""
    images = torch.zeros(len(labels), 1, 32, 32, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 3 * label + 1 : 3 * label + 4] = 255
    return images


@pytest.mark.parametrize(
    ("conditioning", "told", "epochs"),
    [
        ("projection", True, 40),
        pytest.param("projection", False, 40, marks=pytest.mark.slow),
        pytest.param("one-hot", True, 80, marks=pytest.mark.slow),
        pytest.param("embedding", True, 80, marks=pytest.mark.slow),
    ],
)
def test_it_learns_what_the_labels_mean_only_if_the_discriminator_is_told(conditioning, told, epochs):
    labels = torch.arange(160) % 10
    data = ImageTensors(bars(labels), labels)
    torch.manual_seed(0)
    widths = {"latent_dim": 8, "generator_features": 8, "discriminator_features": 8}
    rates = {
        "generator_lr": 2e-3,
        "discriminator_lr": 1e-3,
        "ema_decay": 0.9,
        "lr_schedule": "none",
        "r1_weight": 0.0,
    }
    module = cGANModule(conditioning=conditioning, label_in_discriminator=told, **widths, **rates)
    quiet_trainer(max_epochs=epochs).fit(module, BatchLoader(data, ShuffledBatches(160, 32)))
    asked = torch.arange(200) % 10
    images = module.sample(200, labels=asked)
    templates = bars(torch.arange(10)).float() / 255
    read = (images[:, None] - templates[None]).square().mean((2, 3, 4)).argmin(1)
    accuracy = (read == asked).float().mean().item()
    assert accuracy > 0.9 if told else accuracy < 0.3


def test_scored_labels_are_drawn_as_training_had_them_and_not_as_the_scored_digits_have_them():
    """Asked for the test set's own histogram, it was told the class shares that others are not."""
    module = cGANModule(seed=3)
    module.scores.update = lambda images, *, real, labels=None: seen.append((real, labels))
    for counts in (torch.zeros(10), torch.tensor([0.0, 0, 0, 30, 0, 0, 0, 10, 0, 0])):
        seen: list = []
        module.label_counts.copy_(counts)
        module._compare((torch.rand(200, 1, 32, 32), torch.full((200,), 5)), 4, 0)
        asked = dict(seen)[False]
        shares = torch.bincount(asked, minlength=10) / 200
        expected = counts / counts.sum() if counts.any() else torch.full((10,), 0.1)
        assert (shares - expected).abs().max() < 0.1
        again: list = []
        seen = again
        module._compare((torch.rand(200, 1, 32, 32), torch.zeros(200, dtype=torch.long)), 4, 0)
        assert torch.equal(dict(again)[False], asked)  # of seed and batch alone


def test_labels_of_training_are_counted_and_kept():
    module = cGANModule(generator_features=2, discriminator_features=2)
    labels = torch.tensor([0, 1, 1, 7])
    batches = DataLoader(TensorDataset(torch.rand(4, 1, 32, 32), labels), 4)
    quiet_trainer(max_epochs=2).fit(module, batches)
    assert module.label_counts.tolist() == [2, 4, 0, 0, 0, 0, 0, 2, 0, 0]
    assert "label_counts" in module.state_dict()


def test_fifteen_classes_are_named():
    module = cGANModule(generator_features=2, discriminator_features=2)
    batches = DataLoader(TensorDataset(torch.rand(4, 1, 32, 32), torch.tensor([0, 1, 14, 7])), 4)
    with pytest.raises(ValueError, match="labels lie from 0 to 9, as there are 10 classes; got 0 to 14"):
        quiet_trainer(max_epochs=1).fit(module, batches)
