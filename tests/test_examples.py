"""The examples reach what the modules reach that they explain, on the same data in as many epochs."""

import lightning
import pytest
import torch
from conftest import TESTS

from datamodules import MNISTDataModule, MNISTToMNISTMDataModule
from rdfia import DANNModule, GANModule
from rdfia.generation.digit_judge import score_images

pytestmark = pytest.mark.long
EXAMPLES = str(TESTS.parent / "examples")


def trained(
    module: lightning.LightningModule, data: lightning.LightningDataModule, epochs: int
) -> lightning.Trainer:
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", limit_val_batches=0, **off)
    lightning.seed_everything(0)
    trainer.fit(module, data)
    return trainer


def test_dann_adapts_as_the_module_does(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import dann

    source_only, adapted = dann.train(6, adapt=False), dann.train(6)
    assert adapted > source_only + 0.1
    recipe = {"network": "paper", "batch_norm": True, "optimizer": "adam", "lr": 1e-3, "momentum": 0.5}
    module = DANNModule(**recipe, lr_schedule="none", ema_decay=0.0, dropout=0.0)
    trainer = trained(module, MNISTToMNISTMDataModule("sample", batch_size=64), 6)
    scores = trainer.test(module, MNISTToMNISTMDataModule("sample", batch_size=64), verbose=False)
    reached = next(part["test/target_accuracy"] for part in scores if "test/target_accuracy" in part)
    print(f"source only {source_only:.3f}, example {adapted:.3f}, module {reached:.3f}")
    assert adapted > reached - 0.05


def test_dcgan_draws_digits_as_the_module_does(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import dcgan

    digits = MNISTDataModule("sample", batch_size=64, image_size=32)
    digits.setup()
    real = digits.test_data[range(1000)][0]
    generator = dcgan.train(8)
    with torch.no_grad():
        images = torch.cat([generator(torch.randn(100, 100, 1, 1)) for _ in range(10)]) / 2 + 0.5
    module = GANModule(groups=0, r1_weight=0.0, ema_decay=0.99, lr_schedule="none")
    trained(module, digits, 8)
    ours, reached = score_images(images, real), score_images(module.sample(1000), real)
    print({name: (ours[name], reached[name]) for name in ("judge_fid", "precision", "recall")})
    assert ours["recall"] > 0.5
    assert ours["judge_fid"] < 1.3 * reached["judge_fid"]
