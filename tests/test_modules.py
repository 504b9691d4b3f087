"""Each module with its data module in a bare trainer, as in a notebook: a dry run, and a short real one."""

import time
from pathlib import Path

import lightning
import pytest
import torch
from conftest import write_scene15
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from torch.utils.data import DataLoader

from datamodules.mnist import MNISTDataModule
from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule
from datamodules.scene15 import Scene15DataModule
from rdfia.adaptation.dann import DANNModule
from rdfia.common import plots
from rdfia.engine import wandb_run
from rdfia.engine.callbacks import EpochFigure, Film
from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import GANModule
from rdfia.transfer.fine_tune import FineTuneModule
from rdfia.transfer.svm_module import FeatureExtractorSVM


def features(root: Path):
    module = FeatureExtractorSVM(backbone="squeezenet1_1", layers=["fire9"], data_dir="sample", folds=2)
    return module, Scene15DataModule(root, image_size=64, batch_size=50, shuffle=False), "val/accuracy"


def fine_tuning(root: Path):
    module = FineTuneModule(backbone="squeezenet1_1", layer="fire9", data_dir="sample", image_size=64)
    return module, Scene15DataModule(root, image_size=64, batch_size=16), "val/accuracy"


def adaptation(root: Path):
    return DANNModule(), MNISTToMNISTMDataModule("sample", batch_size=16), "val/target_accuracy"


def generation(root: Path):
    module = GANModule(generator_features=8, discriminator_features=8, groups=8)
    return module, MNISTDataModule("sample", image_size=32, batch_size=16), "val/judge_fid"


def conditional_generation(root: Path):
    module = cGANModule(generator_features=8, discriminator_features=8)
    return module, MNISTDataModule("sample", image_size=32, batch_size=16), "val/judge_fid"


PAIRS = [features, fine_tuning, adaptation, generation, conditional_generation]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scene15(root, train=8)
    return root


@pytest.fixture(autouse=True)
def _no_wandb_run_is_left():
    yield
    wandb_run.finish_last()


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.__name__)
def test_a_dry_run_takes_seconds(pair, scenes, tmp_path):
    started = time.perf_counter()
    module, data, _ = pair(scenes)
    # With two optimizers, four steps are two batches.
    trainer = lightning.Trainer(fast_dev_run=4, accelerator="cpu", default_root_dir=tmp_path / "runs")
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    # Generators draw from latents, the others look at images.
    given = DataLoader(torch.randn(8, 100), 4) if isinstance(module, GANModule) else data.test_dataloader()
    if not isinstance(module, cGANModule):
        trainer.predict(module, given)
    assert time.perf_counter() - started < 10
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.__name__)
def test_loggers_checkpoints_and_pictures_of_a_short_run(pair, scenes, tmp_path):
    module, data, monitor = pair(scenes)

    images = torch.rand(4, 1, 8, 8)

    loggers = [CSVLogger(tmp_path, "csv"), WandbLogger(project="rdfia", save_dir=tmp_path, mode="offline")]
    best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor=monitor)
    callbacks = [best, EpochFigure(tmp_path, "drawn", lambda _: plots.image_grids({"x": images}))]
    callbacks.append(Film(tmp_path, lambda _: plots.sheet(images, 2)))
    trainer = lightning.Trainer(
        max_epochs=1, limit_train_batches=2, accelerator="cpu", logger=loggers, callbacks=callbacks
    )
    trainer.fit(module, data)
    (table,) = tmp_path.glob("csv/*/metrics.csv")
    assert monitor in table.read_text().splitlines()[0]
    assert list(tmp_path.glob("wandb/offline-run-*"))
    assert (tmp_path / "figures" / "drawn_epoch_001.png").stat().st_size > 1000
    assert (tmp_path / "figures" / "film.gif").exists()
    again = type(module).load_from_checkpoint(best.best_model_path, map_location="cpu", weights_only=True)
    kept, found = module.state_dict(), again.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in kept.items() if name in found)
    tested = trainer.test(module, data, ckpt_path=best.best_model_path, weights_only=True, verbose=False)
    wandb_run.finish_last()
    assert tested[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair", [adaptation, generation, conditional_generation], ids=lambda pair: pair.__name__
)
def test_compiled_it_trains_as_it_does_otherwise(pair, scenes):
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        module, data, _ = pair(scenes)
        for name in module.compiled if compiled else ():
            module.get_submodule(name).compile()
        quiet = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
        # R1 comes in the first batch and in the ninth.
        trainer = lightning.Trainer(max_epochs=1, limit_train_batches=9, accelerator="cpu", **quiet)
        trainer.fit(module, data)
        losses = {name: float(value) for name, value in trainer.callback_metrics.items() if "loss" in name}
        found.append(losses)
    assert found[0]
    assert found[1] == pytest.approx(found[0], rel=0.05)  # dropout draws otherwise


def test_what_is_compiled_exists():
    for module in (DANNModule(), GANModule(), cGANModule()):
        assert module.compiled
        for name in module.compiled:
            assert next(module.get_submodule(name).parameters()).requires_grad
