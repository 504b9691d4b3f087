"""Data sets that torchvision reads, by their names: small images as arrays, photographs as files.

`datamodules.layouts.TORCHVISION` says which, and where they lie. Training never downloads them::

    python scripts/prepare_data.py cifar10 --data-dir data
"""

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torchvision
from torch import Tensor

from datamodules.audit import a_share, check_classes, check_per_class, split_by_seed
from datamodules.files import data_root
from datamodules.folder import ImageFolderDataModule
from datamodules.in_memory import InMemoryDataModule
from datamodules.labelled_files import LabelledFiles
from datamodules.layouts import TORCHVISION, find_torchvision
from datamodules.listing import Listing
from datamodules.tensors import ImageTensors


def open_part(name: str, root: Path, part: dict[str, Any], *, download: bool = False) -> Any:
    """Return torchvision's data set of one part.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is there and not whole, or not a name that is known.
    """
    if name not in TORCHVISION:
        raise ValueError(f"data set {name!r} is none of {', '.join(TORCHVISION)}")
    if not download:
        find_torchvision(root, name)
    try:
        return getattr(torchvision.datasets, TORCHVISION[name].kind)(root, download=download, **part)
    except (RuntimeError, OSError, KeyError, EOFError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        mend = f"delete {root / TORCHVISION[name].place} and run: python scripts/prepare_data.py {name}"
        raise ValueError(f"{name} in {root} is not whole ({why}); {mend} --data-dir {root}") from error


def arrays(dataset: Any) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) uint8 and labels (N,) int64 from 0 on of a set that holds arrays."""
    images = torch.as_tensor(np.asarray(dataset.data))
    labels = torch.as_tensor(np.asarray(getattr(dataset, "targets", getattr(dataset, "labels", None)))).long()
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if isinstance(dataset, torchvision.datasets.EMNIST):
        images = images.transpose(2, 3)  # as they are stored, letters lie on their sides
        if dataset.split == "letters":
            labels = labels - 1  # which are counted from 1
    return images.contiguous(), labels


def class_names(dataset: Any, count: int) -> tuple[str, ...]:
    """Return names of classes, numbers where torchvision has none."""
    known = [
        " / ".join(one) if isinstance(one, tuple) else str(one) for one in getattr(dataset, "classes", [])
    ]
    if isinstance(dataset, torchvision.datasets.EMNIST) and dataset.split == "letters":
        known = known[1:]  # the first stands for none
    return tuple(known) if len(known) == count else tuple(map(str, range(count)))


class TorchvisionDataModule(InMemoryDataModule):
    """A set of small images, such as CIFAR-10; batches of float images in [0, 1] and int64 labels.

    The images are kept at their own size; where another is asked for, batches are resized (28 to 32: framed
    with black, as MNIST is). Of each class's training images a share is held out for validation.

    Args:
        name: Such as ``cifar10``, see `datamodules.layouts.TORCHVISION`.
        data_dir: Where it lies. By default ``$RDFIA_DATA``, else ``./data``.
        batch_size: Images in one training step, over all processes together.
        seed: Of the order of the training batches.
        num_workers: 0 is fastest: the images live in memory.
        image_size: Side; None for their own.
        channels: 1 or 3; None for their own. Grey ones can be repeated to 3.
        per_class: Training images of each class, drawn; None for all.
        split_seed: Of that draw.
        val_fraction: The part of each class's training images held out for validation.
        train_on_val: Train on the validation images too; the validation set stays the same.

    Example:
        >>> clothes = TorchvisionDataModule("fashion-mnist", "data", image_size=32)
        >>> clothes.setup()
        >>> clothes.classes[0], clothes.test_data[0][0].shape
        ('T-shirt/top', torch.Size([1, 32, 32]))
    """

    def __init__(
        self,
        name: str,
        data_dir: str | Path | None = None,
        *,
        batch_size: int = 128,
        seed: int = 0,
        num_workers: int = 0,
        image_size: int | None = None,
        channels: int | None = None,
        per_class: int | None = None,
        split_seed: int = 0,
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
        if channels not in (None, 1, 3):
            raise ValueError(f"channels is 1 or 3, got {channels}")
        if name not in TORCHVISION:
            raise ValueError(f"data set {name!r} is none of {', '.join(TORCHVISION)}")
        check_per_class(per_class)
        self.set_name, self.image_size, self.channels = name, image_size, channels
        self.per_class, self.split_seed = per_class, split_seed
        self.parts: list[tuple[Tensor, Tensor]] = []  # images and labels as they were read

    def prepare_data(self) -> None:
        """Read the set; fail at once, in one process, if a file is missing. Never downloads."""
        if not self.parts and not hasattr(self, "train_data"):
            known, root = TORCHVISION[self.set_name], data_root(self.data_dir)
            train = open_part(self.set_name, root, known.train)
            test = open_part(self.set_name, root, cast("dict[str, Any]", known.test))
            self.parts = [arrays(train), arrays(test)]
            self.classes = class_names(train, int(self.parts[0][1].max()) + 1)

    def read(self) -> tuple[ImageTensors, ImageTensors]:
        """Return all training images, in their official order, and the test images."""
        self.prepare_data()
        train, test = (self._part(*part) for part in self.parts)
        self.parts = []
        return train, test

    def _part(self, images: Tensor, labels: Tensor) -> ImageTensors:
        own = images.shape[1]
        self.resized = "frame" if (images.shape[-1], self.image_size) == (28, 32) else "squash"
        if self.channels == 1 and own == 3:
            raise ValueError(f"{self.set_name} is in colour; take channels=3")
        return ImageTensors(images, labels, channels=self.channels, size=self.image_size)

    def setup(self, stage: str | None = None) -> None:
        """Load all three parts into memory."""
        if hasattr(self, "train_data"):
            return
        train, self.test_data = self.read()
        if self.per_class is not None:
            check_classes(train.labels.numpy(), self.classes, "training", least=self.per_class)
            drawn, _ = split_by_seed(train.labels.numpy(), self.per_class, self.split_seed)
            train = train.part(torch.from_numpy(np.sort(drawn)))
        # Some sets are sorted by class, of which the last ones are no fair part.
        held, rest = split_by_seed(train.labels.numpy(), a_share(self.val_fraction), seed=0)
        self.val_data = train.part(torch.from_numpy(np.sort(held)))
        self.train_data = train if self.train_on_val else train.part(torch.from_numpy(np.sort(rest)))

    @property
    def title(self) -> str:
        """Its name, and what of it was drawn."""
        if self.per_class is None:
            return self.set_name
        return f"{self.set_name}, {self.per_class} of each class drawn from train by seed {self.split_seed}"


class TorchvisionFilesDataModule(ImageFolderDataModule):
    """A set of photographs, such as Food-101; see `ImageFolderDataModule` for all but the first two.

    Args:
        name: Such as ``food101``, see `datamodules.layouts.TORCHVISION`.
        data_dir: Where it lies. By default ``$RDFIA_DATA``, else ``./data``.
        **keywords: Of `ImageFolderDataModule`.

    Example:
        >>> fields = TorchvisionFilesDataModule("eurosat", "data", image_size=64)
        >>> fields.setup()  # doctest: +ELLIPSIS
        2750: ...
        >>> fields.classes
        ('Forest', 'River')
    """

    def __init__(self, name: str, data_dir: str | Path | None = None, **keywords: Any) -> None:
        super().__init__(Path(name), **keywords)
        self.data_dir, self.set_name = data_dir, name

    def listed(self) -> Listing:
        """Return the official parts."""
        known, root = TORCHVISION[self.set_name], data_root(self.data_dir)
        wanted = {"train": known.train, "val": known.val, "test": known.test}
        parts: dict[str, LabelledFiles] = {}
        classes: tuple[str, ...] = ()
        for part, keywords in wanted.items():
            if keywords is not None:
                dataset = open_part(self.set_name, root, keywords)
                paths, labels = _files_of(dataset)
                names = [os.fsencode(os.path.relpath(path, root)) for path in paths]
                parts[part] = LabelledFiles(root, names, np.asarray(labels, np.int64))
                classes = classes or class_names(dataset, int(max(labels)) + 1)
        self.folder = root / known.place
        if known.test is None:
            parts = {"": parts["train"]}
        return Listing(classes, parts, split="official split" if "" not in parts else "")

    @property
    def title(self) -> str:
        """Its name, and which split."""
        return f"{self.set_name}, {self.split}"


def _files_of(dataset: Any) -> tuple[list[Any], list[int]]:
    """Return paths and labels of one of torchvision's sets of files.

    It has no common name for them; these are of all versions since 0.12.
    """
    for name in ("_samples", "samples"):
        if hasattr(dataset, name):
            pairs = getattr(dataset, name)
            return [path for path, _ in pairs], [label for _, label in pairs]
    for name in ("_image_files", "_images"):
        if hasattr(dataset, name):
            return list(getattr(dataset, name)), list(dataset._labels)
    raise ValueError(f"this version of torchvision keeps the files of {type(dataset).__name__} elsewhere")
