"""On a CUDA device: ``pytest -m gpu``."""

import lightning
import pytest
import torch

from datamodules.mnist import MNISTDataModule
from rdfia.gan import GANModule

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def losses(precision: str) -> dict[str, float]:
    """Train twenty batches on the sample and return what was logged."""
    torch.manual_seed(0)
    module = GANModule()
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
