"""Run by test_batch_norm.py on one process or two: train with statistics that processes share.

Usage: python tests/ddp_batch_norm.py <processes> <output folder>
"""

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import nn

from datamodules import MNISTDataModule, MNISTToMNISTMDataModule
from rdfia.adaptation.dann import DANNModule
from rdfia.common.batch_norm import ShareBatchNorm
from rdfia.generation.gan import GANModule

SMALL: dict[str, Any] = {"generator_features": 8, "discriminator_features": 8, "r1_weight": 0.5}


def trunk() -> nn.Module:
    """Return a network without pooling, whose ties of equal pixels rounding would break."""
    layers = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU())


def main(processes: int, output: Path) -> None:
    """Train ten batches of each."""
    digits: dict[str, Any] = {"batch_size": 32}
    work = {
        "dann": (
            lambda: DANNModule(network=trunk(), dropout=0.0, optimizer="sgd", lr=0.01),
            MNISTToMNISTMDataModule("sample", **digits),
        ),
        "gan": (lambda: GANModule(**SMALL, groups=4), MNISTDataModule("sample", image_size=32, **digits)),
    }
    for name, (build, data) in work.items():
        torch.manual_seed(0)
        module = build()
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            plugins=[ShareBatchNorm()],
            max_epochs=1,
            limit_train_batches=10,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        begun = {key: value.clone() for key, value in module.state_dict().items()}
        trainer.fit(module, data)
        torch.save(begun, output / f"{name}_begun.pt")
        torch.save(module.state_dict(), output / f"{name}_{processes}_{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
