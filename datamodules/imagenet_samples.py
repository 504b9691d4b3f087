"""A few ImageNet images (Russakovsky et al. 2015) to look at networks with, in any of three layouts."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from datamodules.files import data_root, say
from datamodules.images import decode_all
from datamodules.layouts import find_samples
from datamodules.listing import find_pictures
from datamodules.tensors import BatchLoader, ImageTensors, describe, eval_loader

# The class index is the rank of a synset among all 1000, not among the folders that happen to be there.
SYNSETS = tuple((Path(__file__).parent / "imagenet_synsets.txt").read_text().split())
CLASS_INDEX = {synset: index for index, synset in enumerate(SYNSETS)}
SYNSET = re.compile(r"n\d{8}")


def load_npz(path: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Read the file of the classic practical, ``imagenet_val_25.npz``.

    Its ``label_map`` is a pickle and is never opened: the names come with the class indices.

    Returns:
        Images (N, 3, H, W) uint8, labels (N,) int64, and names.

    Raises:
        ValueError: Not an npz file with images ``X`` and labels ``y``.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            pixels, labels = file["X"], file["y"]
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no npz file with arrays X and y ({error})") from error
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"{path} holds X {pixels.dtype} {pixels.shape}, expected uint8 (N, H, W, 3)")
    if labels.shape != pixels.shape[:1] or not ((labels >= 0) & (labels < 1000)).all():
        raise ValueError(f"{path} holds labels y that are not {len(pixels)} numbers from 0 to 999")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(labels).long(), [f"image {n}" for n in range(len(labels))]


def with_classes(pictures: Sequence[Path]) -> list[tuple[Path, int]]:
    """Return pictures as (path, class index), in order of class and name; -1 where the class is not known.

    It is by a name ``nXXXXXXXX_name.JPEG``, or in a folder ``nXXXXXXXX`` (an ImageFolder).

    Raises:
        ValueError: A name begins with a synset that is not one of the 1000.
    """
    found = []
    for path in pictures:
        match = SYNSET.match(path.name) or SYNSET.fullmatch(path.parent.name)
        if match and match[0] not in CLASS_INDEX:
            raise ValueError(f"{path}: {match[0]} is not one of ImageNet's 1000 synsets")
        found.append((path, CLASS_INDEX[match[0]] if match else -1))
    return sorted(found, key=lambda item: (item[1], item[0]))


class ImageNetSamplesDataModule(lightning.LightningDataModule):
    """Some ImageNet images with their class indices; batches of float images (B, 3, H, W) in [0, 1].

    There is nothing to train on: validation, test and prediction all give the same images, in order.

    Args:
        data_dir: Where ``imagenet_val_25.npz`` or ``imagenet-samples`` lies; ``sample`` for the embedded
            photographs that show an ImageNet class. By default ``$RDFIA_DATA``, else ``./data``.
        path: An npz file or a folder, instead of the first of those two.
        batch_size: Images in a batch.
        num_workers: 0 is fastest: the images live in memory.
        image_size: Side of the images. Pictures are resized (shorter side to 8/7 of it), then cropped in
            the middle.

    Example:
        >>> samples = ImageNetSamplesDataModule("sample")
        >>> samples.setup()
        >>> images, labels = next(iter(samples.test_dataloader()))
        >>> images.shape[1:]
        torch.Size([3, 224, 224])
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        path: str | Path | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        self.data_dir, self.path = data_dir, path
        self.batch_size, self.num_workers, self.image_size = batch_size, num_workers, image_size

    def _find(self) -> Path:
        """Return the npz file or folder to read."""
        if self.path is not None:
            chosen = Path(self.path).expanduser()
            if not chosen.exists():
                raise FileNotFoundError(f"{chosen} does not exist; expected an npz file or a folder")
            return chosen
        return find_samples(data_root(self.data_dir))

    def prepare_data(self) -> None:
        """Fail at once, in one process, if there is nothing to read. Never downloads."""
        self._find()

    def setup(self, stage: str | None = None) -> None:
        """Load the images into memory; ``names`` are their file names."""
        if hasattr(self, "data"):
            return
        self.found = self._find()
        if self.found.is_file():
            images, labels, self.names = load_npz(self.found)
            if images.shape[-1] != self.image_size:
                raise ValueError(
                    f"{self.found} holds images of side {images.shape[-1]}, asked for {self.image_size}"
                )
        else:
            there = find_pictures(self.found)
            named = with_classes(there.pictures)
            pictures = [(path, label) for path, label in named if label >= 0]
            if there.others or len(pictures) < len(named):
                without = f"{len(named) - len(pictures):,} pictures without a synset in their name"
                say(f"{self.found}: {there}; left out: {without}")
            if not pictures:
                raise FileNotFoundError(
                    f"{self.found} holds no pictures named nXXXXXXXX_name.JPEG or in folders nXXXXXXXX"
                )
            paths = [path for path, _ in pictures]
            shorter = self.image_size * 8 // 7
            images = decode_all(paths, mode="RGB", size=shorter, crop=self.image_size)
            labels = torch.tensor([label for _, label in pictures])
            self.names = [path.stem for path in paths]
            if len(set(self.names)) < len(paths):  # two folders may hold one name
                self.names = [f"{number}_{name}" for number, name in enumerate(self.names)]
        self.data = ImageTensors(images, labels)

    def describe(self) -> dict[str, Any]:
        """Return name, count and sha256 of the data, for results.json."""
        return describe(f"ImageNet samples, {self.found.name}", test=self.data)

    def val_dataloader(self) -> BatchLoader:
        """Return all images, each exactly once."""
        return eval_loader(self.data, self)

    def test_dataloader(self) -> BatchLoader:
        """Return all images, each exactly once."""
        return eval_loader(self.data, self)

    def predict_dataloader(self) -> BatchLoader:
        """Return all images, each exactly once."""
        return eval_loader(self.data, self)
