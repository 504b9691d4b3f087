"""Anyone's pictures: a folder with a subfolder for each class, with or without a split of its own."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.audit import Labelled, audit, check_classes, split_by_content, split_by_seed
from datamodules.files import say
from datamodules.images import decode_all, find_pictures, is_litter, kinds
from datamodules.in_memory import InMemoryDataModule
from datamodules.tensors import ImageTensors

Resize = Literal["squash", "crop", "pad"]


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the subfolders of a folder that hold pictures, by name: its classes, in sorted order."""
    found = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not is_litter(entry) and find_pictures(entry).pictures:
            found[entry.name] = entry
    return found


def labelled(folder: Path, classes: tuple[str, ...]) -> tuple[list[Labelled], Counter[str]]:
    """Return the pictures of a folder with one subfolder per class, in order, and what else is there.

    Args:
        folder: That exists; its subfolders may hold further ones.
        classes: Names of the subfolders, in the order of their labels.

    Raises:
        ValueError: A class has no pictures there.
    """
    files: list[Labelled] = []
    others = Counter[str]()
    for entry in folder.iterdir():
        if entry.is_file() and not is_litter(entry):
            others[f"{entry.suffix.lower()} beside the classes"] += 1
        elif entry.is_dir() and not is_litter(entry) and entry.name not in classes:
            others["folders that are no class"] += 1
    for label, name in enumerate(classes):
        found = find_pictures(folder / name) if (folder / name).is_dir() else None
        if found is None or not found.pictures:
            raise ValueError(f"{folder} holds no pictures of class {name!r}; add some, or delete the class")
        files += [(path, label) for path in found.pictures]
        others += found.others
    return files, others


