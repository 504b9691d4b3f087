"""USPS digits (Hull 1994), 7,291 + 2,007 of 16x16: in the files of libsvm and torchvision, or zip.train."""

import bz2
import zlib
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_svmlight_file
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.files import data_root
from datamodules.in_memory import InMemoryDataModule
from datamodules.layouts import USPS, find_usps
from datamodules.mnist import DIGITS, check_shape, to_size
from datamodules.tensors import ImageTensors


def load_usps(root: Path, part: str) -> tuple[Tensor, Tensor]:
    """Load ``train`` or ``test``.

    Returns:
        Images (N, 1, 16, 16) uint8 and labels (N,) int64.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is damaged.
    """
    path = find_usps(root, part)
    try:
        if path.suffix == ".bz2":
            with bz2.open(path) as file:
                pixels, labels = load_svmlight_file(file, n_features=256)
            found, digits = pixels.toarray(), labels - 1
        else:  # a line a digit: its class, then 256 values
            rows = np.loadtxt(path, dtype=np.float32, ndmin=2)
            if rows.shape[1] != 257:
                raise ValueError(f"a line has {rows.shape[1]} numbers, not 257")
            found, digits = rows[:, 1:], rows[:, 0]
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is no file of USPS digits ({error}); delete it and run: "
            "python scripts/prepare_data.py usps"
        ) from error
    values, labels = torch.from_numpy(found).float(), digits
    if not len(labels) or labels.min() < 0 or labels.max() > 9 or not values.abs().max() <= 1:
        raise ValueError(f"{path} does not hold digits of ten classes and pixels in [-1, 1]")
    images = ((values + 1) / 2 * 255).round().to(torch.uint8)
    return images.reshape(-1, 1, 16, 16), torch.from_numpy(labels).long()


class USPSDataModule(InMemoryDataModule):
    """USPS for training, validation and test; batches of float images (B, C, H, W) in [0, 1] and labels.

    Digits are scaled to 20x20 and padded with black to ``image_size``, so that they are as large as those
    of MNIST. Validation is the last twelfth of the training digits.

    Args:
        data_dir: Where ``USPS/usps.bz2`` and ``USPS/usps.t.bz2`` lie, or ``USPS/zip.train[.gz]`` and
            ``USPS/zip.test[.gz]`` with the same digits. By default ``$RDFIA_DATA``, else
            ``./data``.
        batch_size: Images in one training step, over all processes together.
        seed: Of the order of the training batches.
        num_workers: 0 is fastest: the digits live in memory.
        image_size: 28 or 32.
        channels: 1, or 3 (the grey channel repeated).
        val_fraction: The part of the training images held out for validation: the last ones.
        train_on_val: Train on the validation images too; the validation set stays the same.

    Example:
        >>> digits = USPSDataModule("data", batch_size=16)
        >>> digits.setup()
        >>> images, labels = next(iter(digits.train_dataloader()))
        >>> images.shape
        torch.Size([16, 1, 28, 28])
    """

    classes = DIGITS

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        batch_size: int = 128,
        seed: int = 0,
        num_workers: int = 0,
        image_size: int = 28,
        channels: int = 1,
        val_fraction: float = 1 / 12,
        train_on_val: bool = False,
    ) -> None:
        super().__init__(
            data_dir,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
            val_fraction=val_fraction,
            train_on_val=train_on_val,
        )
        check_shape(image_size, channels)
        self.image_size, self.channels = image_size, channels
        self.resized = "frame" if image_size == 32 else "squash"

    def prepare_data(self) -> None:
        """Fail at once, in one process, if a file is missing. Never downloads."""
        for part in USPS:
            find_usps(data_root(self.data_dir), part)

    def read(self) -> tuple[ImageTensors, ImageTensors]:
        """Return the training digits and the test digits."""
        root = data_root(self.data_dir)
        return self._part(*load_usps(root, "train")), self._part(*load_usps(root, "test"))

    def _part(self, images: Tensor, labels: Tensor) -> ImageTensors:
        digits = interpolate(images.float(), (20, 20), mode="bilinear", antialias=True)
        padded = to_size(digits.round().to(torch.uint8), self.image_size)
        return ImageTensors(padded, labels, channels=self.channels)

    @property
    def title(self) -> str:
        """``USPS``."""
        return "USPS"
