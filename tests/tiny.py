"""A run of seconds: a module with one weight and its data."""

import csv
import os
import signal

import lightning
import torch

from datamodules.tensors import BatchLoader, EveryItemOnce, ImageTensors, ShuffledBatches
from rdfia.engine import training
from rdfia.engine.args import TrainerArgs


class Tiny(lightning.LightningModule):
    """One weight; the monitored value is best in the first epoch."""

    def __init__(self, width: int = 1, signal_at: int | None = None, number: int = signal.SIGINT):
        super().__init__()
        self.save_hyperparameters("width")
        self.weight = torch.nn.Parameter(torch.zeros(width))
        self.signal_at, self.number = signal_at, number
        self.batches = 0

    def training_step(self, batch, batch_idx):
        self.batches += 1
        if self.batches == self.signal_at:
            os.kill(os.getpid(), self.number)
        loss = (self.weight - batch[1].float().mean()).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/score", float(self.current_epoch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Data(lightning.LightningDataModule):
    def setup(self, stage=None):
        self.data = ImageTensors(torch.zeros(20, 1, 2, 2, dtype=torch.uint8), torch.arange(20))

    def train_dataloader(self):
        return BatchLoader(self.data, ShuffledBatches(20, 4))

    def val_dataloader(self):
        return BatchLoader(self.data, EveryItemOnce(20, 4))


def arguments(tmp_path, **changes) -> TrainerArgs:
    return TrainerArgs(**{"output_dir": tmp_path / "runs", "max_epochs": 3, "accelerator": "cpu"} | changes)


def train(args, module, callbacks=(), data=None):
    folder = training.open_run(args, module, data or {"name": "numbers"})
    trainer = training.make_trainer(args, folder, monitor="val/score", mode="min", callbacks=list(callbacks))
    seconds = training.fit(args, trainer, module, Data())
    return trainer, folder, seconds


def rows(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))
