import copy
import math
from contextlib import contextmanager

import lightning
import pytest
import torch
from conftest import quiet_trainer
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from datamodules.mnist import MNISTDataModule
from datamodules.tensors import BatchLoader, ImageTensors, ShuffledBatches
from rdfia.common.optimization import lr_factor
from rdfia.engine.runs import MetricsCSV
from rdfia.generation.gan import PRACTICAL, GANModule
from rdfia.generation.latents import draw_latents
from rdfia.generation.losses import discriminator_loss, generator_loss

SMALL = {"latent_dim": 8, "generator_features": 4, "discriminator_features": 4}


def some_batches(count: int = 4, size: int = 8) -> DataLoader:
    images = torch.rand(count * size, 1, 32, 32)
    return DataLoader(list(zip(images, torch.zeros(count * size), strict=True)), batch_size=size)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def wanted(logits: torch.Tensor, loss: str, real: bool, smoothing: float = 0.0) -> torch.Tensor:
    """Return what logits lack of those of real images, or of generated ones, in PyTorch's own terms."""
    if loss == "hinge":
        return torch.clamp(1 - logits if real else 1 + logits, min=0).mean()
    target = torch.full_like(logits, real * (1 - smoothing))
    if loss == "least-squares":
        return functional.mse_loss(logits, target) / 2
    return functional.binary_cross_entropy_with_logits(logits, target)


def reference_step(
    module: GANModule, batches: list[torch.Tensor], loss: str = "non-saturating", smoothing: float = 0.0
) -> None:
    """Train ``module``'s networks with plain PyTorch, written out step by step."""
    g, d, average = module.generator.train(), module.discriminator.train(), module.average_generator
    d_optimizer = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    g_optimizer = torch.optim.Adam(g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for number, images in enumerate(batches):
        z = draw_latents(len(images), module.latent_dim, [module.seed, 1, number])
        fake = g(z)
        d_optimizer.zero_grad()
        wrong = wanted(d(images * 2 - 1), loss, True, smoothing) + wanted(d(fake.detach()), loss, False)
        wrong.backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        if loss == "minimax":
            (-wanted(d(fake), loss, False)).backward()
        else:
            (-d(fake).mean() if loss == "hinge" else wanted(d(fake), loss, True)).backward()
        g_optimizer.step()
        decay = min(0.999, (1 + number) / (10 + number))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), g.parameters(), strict=True):
                kept.mul_(decay).add_((1 - decay) * new)
            for kept, new in zip(average.buffers(), g.buffers(), strict=True):
                kept.copy_(new)


@pytest.mark.parametrize(
    ("loss", "smoothing"),
    [
        ("non-saturating", 0.0),
        ("non-saturating", 0.1),
        ("minimax", 0.0),
        ("least-squares", 0.1),
        ("hinge", 0.0),
    ],
)
def test_training_equals_a_plain_loop(loss, smoothing):
    settings = PRACTICAL | {"ema_decay": 0.999, "loss": loss, "label_smoothing": smoothing}
    module = GANModule(**SMALL, **settings)
    reference = copy.deepcopy(module)
    loader = some_batches()
    quiet_trainer(max_epochs=1).fit(module, loader)
    reference_step(reference, [images for images, _ in loader], loss, smoothing)
    assert module.batches_done == 4
    for name in ("generator", "discriminator", "average_generator"):
        found, expected = (getattr(m, name).state_dict() for m in (module, reference))
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5)


def test_no_step_of_one_network_moves_the_other(monkeypatch):
    module = GANModule(**SMALL)
    toggled_optimizer = GANModule.toggled_optimizer
    moved, gradients = [], []

    def parameters():
        networks = {"generator": module.generator, "discriminator": module.discriminator}
        return {name: list(network.parameters()) for name, network in networks.items()}

    @contextmanager
    def watched(self, optimizer):
        before = {name: [p.detach().clone() for p in found] for name, found in parameters().items()}
        for found in parameters().values():
            for parameter in found:
                parameter.grad = None
        with toggled_optimizer(self, optimizer):
            yield
        after = parameters()
        moved.append({n for n in before if not all(map(torch.equal, before[n], after[n]))})
        gradients.append({n for n in after if any(p.grad is not None for p in after[n])})

    monkeypatch.setattr(GANModule, "toggled_optimizer", watched)
    quiet_trainer(max_epochs=1, limit_train_batches=3).fit(module, some_batches())
    assert moved == [{"discriminator"}, {"generator"}] * 3
    assert gradients == moved  # nor does a gradient reach it


