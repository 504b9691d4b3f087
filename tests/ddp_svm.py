"""Run by test_feature_extractor_svm.py on one process or two: fit the SVM and keep it.

Usage: python tests/ddp_svm.py <data folder> <processes> <output folder>
"""

import sys
from pathlib import Path

import lightning
import torch

from datamodules.scene15 import Scene15DataModule
from rdfia.transfer.svm_module import FeatureExtractorSVM


def main(data_dir: str, processes: int, output: Path) -> None:
    """Fit, validate, test."""
    # batches of 7: 75 images are shared unevenly
    scenes = Scene15DataModule(data_dir, image_size=64, batch_size=7, shuffle=False, train_on_val=True)
    module = FeatureExtractorSVM(backbone="squeezenet1_1", layers=["fire4"], folds=3)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, scenes)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    scores |= trainer.test(module, scenes, verbose=False)[0]
    assert module.classifier is not None
    saved = {"svm": module.classifier.state_dict(), "scores": scores}
    torch.save(saved, output / f"{processes}_{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
