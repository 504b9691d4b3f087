"""MNIST digits (LeCun et al. 1998): the IDX files as torchvision lays them out, read in one go."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from datamodules.files import SAMPLES, data_root
from datamodules.in_memory import InMemoryDataModule
from datamodules.layouts import find_idx
from datamodules.tensors import ImageTensors

# md5 of the decompressed official files: recompressed copies have other .gz hashes, the same bytes.
DIGITS = tuple("0123456789")
OFFICIAL_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes, decompressed if its name ends in .gz.

    Raises:
        ValueError: The gzip stream is truncated or corrupt.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is not a complete gzip file ({error}); delete it and run: "
            "python scripts/prepare_data.py mnist"
        ) from error


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of unsigned bytes: (N, 28, 28) images or (N,) labels, uint8.

    Raises:
        ValueError: Wrong magic number, or not as many bytes as the header says.
    """
    data = read_bytes(path)
    # The magic number: two zero bytes, 0x08 for unsigned bytes, the number of dimensions.
    if len(data) < 4 or data[:3] != b"\0\0\x08" or data[3] not in (1, 3):
        raise ValueError(
            f"{path} is not an IDX file of bytes: it begins with 0x{data[:4].hex()}, expected "
            "0x00000803 (images) or 0x00000801 (labels)"
        )
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise ValueError(
            f"{path} ends within its header, after {len(data)} bytes; delete it and run: "
            "python scripts/prepare_data.py mnist"
        )
    shape = [int(n) for n in np.frombuffer(data[4:header], ">u4")]
    if len(data) != header + math.prod(shape):
        raise ValueError(
            f"{path} has {len(data)} bytes, but its header {shape} needs "
            f"{header + math.prod(shape)}; delete it and run: python scripts/prepare_data.py mnist"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy())


def load_mnist(root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Load one official part of MNIST.

    Args:
        root: The data folder.
        train: The 60,000 training digits, or the 10,000 test digits.

    Returns:
        Images (N, 1, 28, 28) uint8 and labels (N,) int64.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or images and labels do not belong together.
    """
    part = "train" if train else "t10k"
    image_path = find_idx(root, f"{part}-images-idx3-ubyte")
    label_path = find_idx(root, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{image_path} holds {tuple(images.shape)} and {label_path} {tuple(labels.shape)}; "
            "expected (N, 28, 28) and (N,)"
        )
    if not len(labels) or labels.max() > 9:
        raise ValueError(f"{label_path} holds no labels 0 to 9")
    return images[:, None], labels.long()


def to_size(images: Tensor, image_size: int) -> Tensor:
    """Pad square images with black to ``image_size``, as LeNet-5 did: no pixel of the digit changes.

    Beyond 32 they are enlarged instead, for networks that were made for photographs.
    """
    if image_size > 32:
        # In parts: as floats all digits at once take 26 GB at 224 pixels.
        parts = images.split(1000)
        return torch.cat(
            [interpolate(part.float(), image_size, mode="bilinear").round().byte() for part in parts]
        )
    return pad(images, [(image_size - images.shape[-1]) // 2] * 4)


def check_shape(image_size: int, channels: int, *, enlarged: bool = False) -> None:
    """Check what digits can be read as; ``enlarged`` allows any size above 32, too.

    Raises:
        ValueError: They cannot be read so.
    """
    if not (image_size in (28, 32) or (enlarged and image_size > 32)) or channels not in (1, 3):
        sizes = "28, 32 or more" if enlarged else "28 or 32"
        raise ValueError(f"image_size is {sizes} and channels 1 or 3, got {image_size} and {channels}")


class MNISTDataModule(InMemoryDataModule):
    """MNIST for training, validation and test; batches of float images in [0, 1] and int64 labels.

    The split is a rule and depends on no seed: validation is the last twelfth of the official training
    order (5,000 of 60,000), test the official test set.

    Args:
        data_dir: Where ``MNIST/raw`` lies; ``sample`` for the 5,000 embedded digits. By default
            ``$RDFIA_DATA``, else ``./data``.
        batch_size: Images in one training step, over all processes together.
        seed: Of the order of the training batches.
        num_workers: 0 is fastest: the digits live in memory.
        image_size: 28, or 32 (2 black pixels added on each side); more enlarges the digits, as pretrained
            networks need.
        channels: 1, or 3 (the grey channel repeated).
        val_fraction: The part of the training digits held out for validation.
        train_on_val: Train on the validation digits too, as generative models do, whose validation
            compares distributions. The validation set stays the same.

    Example:
        >>> digits = MNISTDataModule("sample", batch_size=64, image_size=32)
        >>> digits.setup()
        >>> images, labels = next(iter(digits.train_dataloader()))
        >>> images.shape
        torch.Size([64, 1, 32, 32])
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
        check_shape(image_size, channels, enlarged=True)
        self.image_size, self.channels = image_size, channels
        self.resized = "frame" if image_size == 32 else "squash"

    def prepare_data(self) -> None:
        """Fail at once, in one process, if a file is missing. Never downloads."""
        for name in OFFICIAL_MD5:
            find_idx(data_root(self.data_dir), name)

    def read(self) -> tuple[ImageTensors, ImageTensors]:
        """Return the official training digits and the official test digits."""
        root = data_root(self.data_dir)
        train, test = (load_mnist(root, train=train) for train in (True, False))
        return self._part(*train), self._part(*test)

    def _part(self, images: Tensor, labels: Tensor) -> ImageTensors:
        return ImageTensors(to_size(images, self.image_size), labels, channels=self.channels)

    @property
    def title(self) -> str:
        """``MNIST``, or that it is the embedded sample."""
        return "MNIST, embedded sample" if data_root(self.data_dir) == SAMPLES else "MNIST"
