"""On a CUDA device: ``pytest -m gpu``."""

import warnings

import lightning
import pytest
import torch
from conftest import write_striped_scenes
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import CombinedLoader

from datamodules.mnist import MNISTDataModule
from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule
from datamodules.scene15 import Scene15DataModule
from datamodules.stacked import StackedSeeds
from rdfia.adaptation.config import Args
from rdfia.adaptation.dann import DANNModule
from rdfia.common.exact import allow_tf32
from rdfia.engine.training import make_trainer
from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import PRACTICAL, GANModule
from rdfia.generation.stacked import StackedGAN
from rdfia.interpret import adversarial, black_box_attacks, robust_attacks, saliency
from rdfia.interpret.class_visualization import visualize_classes
from rdfia.transfer.fine_tune import FineTuneModule
from rdfia.transfer.svm_module import FeatureExtractorSVM

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def only_float32():
    """Compare float32 with float32, as `make_trainer` has it."""
    allow_tf32(False)


def make(name: str, folder) -> tuple[lightning.LightningModule, lightning.LightningDataModule]:
    """Return a module and its data: the embedded digits, or a small 15 Scene of stripes."""
    torch.manual_seed(0)
    if name == "dann":
        return DANNModule(), MNISTToMNISTMDataModule("sample", batch_size=64)
    if name in ("fine_tune", "svm"):
        write_striped_scenes(folder)
        scenes = Scene15DataModule(folder, image_size=64, batch_size=15, shuffle=False)
        if name == "svm":
            return FeatureExtractorSVM(backbone="squeezenet1_1", layers=["fire9"], folds=2), scenes
        return FineTuneModule(backbone="squeezenet1_1", layer="fire9", image_size=64), scenes
    build = {"gan": lambda: GANModule(**PRACTICAL), "gan_default": GANModule, "cgan": cGANModule}
    return build[name](), MNISTDataModule("sample", image_size=32)


def train(
    name: str,
    folder,
    *,
    precision: str = "32-true",
    compiled: bool = False,
    graphs: bool = False,
    device: str = DEVICE,
) -> tuple[lightning.Trainer, lightning.LightningModule, lightning.LightningDataModule]:
    """Train forty batches: of each kind of step three are warm-up, then comes the capture."""
    module, data = make(name, folder)
    for part in module.compiled if compiled else ():
        module.get_submodule(part).compile()
    module.use_graphs = graphs
    half = precision == "16-mixed" and device == "cuda"
    # From the usual scale of 65,536 the first steps overflow and are left out: these would lag behind.
    scaler = torch.amp.GradScaler(device, init_scale=256)
    trainer = lightning.Trainer(
        accelerator=device,
        devices=1,
        precision=None if half else precision,
        plugins=MixedPrecision("16-mixed", device, scaler) if half else None,
        max_epochs=1,
        limit_train_batches=40,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    return trainer, module, data


def losses(*given, **settings) -> dict[str, float]:
    """Return the losses after forty batches."""
    trainer, _, _ = train(*given, **settings)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if "loss" in name}


TRAINED = ["dann", "gan", "cgan", "fine_tune"]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_follows_float32(name, precision, tmp_path):
    expected, found = losses(name, tmp_path / "a"), losses(name, tmp_path / "b", precision=precision)
    assert expected.keys() == found.keys()
    assert found
    for loss, value in expected.items():
        assert found[loss] == pytest.approx(value, rel=0.15, abs=0.05), loss


@pytest.mark.parametrize("name", ["dann", "gan_default", "cgan"])
def test_compiled_networks_follow_the_others(name, tmp_path):
    expected, found = losses(name, tmp_path / "a"), losses(name, tmp_path / "b", compiled=True)
    for loss, value in expected.items():
        assert found[loss] == pytest.approx(value, rel=0.1, abs=0.05), loss


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["dann", "gan", "gan_default", "cgan"])
def test_graphed_steps_follow_the_others(name, precision, tmp_path):
    expected = losses(name, tmp_path / "a", precision=precision)
    found = losses(name, tmp_path / "b", precision=precision, graphs=True)
    assert found
    for loss, value in expected.items():
        assert found[loss] == pytest.approx(value, rel=0.1, abs=0.05), loss


