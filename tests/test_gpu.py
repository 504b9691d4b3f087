"""On a CUDA device: ``pytest -m gpu``."""

import lightning
import pytest
import torch

from datamodules.mnist import MNISTDataModule
from rdfia import adversarial, black_box, robust_attacks, saliency
from rdfia.class_visualization import visualize_classes
from rdfia.gan import PRACTICAL, GANModule

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def losses(precision: str) -> dict[str, float]:
    """Train twenty batches on the sample and return what was logged."""
    torch.manual_seed(0)
    module = GANModule(**PRACTICAL)
    trainer = lightning.Trainer(
        accelerator="gpu",
        devices=1,
        precision=precision,
        max_epochs=1,
        limit_train_batches=20,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    digits = MNISTDataModule("sample", image_size=32)
    trainer.fit(module, digits)
    assert digits.train_dataloader().dataset.images.is_cuda  # batches are indexed on the device
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_follows_float32(precision):
    expected, found = losses("32-true"), losses(precision)
    for name in ("discriminator_loss", "generator_loss", "real_score", "fake_score"):
        assert found[f"train/{name}"] == pytest.approx(expected[f"train/{name}"], rel=0.15, abs=0.05), name


def test_the_default_recipe_trains():
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        accelerator="gpu",
        devices=1,
        precision="16-mixed",
        max_epochs=1,
        limit_train_batches=20,
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(GANModule(), MNISTDataModule("sample", image_size=32))
    for name, value in trainer.callback_metrics.items():
        assert value.isfinite(), name


@pytest.mark.parametrize("kind", ["gradient", "smooth_grad", "integrated_gradients"])
def test_maps_are_those_of_the_cpu(squeezenet, photographs, kind):
    images, labels = photographs
    explain = getattr(saliency, kind)
    expected = explain(squeezenet, images, labels)
    found = explain(squeezenet.cuda(), images.cuda(), labels.cuda())
    squeezenet.cpu()
    torch.testing.assert_close(found.cpu(), expected, rtol=0.05, atol=1e-3 * float(expected.abs().max()))


def test_attacks_fool(squeezenet, photographs):
    images, labels = (part.cuda() for part in photographs)
    squeezenet.cuda()
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
            "pixels": lambda: black_box.few_pixels(squeezenet, images, labels, population=8, iterations=1),
            "shapes": lambda: black_box.shapes(squeezenet, images, labels, generations=2),
        }
        for name, attack in kinds.items():
            found = attack()
            assert found.images.is_cuda, name
            if name in ("fool", "pgd", "pgd_l2"):
                assert found.success.all(), name
        patch = robust_attacks.patch(squeezenet, images, 859, steps=2, batch_size=2)
        assert patch.is_cuda
    finally:
        squeezenet.cpu()


@pytest.mark.parametrize("parametrization", ["pixels", "fourier"])
def test_classes_are_drawn(squeezenet, parametrization):
    rate = 5.0 if parametrization == "pixels" else 0.05
    images = visualize_classes(
        [squeezenet.cuda()],
        torch.tensor([281, 9]).cuda(),
        size=96,
        parametrization=parametrization,
        steps=5,
        rate=rate,
        rotation=10.0,
        scale=0.1,
    )
    squeezenet.cpu()
    assert images.is_cuda
    assert images.isfinite().all()
