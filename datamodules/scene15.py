"""15 Scene (Lazebnik, Schmid, Ponce, "Beyond Bags of Features", 2006): 4,485 grey photographs of 15 scenes.

Every public copy holds 18 pairs of byte-identical files, nearly all living rooms; in the published split of
1,500 / 2,985 images, 11 of them have one side in train and the other in test. The audit that finds them is
printed and stored with each result.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.audit import split_by_seed
from datamodules.files import data_root
from datamodules.folder import ImageFolderDataModule
from datamodules.labelled_files import LabelledFiles
from datamodules.layouts import find_scene15
from datamodules.listing import Listing, list_folder

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


def class_name(folder: str) -> str:
    """Return the class of a folder: some copies put the origin before it, MITcoast, CALsuburb, PARoffice."""
    return folder.removeprefix("MIT").removeprefix("CAL").removeprefix("PAR").lower()


class Scene15DataModule(ImageFolderDataModule):
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
            Path(),  # known when it is looked for
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
            image_size=image_size,
            channels=channels,
            duplicates=duplicates,
            val_fraction=val_fraction,
            train_on_val=train_on_val,
            shuffle=shuffle,
            watch_test=watch_test,
        )
        self.data_dir, self.drawn_by, self.mode = data_dir, split_seed, "L"

    def listed(self) -> Listing:
        """Return the published split, or the one that is asked for."""
        self.folder = find_scene15(data_root(self.data_dir))
        listing = list_folder(self.folder, classes=CLASSES, class_name=class_name, depth=0)
        listing.split = "published split"
        if "" not in listing.parts and self.drawn_by is None:
            return listing
        files = sum(list(listing.parts.values())[1:], next(iter(listing.parts.values())))
        train, test = self.draw(files, np.empty(0), self.drawn_by or 0)
        parts = {"train": files[train], "test": files[test]}
        return Listing(CLASSES, parts, listing.others, f"split by seed {self.drawn_by or 0}")

    def draw(self, files: LabelledFiles, hashes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of 100 training files of each class, and of the others: copies may straddle."""
        named = [name.rpartition(b"/")[2] for name in files.names.tolist()]
        order = np.lexsort((named, files.labels))
        train, test = split_by_seed(files.labels[order], TRAIN_PER_CLASS, seed)
        return order[train], order[test]

    def summary(self) -> str:
        """Return the audit; a drawn split is not that of published numbers."""
        drawn = "" if self.split == "published split" else f"; {self.split}, which is not the published one"
        return f"15 Scene: {self.audit}{drawn}"

    def held_out(self, labels: np.ndarray) -> int:
        """Return of each class the same number: a share of the smallest."""
        return max(1, round(int(np.bincount(labels).min()) * self.val_fraction))

    @property
    def title(self) -> str:
        """``15 Scene``, and which split."""
        return f"15 Scene, {self.split}"

    def describe(self) -> dict[str, Any]:
        """Return name, counts, sha256 and audit of the data, for results.json."""
        return super().describe() | {"audit": asdict(self.audit)}