@pytest.mark.parametrize("graphs", [False, True])
def test_stacked_seeds_train(graphs, tmp_path):
    members = [GANModule(**PRACTICAL, seed=seed) for seed in range(4)]
    together = StackedGAN(members)
    together.use_graphs = graphs
    trainer = lightning.Trainer(
        accelerator=DEVICE,
        devices=1,
        precision="bf16-mixed",
        max_epochs=1,
        limit_train_batches=12,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(together, StackedSeeds(MNISTDataModule("sample", image_size=32), range(4)))
    together.unstack()
    for member in members:
        assert all(weight.isfinite().all() for weight in member.parameters())


@pytest.mark.parametrize("name", ["dann", "gan_default", "cgan", "fine_tune"])
def test_steps_wait_for_nothing(name, tmp_path):
    module, data = make(name, tmp_path)

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            torch.cuda.set_sync_debug_mode("warn" if batch_idx > 1 else "default")

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            torch.cuda.set_sync_debug_mode("default")

    args = Args(precision="bf16-mixed", max_epochs=1, output_dir=tmp_path)
    trainer = make_trainer(args, tmp_path / "run", monitor="val/x", mode="max", callbacks=[Watch()])
    trainer.limit_val_batches, trainer.limit_train_batches = 0, 8
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.fit(module, data)
    waits = [f"{one.filename}:{one.lineno}" for one in said if "synchronizing" in str(one.message)]
    assert len(waits) <= 2, waits


def test_peak_memory_is_known(tmp_path):
    train("gan", tmp_path)
    assert torch.cuda.max_memory_allocated() > 2**20


@pytest.mark.parametrize("name", ["dann", "gan", "cgan"])
def test_batches_are_indexed_on_the_device(name, tmp_path):
    _, _, data = train(name, tmp_path)
    loaders = data.train_dataloader()
    for loader in loaders.flattened if isinstance(loaders, CombinedLoader) else [loaders]:
        assert loader.dataset.images.device.type == DEVICE


def test_the_default_gan_trains_in_half_precision(tmp_path):
    trainer, module, _ = train("gan_default", tmp_path, precision="16-mixed")
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    assert all(weight.isfinite().all() for weight in module.parameters())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_svm_is_that_of_the_cpu(precision, tmp_path):
    expected, alone, scenes = train("svm", tmp_path / "a", device="cpu")
    found, module, _ = train("svm", tmp_path / "b", precision=precision)
    votes = [
        torch.cat(run.predict(one, scenes.test_dataloader()))
        for run, one in ((expected, alone), (found, module))
    ]
    assert (votes[0].cpu() == votes[1].cpu()).float().mean() > (0.95 if precision == "32-true" else 0.9)


@pytest.mark.parametrize("kind", ["gradient", "smooth_grad", "integrated_gradients"])
def test_maps_are_those_of_the_cpu(squeezenet, photographs, kind):
    images, labels = photographs
    explain = getattr(saliency, kind)
    expected = explain(squeezenet, images, labels)
    found = explain(squeezenet.to(DEVICE), images.to(DEVICE), labels.to(DEVICE))
    squeezenet.cpu()
    # Pixels by the edge of a ReLU may fall on its other side.
    far = ~torch.isclose(found.cpu(), expected, rtol=0.05, atol=1e-3 * float(expected.abs().max()))
    assert far.double().mean() < 1e-3
    assert saliency.rank_correlation(found.cpu(), expected).min() > 0.99


def test_attacks_fool(squeezenet, photographs):
    images, labels = (part.to(DEVICE) for part in photographs)
    squeezenet.to(DEVICE)
    try:
        labels = adversarial.predict(squeezenet, images)
        kinds = {
            "fool": lambda: adversarial.fool(squeezenet, images, labels, (labels + 1) % 1000),
            "fgsm": lambda: adversarial.fgsm(squeezenet, images, labels, epsilon=8 / 255),
            "pgd": lambda: adversarial.pgd(squeezenet, images, labels, epsilon=8 / 255),
            "pgd_l2": lambda: adversarial.pgd(squeezenet, images, labels, epsilon=2.0, norm="l2"),
            "eot": lambda: adversarial.pgd(
                squeezenet, images, labels, epsilon=0.1, transform=robust_attacks.random_transform, steps=3
            ),
            "pixels": lambda: black_box_attacks.few_pixels(
                squeezenet, images, labels, population=8, iterations=1
            ),
            "shapes": lambda: black_box_attacks.shapes(squeezenet, images, labels, generations=2),
        }
        for name, attack in kinds.items():
            found = attack()
            assert found.images.device.type == DEVICE, name
            if name in ("fool", "pgd", "pgd_l2"):
                assert found.success.all(), name
        patch = robust_attacks.patch(squeezenet, images, 859, steps=2, batch_size=2)
        assert patch.device.type == DEVICE
    finally:
        squeezenet.cpu()


@pytest.mark.parametrize("parametrization", ["pixels", "fourier"])
def test_classes_are_drawn(squeezenet, parametrization):
    rate = 5.0 if parametrization == "pixels" else 0.05
    images = visualize_classes(
        [squeezenet.to(DEVICE)],
        torch.tensor([281, 9]).to(DEVICE),
        size=96,
        parametrization=parametrization,
        steps=5,
        rate=rate,
        rotation=10.0,
        crop=0.5,
    )
    squeezenet.cpu()
    assert images.device.type == DEVICE
    assert images.isfinite().all()
