"""15 Scene (Lazebnik, Schmid, Ponce, "Beyond Bags of Features", 2006): 4,485 grey photographs of 15 scenes.

Every public copy holds 18 pairs of byte-identical files, nearly all living rooms; in the published split of
1,500 / 2,985 images, 11 of them have one side in train and the other in test. The audit that finds them is
printed and stored with each result.
"""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from datamodules.audit import audit, check_classes, split_by_seed
from datamodules.files import data_root, say
from datamodules.images import Found, decode_all, find_pictures, is_litter, kinds
from datamodules.in_memory import InMemoryDataModule
from datamodules.layouts import find_scene15
from datamodules.tensors import ImageTensors

CLASSES = (
    "bedroom",
    "coast",
    "forest",
    "highway",
    "industrial",
    "insidecity",
    "kitchen",
    "livingroom",
    "mountain",
    "office",
    "opencountry",
    "store",
    "street",
    "suburb",
    "tallbuilding",
)
TRAIN_PER_CLASS = 100


def class_files(folder: Path) -> tuple[list[tuple[Path, int]], Counter[str]]:
    """Return the pictures of a folder with one subfolder per class, as (path, class index), in order of name.

    And how many other files are there, by suffix.

    Raises:
        ValueError: A class is missing, or empty.
    """
    # Some copies put the origin before the name: MITcoast, CALsuburb, PARoffice.
    named: dict[str, Path] = {}
    others = Counter[str]()
    for entry in sorted(folder.iterdir()):
        name = entry.name.removeprefix("MIT").removeprefix("CAL").removeprefix("PAR").lower()
        if is_litter(entry):
            continue
        if not entry.is_dir():
            others[f"{entry.suffix.lower()} beside the classes"] += 1
        elif name not in CLASSES:
            others["folders that are no class"] += 1
        elif name in named:
            both = f"{named[name].name} and {entry.name}"
            raise ValueError(f"{folder} holds two folders of class {name!r}, {both}; join them")
        else:
            named[name] = entry
    files: list[tuple[Path, int]] = []
    for index, name in enumerate(CLASSES):
        found = find_pictures(named[name], recursive=False) if name in named else Found([], Counter())
        if not found.pictures:
            raise ValueError(
                f"{folder} holds no pictures of class {name!r} (expected {folder / name}/*.jpg); "
                "unpack 15 Scene again"
            )
        files += [(path, index) for path in found.pictures]
        others += found.others
    return files, others


class Scene15DataModule(InMemoryDataModule):
    """15 Scene for training, validation and test; batches of float images in [0, 1] and int64 labels.

    The images are decoded and resized once and live in memory as grey bytes.

    Args:
        data_dir: Where ``15SceneData`` lies: ``{train,test}/<class>/*.jpg``, or one folder per class. By
            default ``$RDFIA_DATA``, else ``./data``.
        batch_size: Images in one training step, over all processes together.
        seed: Of the order of the training batches.
        num_workers: 0 is fastest: the images live in memory.
        image_size: Side of the images in pixels; proportions are not kept, as in the practical.
        channels: 3 (the grey channel repeated) or 1.
        split_seed: Draw 100 training images per class from all images by this seed. None takes the published
            split, or seed 0 where the copy has no split.
        duplicates: ``keep`` all images, as published numbers do, or ``drop_from_test`` those that train
            holds too.
        val_fraction: The part of each class's training images held out for validation, drawn by a fixed rule.
        train_on_val: Train on the validation images too; the validation set stays the same.
        shuffle: False gives the training images in order, each exactly once, for extracting features.
        watch_test: Validation gives the test images as a second loader, for curves that choose nothing.

    Example:
        >>> scenes = Scene15DataModule("data", batch_size=16, image_size=64)
        >>> scenes.setup()  # doctest: +ELLIPSIS
        15 Scene...
        >>> images, labels = next(iter(scenes.train_dataloader()))
        >>> images.shape
        torch.Size([16, 3, 64, 64])
    """

    classes = CLASSES

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        image_size: int = 224,
        channels: int = 3,
        split_seed: int | None = None,
        duplicates: Literal["keep", "drop_from_test"] = "keep",
        val_fraction: float = 0.2,
        train_on_val: bool = False,
        shuffle: bool = True,
        watch_test: bool = False,
    ) -> None:
        super().__init__(
            data_dir,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
            val_fraction=val_fraction,
            train_on_val=train_on_val,
        )
        if channels not in (1, 3):
            raise ValueError(f"channels is 1 or 3, got {channels}")
        if duplicates not in ("keep", "drop_from_test"):
            raise ValueError(f"duplicates is keep or drop_from_test, got {duplicates}")
        self.image_size, self.channels = image_size, channels
        self.split_seed, self.duplicates = split_seed, duplicates
        self.shuffle, self.watch_test = shuffle, watch_test
        self.not_read = Counter[str]()  # files that are no pictures, by suffix

    def find(self) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]], str]:
        """Return training files, test files and the name of the split."""
        root = data_root(self.data_dir)
        folder = find_scene15(root)
        if (folder / "train").is_dir():
            (train, more), (test, others) = class_files(folder / "train"), class_files(folder / "test")
            self.not_read = more + others
            if self.split_seed is None:
                return train, test, "published split"
            files = sorted(train + test, key=lambda item: (item[1], item[0].name))
        else:
            files, self.not_read = class_files(folder)
        seed = self.split_seed or 0
        return *split_by_seed(files, TRAIN_PER_CLASS, seed), f"split by seed {seed}"

    def prepare_data(self) -> None:
        """Fail at once, in one process, if a class is missing. Never downloads."""
        self.find()

    def setup(self, stage: str | None = None) -> None:
        """Audit the files, decode them into memory, and print the audit.

        Of each class's training images some are held out: here the last are no fair part of all.
        """
        if hasattr(self, "train_data"):
            return
        train, test, split = self.find()
        self.split = split
        test, self.audit = audit(train, test, drop=self.duplicates == "drop_from_test")
        # A drawn split is not that of published numbers, and what lies there and is not read may be missed.
        drawn = "" if split == "published split" else f"; {split}, which is not the published one"
        say(f"15 Scene: {self.audit}{drawn}")
        if self.not_read:
            say(f"not read in 15SceneData: {kinds(self.not_read)}")
        check_classes(train, self.classes, "training", least=2)
        check_classes(test, self.classes, "test", least=1)
        smallest = np.bincount([label for _, label in train]).min()
        held_out = max(1, round(int(smallest) * self.val_fraction))
        val, rest = split_by_seed(train, held_out, seed=0)
        # An image to choose by must not be one that was trained on.
        val, _ = audit(rest, val, drop=True)
        self.train_files = train if self.train_on_val else rest
        self.val_files, self.test_files = val, test
        self.train_data, self.test_data = self.read()
        self.val_data = self._load(self.val_files)

    def read(self) -> tuple[ImageTensors, ImageTensors]:
        """Return training and test images, once the files are known."""
        return self._load(self.train_files), self._load(self.test_files)

    def _load(self, files: list[tuple[Path, int]]) -> ImageTensors:
        images = decode_all([path for path, _ in files], mode="L", size=self.image_size)
        labels = torch.tensor([label for _, label in files])
        return ImageTensors(images, labels, channels=self.channels)

    @property
    def title(self) -> str:
        """``15 Scene``, and which split."""
        return f"15 Scene, {self.split}"

    def describe(self) -> dict[str, Any]:
        """Return name, counts, sha256 and audit of the data, for results.json."""
        return super().describe() | {"audit": asdict(self.audit)}