class ImageFolderDataModule(InMemoryDataModule):
    """A folder of pictures for training, validation and test; batches of float images in [0, 1] and labels.

    Classes are called as their folders, in sorted order. Where the folder has no split of its own, a share of
    each class is drawn for the test set by a seed; byte-identical copies are always on one side. Copies,
    pictures of one colour and files that are not read are counted, said, and kept with the results.

    Args:
        folder: ``<class>/*``, or ``{train,test}/<class>/*`` (``val`` too, if there is one), in any format
            that Pillow reads; classes may hold further folders.
        batch_size: Images in one training step, over all processes together.
        seed: Of the order of the training batches.
        num_workers: 0 is fastest: the images live in memory.
        image_size: Side of the images in pixels.
        channels: 3, or 1 for grey.
        resize: ``squash`` to the square; ``crop``: the shorter side to 8/7 of the size, then the middle, as
            ImageNet networks are tested; ``pad`` with black.
        split_seed: Of the test set, where the folder has none.
        test_share: Of each class, where the folder has no test set.
        duplicates: ``keep`` all images, or ``drop_from_test`` those that train holds too.
        val_fraction: The part of each class's training images held out for validation, drawn by a fixed rule.
        train_on_val: Train on the validation images too; the validation set stays the same.
        shuffle: False gives the training images in order, each exactly once, for extracting features.
        watch_test: Validation gives the test images as a second loader, for curves that choose nothing.
        skip_unreadable: Leave out pictures that cannot be read, and count them; else they are an error.
        memory_gb: The most that the decoded images may take.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name, grey in (("day", 200), ("night", 20)):
        ...     (root / name).mkdir()
        ...     for number in range(4):
        ...         Image.new("L", (8, 8), grey + number).save(root / name / f"{number}.png")
        >>> pictures = ImageFolderDataModule(root, image_size=32)
        >>> pictures.setup()  # doctest: +ELLIPSIS
        tmp...: 2 classes, ... 6 training and 2 test images; ...
        >>> pictures.classes, pictures.test_data[0][0].shape
        (('day', 'night'), torch.Size([3, 32, 32]))
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        image_size: int = 224,
        channels: int = 3,
        resize: Resize = "squash",
        split_seed: int = 0,
        test_share: float = 0.25,
        duplicates: Literal["keep", "drop_from_test"] = "keep",
        val_fraction: float = 0.2,
        train_on_val: bool = False,
        shuffle: bool = True,
        watch_test: bool = False,
        skip_unreadable: bool = False,
        memory_gb: float = 6.0,
    ) -> None:
        super().__init__(
            folder,
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
        if resize not in ("squash", "crop", "pad"):
            raise ValueError(f"resize is squash, crop or pad, got {resize}")
        if not 0 < test_share < 1:
            raise ValueError(f"test_share lies between 0 and 1, got {test_share}")
        self.folder = Path(folder)
        self.image_size, self.channels, self.resize = image_size, channels, resize
        self.split_seed, self.test_share, self.duplicates = split_seed, test_share, duplicates
        self.shuffle, self.watch_test = shuffle, watch_test
        self.skip_unreadable, self.memory_gb = skip_unreadable, memory_gb
        self.others = Counter[str]()  # what is there and is not read, by kind
        self.one_colour = 0
        self.split = ""

    def find(self) -> tuple[list[Labelled], list[Labelled] | None, list[Labelled]]:
        """Return files for training, for validation (None: drawn from training) and for the test.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It holds no classes, or just one.
        """
        folder = self.folder
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "does not exist"
            raise FileNotFoundError(f"{folder} {what}; name a folder with a subfolder for each class")
        own = {part: folder / part for part in ("train", "val", "test") if (folder / part).is_dir()}
        has_split = "train" in own and len(own) > 1
        at = own["train"] if has_split else folder
        self.classes = tuple(class_folders(at))
        if not self.classes:
            found = find_pictures(folder)
            raise ValueError(
                f"{at} holds no folders with pictures ({found}); put those of each class into a folder"
            )
        if len(self.classes) == 1:
            raise ValueError(f"{at} holds one class alone, {self.classes[0]!r}; there must be two or more")
        if has_split:
            parts = {part: labelled(path, self.classes) for part, path in own.items()}
            self.others = sum((others for _, others in parts.values()), Counter[str]())
            self.split = f"own split into {', '.join(parts)}"
            if "test" not in parts:  # what is held out judges
                return parts["train"][0], None, parts["val"][0]
            val = parts["val"][0] if "val" in parts else None
            return parts["train"][0], val, parts["test"][0]
        files, self.others = labelled(folder, self.classes)
        for label, name in enumerate(self.classes):
            count = sum(own_label == label for _, own_label in files)
            if count < 4:
                raise ValueError(f"class {name!r} of {folder} has {count} pictures, it needs 4")
        self.split = f"{self.test_share:g} of each class drawn for the test by seed {self.split_seed}"
        train, test = split_by_content(files, self.test_share, self.split_seed)
        return train, None, test

    def prepare_data(self) -> None:
        """Fail at once, in one process, if something is wrong with the folder."""
        self.find()

    def setup(self, stage: str | None = None) -> None:
        """Audit the files, decode them into memory, and say what was found."""
        if hasattr(self, "train_data"):
            return
        train, val, test = self.find()
        test, self.audit = audit(train, test, drop=self.duplicates == "drop_from_test")
        say(f"{self.folder.name}: {len(self.classes)} classes, {self.split}; {self.audit}")
        if self.others:
            say(f"not read in {self.folder.name}: {kinds(self.others)}")
        check_classes(train, self.classes, "training", least=2)
        check_classes(test, self.classes, "test", least=1)
        needed = (len(train) + len(test)) * self.channels * self.image_size**2 / 1e9
        if needed > self.memory_gb:
            raise ValueError(
                f"{len(train) + len(test):,} images of {self.image_size} x {self.image_size} take "
                f"{needed:.1f} GB, more than {self.memory_gb:g}; take smaller images, or more memory_gb"
            )
        rest = train
        if val is None:
            # Of each class the same share: the last ones are no fair part of all.
            val, rest = split_by_seed(train, lambda count: max(1, round(count * self.val_fraction)), seed=0)
        # An image to choose by must not be one that was trained on.
        val, _ = audit(rest, val, drop=True)
        self.train_files = train if self.train_on_val else rest
        self.val_files, self.test_files = val, test
        self.train_data, self.test_data = self.read()
        self.val_data = self._load(self.val_files)
        parts = [self.train_data, self.test_data, *([] if self.train_on_val else [self.val_data])]
        flat = [(part.images.amax((2, 3)) == part.images.amin((2, 3))).all(1) for part in parts]
        self.one_colour = int(torch.cat(flat).sum())
        if self.one_colour:
            say(f"{self.one_colour} pictures of {self.folder.name} are of one colour")

    def read(self) -> tuple[ImageTensors, ImageTensors]:
        """Return training and test images, once the files are known."""
        return self._load(self.train_files), self._load(self.test_files)

    def _load(self, files: list[Labelled]) -> ImageTensors:
        size = self.image_size
        failed: dict[int, str] | None = {} if self.skip_unreadable else None
        pixels: Tensor = decode_all(
            [path for path, _ in files],
            mode="L" if self.channels == 1 else "RGB",
            size=size * 8 // 7 if self.resize == "crop" else size,
            crop=size if self.resize == "crop" else None,
            pad=self.resize == "pad",
            failed=failed,
        )
        labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        if failed:
            say(f"{len(failed)} unreadable pictures left out, such as: {next(iter(failed.values()))}")
            good = [number for number in range(len(files)) if number not in failed]
            files[:] = [files[number] for number in good]
            pixels, labels = pixels[good], labels[good]
            self.others["unreadable"] += len(failed)
        return ImageTensors(pixels, labels)

    @property
    def title(self) -> str:
        """Name of the folder, and which split."""
        return f"{self.folder.name}, {self.split}"

    def describe(self) -> dict[str, Any]:
        """Return name, counts, sha256 and audit of the data, for results.json."""
        more = {"one_colour": self.one_colour, "not_read": dict(self.others), "resize": self.resize}
        return super().describe() | {"classes": list(self.classes), "audit": asdict(self.audit) | more}