def test_the_penalty_is_added_in_every_eighth_batch_to_the_discriminators_loss():
    """Against plain PyTorch; without weights on it, training is another."""
    settings = {**SMALL, **PRACTICAL}
    module = GANModule(**settings | {"r1_weight": 2.0})
    reference, without = copy.deepcopy(module), GANModule(**settings)
    without.load_state_dict(module.state_dict())
    batches = some_batches(count=9)
    for one in (module, without):
        quiet_trainer(max_epochs=1).fit(one, batches)
    g, d = reference.generator.train(), reference.discriminator.train()
    optimizers = reference.configure_optimizers()
    for number, (images, _) in enumerate(batches):
        real = (images * 2 - 1).requires_grad_()
        fake = g(reference.draw(8, 1, number))
        real_logits = d(real)
        loss = discriminator_loss(real_logits, d(fake.detach()))
        if number in (0, 8):
            (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
            loss = loss + 8 * 2.0 / 2 * (slope**2).flatten(1).sum(1).mean()
        for optimizer, own in zip(optimizers, (loss, None), strict=True):
            own = generator_loss(d(fake)) if own is None else own
            optimizer.zero_grad()
            own.backward()
            optimizer.step()
    for name, expected in reference.discriminator.state_dict().items():
        torch.testing.assert_close(module.discriminator.state_dict()[name], expected, rtol=1e-3, atol=1e-5)
    assert not same(module.discriminator.state_dict(), without.discriminator.state_dict())


def test_the_generator_steps_on_each_of_so_many_batches():
    module = GANModule(**SMALL, discriminator_steps=3)
    steps, logged = {"generator": [], "discriminator": []}, []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, module, *rest):
            self.before = copy.deepcopy(module.state_dict())

        def on_train_batch_end(self, trainer, module, *rest):
            for name, moved in steps.items():
                after = module.state_dict()
                names = [key for key in after if key.startswith(f"{name}.") and key.endswith("0.weight")]
                moved.append(not all(torch.equal(after[key], self.before[key]) for key in names))
            (row,) = module.read_steps()
            logged.append(math.isfinite(row.numbers["train/generator_loss"]))

    quiet_trainer(max_epochs=1, callbacks=[Watch()]).fit(module, some_batches(count=7))
    assert steps["discriminator"] == [True] * 7
    assert steps["generator"] == logged == [False, False, True, False, False, True, False]


@pytest.mark.parametrize("decay", ["none", "linear", "cosine"])
def test_rates_fall_over_the_batches_of_all_epochs(decay):
    module = GANModule(**SMALL, generator_lr=1e-3, discriminator_lr=2e-3, lr_schedule=decay)
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *rest):
            seen.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers))

    quiet_trainer(max_epochs=2, callbacks=[Watch()]).fit(module, some_batches(count=3))
    factors = [lr_factor(batch / 6, decay) for batch in range(6)]
    assert torch.tensor(seen).allclose(torch.tensor([(2e-3 * f, 1e-3 * f) for f in factors]))


def test_falling_rates_need_an_end():
    run = quiet_trainer(max_epochs=-1, max_steps=4)
    with pytest.raises(ValueError, match="give the trainer max_epochs"):
        run.fit(GANModule(**SMALL, lr_schedule="linear"), some_batches())

    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield torch.rand(1, 32, 32), 0

    with pytest.raises(ValueError, match="a loader that has a length"):
        quiet_trainer(max_epochs=1).fit(
            GANModule(**SMALL, groups=0, lr_schedule="linear"), DataLoader(Endless(), batch_size=8)
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": 0}, "latent_dim is at least 1, got 0"),
        ({"discriminator_steps": 0}, "discriminator_steps is at least 1"),
        ({"generator_lr": -1.0}, "generator_lr is not negative"),
        ({"r1_weight": float("nan")}, "r1_weight is not negative, got nan"),
        ({"beta1": 1.0}, "beta1 is at least 0 and below 1, got 1.0"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "no labels to smooth"),
        (
            {"loss": "lsgan"},
            "loss is non-saturating, minimax, least-squares, hinge, wasserstein or relativistic, got 'lsgan'",
        ),
        ({"latents": "gaussian"}, "latents is normal or uniform, got 'gaussian'"),
        ({"upsampling": "bilinear"}, "upsampling is transposed or nearest"),
        ({"initialization": "xavier"}, "initialization is dcgan, pytorch or orthogonal"),
        ({"lr_schedule": "exponential"}, "lr_schedule is none,"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        GANModule(**settings)


def test_uniform_latents_are_drawn_everywhere():
    module = GANModule(**SMALL, latents="uniform")
    drawn: list[torch.Tensor] = []
    module.average_generator.register_forward_pre_hook(lambda _, given: drawn.append(given[0]))
    module.sample(500)
    for latents in (module.draw(500, 1), *drawn):
        assert 0.9 < latents.abs().max() <= 1
    assert module.groups.uniform


def test_initialization_and_upsampling_reach_the_networks():
    orthogonal = GANModule(**SMALL, groups=0, initialization="orthogonal")
    for network in (orthogonal.generator, orthogonal.average_generator):
        rows = network.first[0].weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(8), rtol=1e-4, atol=1e-5)
    convolution = [layer for layer in orthogonal.discriminator.modules() if isinstance(layer, nn.Conv2d)][1]
    rows = convolution.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=1e-4, atol=1e-5)
    for upsampling, transposed in (("transposed", 4), ("nearest", 1)):
        layers = GANModule(**SMALL, upsampling=upsampling).generator.modules()
        assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in layers) == transposed


