"""Run by test_ddp.py on two processes: train and score a GAN, and note what each process saw.

Usage: python tests/ddp_gan.py <data folder> <output folder>
"""

import sys
from pathlib import Path

import lightning
import torch

import rdfia.gan
from datamodules.mnist import MNISTDataModule
from datamodules.tensors import EveryItemOnce
from rdfia.digit_judge import DigitScores

data_dir, output = sys.argv[1], Path(sys.argv[2])
notes: dict = {"latents": [], "train": [], "val": []}


class Notes(lightning.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        notes["train"].append(batch[0][:, 0, 2, 2])  # a mark that tells the fakes apart

    def on_validation_batch_start(self, trainer, module, batch, batch_idx):
        notes["val"].append(batch[0][:, 0, 2, 2])

    def on_validation_end(self, trainer, module):
        # a metric over a count that two processes cannot share evenly
        images = module.trainer.datamodule.test_data[range(37)][0]
        scores = DigitScores()
        for rows in EveryItemOnce(37, 4):
            scores.update(images[rows], real=True)
            scores.update(images[rows].flip(-1), real=False)
        notes["scores"] = {name: float(value) for name, value in scores.compute().items()}


draw_latents = rdfia.gan.draw_latents


def noted(*args, **kwargs):
    notes["latents"].append(draw_latents(*args, **kwargs))
    return notes["latents"][-1]


rdfia.gan.draw_latents = noted
torch.manual_seed(0)
digits = MNISTDataModule(data_dir, image_size=32, batch_size=16, train_on_val=True)
module = rdfia.gan.GANModule(latent_dim=8, generator_features=4, discriminator_features=4)
initial = {name: value.clone() for name, value in module.state_dict().items()}
notes["latents"].clear()
trainer = lightning.Trainer(
    accelerator="cpu",
    devices=2,
    strategy="ddp_find_unused_parameters_true",
    max_epochs=1,
    limit_train_batches=3,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    num_sanity_val_steps=0,
    callbacks=[Notes()],
)
trainer.fit(module, digits)
notes |= {"initial": initial, "final": module.state_dict(), "batches": module.batches_done}
notes["val_metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
torch.save(notes, output / f"rank{trainer.global_rank}.pt")
