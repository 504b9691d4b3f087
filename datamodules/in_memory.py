"""The data module that the data sets share: images in memory, the same split for ever, exact evaluation."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import lightning

from datamodules.tensors import BatchLoader, ImageTensors, describe, eval_loader, train_loader


def hold_out(length: int, val_fraction: float) -> int:
    """Return where validation begins: the last ``val_fraction`` of the items, in the official order.

    Raises:
        ValueError: One of the two parts would be empty.
    """
    held_out = round(length * val_fraction)
    if not 0 < held_out < length:
        raise ValueError(f"{length} training images leave {held_out} for validation; there must be more")
    return length - held_out


class InMemoryDataModule(lightning.LightningDataModule, ABC):
    """Training, validation and test of one data set in memory; a data set says how it is read.

    Validation is the last part of the training images in their official order, which depends on no seed. Each
    validation and test image is scored exactly once, on one process or many.

    Args:
        data_dir: Where the data lies. By default ``$RDFIA_DATA``, else ``./data``.
        batch_size: Images in one training step, over all processes together.
        seed: Of the order of the training batches.
        num_workers: 0 is fastest: the images live in memory.
        val_fraction: The part of the training images held out for validation.
        train_on_val: Train on the validation images too; the validation set stays the same.
    """

    classes: tuple[str, ...]
    """Names of the classes, in the order of the labels."""
    train_data: ImageTensors
    val_data: ImageTensors
    test_data: ImageTensors
    shuffle = True
    """Whether training batches are; else all training images come in order, for extracting features."""
    resized: Literal["squash", "crop", "pad", "frame", "cut"] = "squash"
    """How pictures became square, for new ones: ``squash``, ``crop``, ``pad`` (`datamodules.images.shaping`);
    ``frame``: framed with two black pixels, as digits of 28 become 32; ``cut``: without two on each side."""
    watch_test = False
    """Whether validation gives the test images as a second loader, for curves that choose nothing."""

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        batch_size: int = 128,
        seed: int = 0,
        num_workers: int = 0,
        val_fraction: float = 1 / 12,
        train_on_val: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction lies between 0 and 1, got {val_fraction}")
        self.data_dir, self.batch_size = data_dir, batch_size
        self.seed, self.num_workers = seed, num_workers
        self.val_fraction, self.train_on_val = val_fraction, train_on_val

    @abstractmethod
    def read(self) -> tuple[ImageTensors, ImageTensors]:
        """Return the training images, in their official order, and the test images."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Name of the data for results.json; known once it is set up."""

    def setup(self, stage: str | None = None) -> None:
        """Load all three parts into memory."""
        if hasattr(self, "train_data"):
            return
        train, self.test_data = self.read()
        cut = hold_out(len(train), self.val_fraction)
        self.val_data = train.between(cut, None)
        self.train_data = train if self.train_on_val else train.between(0, cut)

    def describe(self) -> dict[str, Any]:
        """Return name, counts and sha256 of the data, for results.json."""
        parts = {"train": self.train_data, "val": self.val_data, "test": self.test_data}
        return describe(self.title, **parts)

    def train_dataloader(self) -> BatchLoader:
        """Return the shuffled training batches, or without ``shuffle`` all training images in order."""
        if not self.shuffle:
            return eval_loader(self.train_data, self)
        return train_loader(self.train_data, self, seed=self.seed)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Return batches that score each validation image exactly once; with ``watch_test``, two loaders."""
        if not len(self.val_data):  # found only now, as an SVM does without
            raise ValueError(f"{self.title}: no validation image is left that is no copy of a training image")
        loader = eval_loader(self.val_data, self)
        return [loader, self.test_dataloader()] if self.watch_test else loader

    def test_dataloader(self) -> BatchLoader:
        """Return batches that score each test image exactly once."""
        return eval_loader(self.test_data, self)