def test_a_trained_module_can_be_trained_again():
    module = GANModule(**SMALL, lr_schedule="linear")
    for _ in range(2):
        before = copy.deepcopy(module.generator.state_dict())
        quiet_trainer(max_epochs=1).fit(module, some_batches())
        assert module.batches_done == 4
        assert not same(before, module.generator.state_dict())


def test_the_judge_is_that_of_the_package_not_of_the_checkpoint(tmp_path):
    run, module = quiet_trainer(max_epochs=1), GANModule(**SMALL)
    run.fit(module, some_batches())
    with torch.no_grad():
        module.scores.judge.head.bias.add_(1)  # that of another version
    run.save_checkpoint(tmp_path / "gan.ckpt")
    again = GANModule.load_from_checkpoint(tmp_path / "gan.ckpt", weights_only=True)
    assert same(again.scores.state_dict(), GANModule(**SMALL).scores.state_dict())


@pytest.mark.parametrize("groups", [0, 8])
def test_images_of_another_size_are_named(groups):
    data = DataLoader([(torch.rand(1, 28, 28), 0)] * 8, batch_size=8)
    with pytest.raises(ValueError, match=r"take a data module with image_size=32, channels=1"):
        quiet_trainer(max_epochs=1).fit(GANModule(**SMALL, groups=groups), data)


def test_a_dry_run_of_small_batches_finds_its_groups():
    run = lightning.Trainer(fast_dev_run=4, accelerator="cpu", enable_progress_bar=False)
    run.fit(GANModule(**SMALL | {"latent_dim": 30}), some_batches(count=40, size=2))


def test_batches_are_counted_not_optimizer_steps():
    module = GANModule(**SMALL)
    train = quiet_trainer(max_epochs=2)
    train.fit(module, some_batches())
    assert module.batches_done == 8
    assert train.global_step == 16  # the trap


def test_logged_names():
    digits = MNISTDataModule("sample", image_size=32, batch_size=32)
    module = GANModule(**SMALL)
    train = quiet_trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=2, limit_test_batches=2)
    train.fit(module, digits)
    scores = {"judge_fid", "kid", "precision", "recall", "density", "coverage"}
    scores |= {"confident_share", "histogram_distance"}
    scores |= {"smallest_class_share", "n_real", "n_generated", *(f"class_{digit}" for digit in range(10))}
    of_steps = {"discriminator_loss", "generator_loss", "real_score", "fake_score", "discriminator_accuracy"}
    of_steps |= {"discriminator_lr", "generator_lr", "batch"}
    expected = {f"val/{name}" for name in scores} | {f"train/{name}" for name in of_steps}
    assert set(train.callback_metrics) == expected
    assert train.callback_metrics["val/n_real"] == train.callback_metrics["val/n_generated"] > 50
    assert set(train.test(module, digits, verbose=False)[0]) == {f"test/{name}" for name in scores}


