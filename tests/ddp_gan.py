"""Run by test_ddp.py on two processes: train and score a GAN, and note what each process saw.

Usage: python tests/ddp_gan.py <data folder> <output folder>
"""

import copy
import sys
from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers.logger import DummyLogger

import rdfia.generation.gan
import rdfia.generation.samples
from datamodules.mnist import MNISTDataModule
from datamodules.tensors import EveryItemOnce
from rdfia.generation.cgan import cGANModule
from rdfia.generation.digit_judge import DigitScores

SMALL = {"latent_dim": 8, "generator_features": 4, "discriminator_features": 4}
# More ways to train, each for two batches.
OTHERS = {
    "penalty": lambda: rdfia.generation.gan.GANModule(**SMALL, r1_weight=1.0),
    "two steps": lambda: rdfia.generation.gan.GANModule(**SMALL, discriminator_steps=2),
    "conditional": lambda: cGANModule(**SMALL, conditioning="one-hot"),
    "projection": lambda: cGANModule(**SMALL, conditioning="projection"),
    "pairs": lambda: rdfia.generation.gan.GANModule(
        **SMALL, loss="relativistic", r2_weight=0.5, blocks="residual", normalization="none"
    ),
    "critic": lambda: rdfia.generation.gan.GANModule(
        **SMALL, loss="wasserstein", gp_weight=10.0, r1_weight=0.0, normalization="spectral", flips=True
    ),
    "ada": lambda: rdfia.generation.gan.GANModule(**SMALL, augment="ada", top_k=0.5),
}
LOSSES = ("train/discriminator_loss", "train/generator_loss", "val/judge_fid")


class Rows(DummyLogger):
    """Keeps what is logged, on every process."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)


class Notes(lightning.Callback):
    """Notes what a process saw; pixel (2, 2) tells the fakes apart."""

    def __init__(self):
        self.train, self.val, self.scores = [], [], {}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.train.append(batch[0][:, 0, 2, 2])

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self.val.append(batch[0][:, 0, 2, 2])

    def on_validation_end(self, trainer, module):
        # a metric over a count that two processes cannot share evenly
        images = trainer.datamodule.test_data[range(37)][0]
        scores = DigitScores()
        for rows in EveryItemOnce(37, 4):
            scores.update(images[rows], real=True)
            scores.update(images[rows].flip(-1), real=False)
        self.scores = {name: float(value) for name, value in scores.compute().items()}


def main(data_dir: str, output: Path) -> None:
    """Train three batches and save the notes of this process; then a batch of each of some other settings."""
    latents, draw_latents = [], rdfia.generation.samples.draw_latents

    def noted(*args, **kwargs):
        latents.append(draw_latents(*args, **kwargs))
        return latents[-1]

    torch.manual_seed(0)
    digits = MNISTDataModule(data_dir, image_size=32, batch_size=16, train_on_val=True)
    module = rdfia.generation.gan.GANModule(**SMALL, **rdfia.generation.gan.PRACTICAL | {"ema_decay": 0.999})
    initial = {name: value.clone() for name, value in module.state_dict().items()}
    rdfia.generation.samples.draw_latents = noted
    notes = Notes()
    settings = {
        "accelerator": "cpu",
        "devices": 2,
        "strategy": "ddp",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
    }
    trainer = lightning.Trainer(**settings, limit_train_batches=3, callbacks=[notes])
    trainer.fit(module, digits)
    rdfia.generation.samples.draw_latents = draw_latents
    seen = {"train": notes.train, "val": notes.val, "latents": latents, "batches": module.batches_done}
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    scores = {"scores": notes.scores, "val_metrics": metrics}
    weights = {"initial": initial, "final": module.state_dict()}
    others = {}
    for name, build in OTHERS.items():
        torch.manual_seed(0)
        other = build()
        begin = copy.deepcopy(other.state_dict())
        few = {"limit_train_batches": 2, "limit_val_batches": 2, "log_every_n_steps": 1}
        again = lightning.Trainer(**{**settings, **few, "logger": (history := Rows())})
        again.fit(other, digits)
        losses = {metric: float(again.callback_metrics[metric]) for metric in LOSSES}
        losses["rows"] = repr(
            history.rows
        )  # as text, for NaN is not itself: a batch without a generator step
        others[name] = {"initial": begin, "final": other.state_dict(), "losses": losses}
    torch.save(seen | scores | weights | {"others": others}, output / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
