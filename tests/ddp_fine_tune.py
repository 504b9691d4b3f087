"""Run by test_fine_tune.py on one process or two: fine-tune in stages and keep the weights.

Usage: python tests/ddp_fine_tune.py <data folder> <processes> <output folder>
"""

import sys
from pathlib import Path

import lightning
import torch

from datamodules.scene15 import Scene15DataModule
from rdfia.transfer.fine_tune import FineTuneModule


def main(data_dir: str, processes: int, output: Path) -> None:
    """Train three epochs, a stage each."""
    torch.manual_seed(0)
    scenes = Scene15DataModule(data_dir, image_size=64, batch_size=20)
    weights = [1.0 + number % 3 for number in range(15)]  # the processes' shares weigh differently
    module = FineTuneModule(unfreeze_top_at=1, unfreeze_all_at=2, class_weights=weights)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, scenes)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    saved = {"weights": module.state_dict(), "scores": scores}
    torch.save(saved, output / f"{processes}_{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