@pytest.mark.parametrize(("every", "batches"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4])])
def test_batches_are_logged_as_often_as_the_trainer_says(tmp_path, every, batches):
    module, losses = GANModule(**SMALL), []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *rest):
            losses.append(float(module._values[-1][0]))

    history = MetricsCSV(tmp_path)
    train = quiet_trainer(max_epochs=2, logger=history, log_every_n_steps=every, callbacks=[Watch()])
    train.fit(module, some_batches(count=3))
    rows = list(history.rows.values())
    assert [row["train/batch"] for row in rows] == batches
    assert [row["step"] for row in rows] == [batch - 1 for batch in batches]  # as Lightning counts
    assert [row["epoch"] for row in rows] == [(batch - 1) // 3 for batch in batches]
    assert [row["train/discriminator_loss"] for row in rows] == [losses[batch - 1] for batch in batches]
    names = {"discriminator_loss", "generator_loss", "real_score", "fake_score", "discriminator_accuracy"}
    names |= {"discriminator_lr", "generator_lr"}
    for row in rows:
        assert set(row) == {f"train/{name}" for name in names | {"batch"}} | {"step", "epoch"}
        assert 0 < row["train/real_score"] < 1
        assert 0 <= row["train/discriminator_accuracy"] <= 1


def test_samples_are_repeatable_in_0_1_and_independent_of_their_batch():
    module = GANModule(**SMALL)
    quiet_trainer(max_epochs=1, limit_train_batches=2).fit(module, some_batches())
    module.train()
    latents = torch.randn(5, 8)
    together = module(latents)
    assert module.average_generator.training  # and the mode is given back
    for image, latent in zip(together, latents, strict=True):
        torch.testing.assert_close(module(latent[None])[0], image)
    images = module.sample(7)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, module.sample(7))
    assert not torch.equal(images, module.sample(7, seed=5))


def test_preview_latents_are_saved_and_independent_of_the_global_seed():
    torch.manual_seed(1)
    first = GANModule(**SMALL, seed=4)
    torch.manual_seed(2)
    second = GANModule(**SMALL, seed=4)
    assert torch.equal(first.preview_latents, second.preview_latents)
    assert "preview_latents" in first.state_dict()
    assert not torch.equal(first.preview_latents, GANModule(**SMALL, seed=5).preview_latents)


@pytest.mark.parametrize(
    ("stop_after", "settings"),
    [(3, {}), (8, {}), (11, {}), (6, {"r1_weight": 1.0, "discriminator_steps": 3, "lr_schedule": "cosine"})],
)
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, stop_after, settings):
    """Bit for bit: weights, optimizers, average, counter, and so the latents."""

    def train(stop_after=None, checkpoint=None):
        torch.manual_seed(7)
        module = GANModule(**SMALL, **settings)
        data = ImageTensors(torch.randint(0, 256, (32, 1, 32, 32), dtype=torch.uint8), torch.zeros(32).long())

        class Stop(lightning.Callback):
            def on_train_batch_end(self, trainer, module, *args):
                if module.batches_done == stop_after:
                    trainer.save_checkpoint(tmp_path / "stop.ckpt")
                    raise RuntimeError("stopped")

        run = quiet_trainer(max_epochs=3, callbacks=[Stop()])
        run.fit(module, BatchLoader(data, ShuffledBatches(32, 8)), ckpt_path=checkpoint, weights_only=True)
        optimizers = [optimizer.state_dict()["state"] for optimizer in run.optimizers]
        return module, optimizers

    whole, whole_optimizers = train()
    with pytest.raises(RuntimeError, match="stopped"):
        train(stop_after)
    torch.manual_seed(99)
    resumed, resumed_optimizers = train(checkpoint=tmp_path / "stop.ckpt")
    assert same(whole.state_dict(), resumed.state_dict())
    assert whole.batches_done == resumed.batches_done == 12
    for expected, found in zip(whole_optimizers, resumed_optimizers, strict=True):
        assert expected.keys() == found.keys()
        for index in expected:
            assert same(expected[index], found[index])


def test_load_from_checkpoint_gives_the_same_samples(tmp_path):
    module = GANModule(**SMALL)
    run = quiet_trainer(max_epochs=1, limit_train_batches=2)
    run.fit(module, some_batches())
    run.save_checkpoint(tmp_path / "gan.ckpt")
    loaded = GANModule.load_from_checkpoint(tmp_path / "gan.ckpt", weights_only=True)
    assert torch.equal(loaded.sample(4), module.sample(4))
    assert loaded.batches_done == 2


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (2 * torch.rand(8, 1, 32, 32) - 1, r"images lie in \[0, 1\]"),
        (torch.full((8, 1, 32, 32), torch.nan), "not a number"),
        (torch.rand(8, 3, 32, 32), r"images are \(B, 1, 32, 32\), got \(8, 3, 32, 32\)"),
    ],
)
@pytest.mark.parametrize("validate", [False, True])
def test_images_that_are_not_in_zero_to_one_are_refused(images, message, validate):
    """Mapped to [-1, 1] once more they would train all the same, and RGB is nothing that the judge reads."""
    loader = DataLoader(TensorDataset(images, torch.zeros(8, dtype=torch.long)), 8)
    trainer, module = quiet_trainer(max_epochs=1), GANModule(**SMALL)
    with pytest.raises(ValueError, match=message):
        trainer.validate(module, loader, verbose=False) if validate else trainer.fit(module, loader)
