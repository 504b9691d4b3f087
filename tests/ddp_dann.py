"""Run by test_dann.py on one process or two: train DANN, keep weights, scores, lambda and what was seen.

Usage: python tests/ddp_dann.py <data folder> <processes> <output folder>
"""

import sys
from pathlib import Path
from typing import Any

import lightning
import torch

from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule
from rdfia.adaptation.dann import DANNModule


class Notes(lightning.Callback):
    """Keeps lambda, and the first pixel of each image, which tells them apart."""

    def __init__(self) -> None:
        self.strength: list[float] = []
        self.seen: dict[str, list[torch.Tensor]] = {"source": [], "target": []}

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note a batch."""
        (row,) = module.read_steps()
        self.strength.append(row.numbers["train/lambda"])
        for name, (images, _) in batch.items():
            self.seen[name].append(images[:, 0, 0, 0])


def settings_of(processes: int) -> dict[str, Any]:
    """Return the settings of a trainer."""
    return {
        "accelerator": "cpu",
        "devices": processes,
        "strategy": "ddp" if processes > 1 else "auto",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
    }


def main(data_dir: str, processes: int, output: Path) -> None:
    """Train two epochs."""
    torch.manual_seed(0)
    digits = MNISTToMNISTMDataModule(data_dir, batch_size=20, image_size=28)
    # Without BatchNorm and dropout, which see the share of a process only.
    settings = {"batch_norm": False, "dropout": 0.0, "domain_width": 10}
    module = DANNModule(network="paper", optimizer="sgd", lr=0.01, momentum=0.9, **settings)
    notes = Notes()
    trainer = lightning.Trainer(**settings_of(processes), max_epochs=2, callbacks=[notes])
    trainer.fit(module, digits)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items() if "val" in name}
    saved = {"weights": module.state_dict(), "scores": scores}
    if processes > 1:
        # With BatchNorm, whose statistics each process has of its own.
        normalised = DANNModule(network="paper", dropout=0.0, domain_width=10)
        again = lightning.Trainer(**settings_of(processes), max_epochs=1)
        again.fit(normalised, digits)
        found = {name: float(value) for name, value in again.callback_metrics.items() if "val" in name}
        saved["normalised"] = {"weights": normalised.state_dict(), "scores": found}
    saved |= {"strength": notes.strength, "seen": {name: torch.stack(s) for name, s in notes.seen.items()}}
    torch.save(saved, output / f"{processes}_{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
