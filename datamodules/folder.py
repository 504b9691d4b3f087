"""Anyone's pictures: a folder with a subfolder for each class, a list, or pictures without classes."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from datamodules.audit import (
    a_share,
    audit,
    check_classes,
    check_per_class,
    split_by_content,
    split_by_seed,
)
from datamodules.files import say
from datamodules.image_cache import mapped_images, remembered_digests
from datamodules.images import decode_all, shaping
from datamodules.in_memory import InMemoryDataModule
from datamodules.labelled_files import LabelledFiles
from datamodules.listing import Labels, Listing, check_counts, kinds, open_listing
from datamodules.tensors import ImageTensors

Resize = Literal["squash", "crop", "pad"]
DECODING = 1  # raise when `decode` gives other pixels, so that no stale cache is read


def one_colour(pixels: np.ndarray) -> list[int]:
    """Return the places of images (N, C, H, W) that are of one colour."""
    corner, middle = pixels[:, :, 0, 0], (pixels.shape[2] // 2, pixels.shape[3] // 2)
    # Looked at whole only where three pixels are the same.
    alike = (corner == pixels[:, :, -1, -1]) & (corner == pixels[:, :, *middle])
    return [
        place
        for place in np.flatnonzero(alike.all(1)).tolist()
        if (pixels[place] == corner[place, :, None, None]).all()
    ]


class ImageFolderDataModule(InMemoryDataModule):
    """A folder of pictures for training, validation and test; batches of float images in [0, 1] and labels.

    Classes are called as their folders, in sorted order. Where the folder has no split of its own, a share of
    each class is drawn for the test set by a seed; byte-identical copies are always on one side. Copies,
    pictures of one colour and files that are not read are counted, said, and kept with the results.

    Pictures are decoded and resized once. They live in memory, or where they do not fit, in a file that is
    mapped into it; batches are the same either way.

    Args:
        folder: ``<class>/*``, or ``{train,test}/<class>/*`` (``val`` too, if there is one), in any format
            that Pillow reads; classes may hold further folders, links are followed. Or pictures without
            classes, see ``labels``. Or a list of ``path,label``, see `datamodules.listing.list_file`.
        batch_size: Images in one training step, over all processes together.
        seed: Of the order of the training batches.
        num_workers: Processes that make batches; 0 is fastest for images in memory.
        image_size: Side of the images in pixels.
        channels: 3, or 1 for grey.
        labels: ``required``; ``optional``: -1 for all where there are no folders of classes; ``none``: -1
            for all.
        resize: ``squash``, ``crop`` or ``pad``, see `datamodules.images.shaping`.
        split_seed: Of the test set, where the folder has none.
        test_share: Of each class, where the folder has no test set.
        per_class: Training images of each class instead, all others for the test; of a split of the folder's
            own so many are drawn from train, the test stays.
        duplicates: ``keep`` all images, or ``drop_from_test`` those that train holds too.
        val_fraction: The part of each class's training images held out for validation, drawn by a fixed rule.
        train_on_val: Train on the validation images too; the validation set stays the same.
        shuffle: False gives the training images in order, each exactly once, for extracting features.
        watch_test: Validation gives the test images as a second loader, for curves that choose nothing.
        skip_unreadable: Leave out pictures that cannot be read, and count them; else they are an error.
        memory_gb: The most that the decoded images may take in memory.
        cache_dir: Folder for those that take more; None makes them an error.

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

    mode: Literal["L", "RGB"]
    """How the images are stored."""
    unseen: np.ndarray
    """Of each test image whether no image of train, or held out of it, is a copy."""

    def __init__(
        self,
        folder: str | Path,
        *,
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
        image_size: int = 224,
        channels: int = 3,
        labels: Labels = "required",
        resize: Resize = "squash",
        split_seed: int = 0,
        test_share: float = 0.25,
        per_class: int | None = None,
        duplicates: Literal["keep", "drop_from_test"] = "keep",
        val_fraction: float = 0.2,
        train_on_val: bool = False,
        shuffle: bool = True,
        watch_test: bool = False,
        skip_unreadable: bool = False,
        memory_gb: float = 6.0,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__(
            folder,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
            val_fraction=val_fraction,
            train_on_val=train_on_val,
        )
        for name, value, known in (
            ("channels", channels, (1, 3)),
            ("duplicates", duplicates, ("keep", "drop_from_test")),
            ("resize", resize, ("squash", "crop", "pad")),
            ("labels", labels, ("required", "optional", "none")),
        ):
            if value not in known:
                raise ValueError(f"{name} is {', '.join(map(str, known[:-1]))} or {known[-1]}, got {value}")
        if not 0 < test_share < 1:
            raise ValueError(f"test_share lies between 0 and 1, got {test_share}")
        check_per_class(per_class)
        self.folder = Path(folder).expanduser()
        self.image_size, self.channels, self.resize = image_size, channels, resize
        self.mode = "L" if channels == 1 else "RGB"
        self.resized = resize
        self.labels = labels
        self.split_seed, self.test_share, self.per_class = split_seed, test_share, per_class
        self.duplicates, self.shuffle, self.watch_test = duplicates, shuffle, watch_test
        self.skip_unreadable, self.memory_gb = skip_unreadable, memory_gb
        self.cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
        self.others = Counter[str]()  # what is there and is not read, by kind
        self.one_colour = 0
        self.split = ""
        self.listing: Listing | None = None

    def listed(self) -> Listing:
        """Return what lies there.

        Raises:
            FileNotFoundError: There is no such folder, or pictures of a list are missing.
            ValueError: It lacks what it should hold.
        """
        return open_listing(self.folder, self.labels)

    def find(self) -> Listing:
        """Return what lies there, listed once.

        Raises:
            ValueError: There are too few pictures of a class.
        """
        if self.listing is None:
            self.listing = self.listed()
            check_counts(self.folder, self.listing, self.per_class)
            self.classes = self.listing.classes
        return self.listing

    def prepare_data(self) -> None:
        """Fail at once, in one process, if something is wrong with the folder; fill the cache if needed."""
        listing = self.find()
        if not self._fits(sum(map(len, listing.parts.values()))):
            self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Audit the files, decode them, and say what was found."""
        if hasattr(self, "train_data"):
            return
        listing = self.find()
        self.others = listing.others
        in_memory = self._fits(sum(map(len, listing.parts.values())))
        train, held, test = self._split(listing, None if in_memory else self.cache_dir)
        files, hashes = self.files, self.hashes
        labels, drop = files.labels, self.duplicates == "drop_from_test"
        everything = np.concatenate([train, held])
        copied, self.audit = audit(
            labels[everything], labels[test], hashes[np.concatenate([everything, test])], drop=drop
        )
        test = test[~copied] if drop else test
        say(self.summary())
        if self.others:
            say(f"not read in {self.folder.name}: {kinds(self.others)}")
        self._check_parts(everything, test)
        used = np.sort(everything) if self.train_on_val else train
        # An image to choose by must not be one that was trained on.
        copies = np.isin(hashes[held], hashes[train])
        held = held[~copies]
        if copies.any():
            say(f"left out of validation: {copies.sum():,}, copies of training pictures")
            self.others["validation pictures that train holds"] += int(copies.sum())
        order = np.concatenate([np.sort(everything), test])  # in which they are decoded
        pixels, failed = self._decode(files[order], hashes[order], in_memory=in_memory)
        if failed:
            say(f"{len(failed)} unreadable pictures left out, such as: {next(iter(failed.values()))}")
            self.others["unreadable"] += len(failed)
            gone = order[list(failed)]
            used, held, test = (part[~np.isin(part, gone)] for part in (used, held, test))
            self._check_parts(everything[~np.isin(everything, gone)], test)
        place = np.empty(len(files), np.int64)
        place[order] = np.arange(len(order))
        options: dict[str, Any] = {"channels": self.channels, "mapped": not in_memory}
        self.train_data, self.val_data, self.test_data = (
            ImageTensors(
                pixels, torch.from_numpy(labels[part]), rows=torch.from_numpy(place[part]), **options
            )
            for part in (used, held, test)
        )
        self.train_files, self.val_files, self.test_files = (files[part] for part in (used, held, test))
        self.train_places, self.test_places = used, test
        self.unseen = ~np.isin(hashes[test], hashes[everything])
        if self.one_colour:
            say(f"{self.one_colour} pictures of {self.folder.name} are of one colour")

    def _check_parts(self, train: np.ndarray, test: np.ndarray) -> None:
        """Check that there are files to train on and to test of each class, by their places."""
        labels = self.files.labels
        if self.classes:
            check_classes(labels[train], self.classes, "training", least=2)
            check_classes(labels[test], self.classes, "test", least=1)
        elif len(train) < 2 or not len(test):
            counts = f"{len(train)} training and {len(test)} test pictures"
            raise ValueError(f"{self.folder} has {counts}; add some")

    def summary(self) -> str:
        """Return what is said of the data: classes, split, audit."""
        what = f"{len(self.classes)} classes" if self.classes else "no labels"
        return f"{self.folder.name}: {what}, {self.split}; {self.audit}"

    def _fits(self, count: int) -> bool:
        """Return whether so many images fit in memory.

        Raises:
            ValueError: They do not, and there is no cache for them.
        """
        size = self.image_size
        needed = count * len(self.mode) * size**2 / 1e9
        if needed > self.memory_gb and self.cache_dir is None:
            raise ValueError(
                f"{count:,} images of {size} x {size} take {needed:.1f} GB, more than {self.memory_gb:g}; "
                "take smaller images, more memory_gb, or a cache_dir"
            )
        return needed <= self.memory_gb

    def _split(self, listing: Listing, cache: Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read all files for their hashes; return the places of those for training, validation and test."""
        parts = listing.parts
        self.files = sum(list(parts.values())[1:], next(iter(parts.values())))
        self.hashes = remembered_digests(self.files, cache)
        held: np.ndarray | None = None
        if "" in parts:
            train, test = self.draw(self.files, self.hashes, self.split_seed)
            amount = f"{self.test_share:g} of each class" if self.classes else f"{self.test_share:g}"
            if self.per_class is not None:
                amount = f"all but {self.per_class} of each class"
            self.split = f"{amount} drawn for the test by seed {self.split_seed}"
        else:
            ends = np.cumsum([len(part) for part in parts.values()])
            places = dict(zip(parts, np.split(np.arange(len(self.files)), ends[:-1]), strict=True))
            train, held = places["train"], places.get("val")
            test = places["test"] if "test" in places else places["val"]
            if "test" not in places:  # what is held out judges
                held = None
            self.split = listing.split
            if self.per_class is not None:
                labels = self.files.labels[train]
                train = train[np.sort(split_by_seed(labels, self.per_class, self.split_seed)[0])]
                self.split += f", {self.per_class} of each class drawn from train by seed {self.split_seed}"
        if held is None:
            # Of each class a share: the last ones are no fair part of all.
            labels = self.files.labels[train]
            drawn, rest = split_by_seed(labels, self.held_out(labels), seed=0)
            train, held = train[rest], train[drawn]
        return train, held, test

    def draw(self, files: LabelledFiles, hashes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of training and of test files as a seed draws them.

        Args:
            files: In the order of the listing.
            hashes: What `datamodules.audit.digests` gives of them.
            seed: Of the split.
        """
        share: float | int = self.test_share if self.per_class is None else self.per_class
        return split_by_content(files.labels, hashes, share, seed)

    def held_out(self, labels: np.ndarray) -> int | Callable[[int], int]:
        """Return how many training images of a class are held out for validation, or of so many."""
        return a_share(self.val_fraction)

    def _decode(
        self, files: LabelledFiles, contents: np.ndarray, *, in_memory: bool
    ) -> tuple[torch.Tensor, dict[int, str]]:
        """Return the images of files, and why some could not be read."""
        how: dict[str, Any] = {"mode": self.mode} | shaping(self.resize, self.image_size)

        def fill(pixels: np.ndarray) -> dict[str, Any]:
            failed: dict[int, str] | None = {} if self.skip_unreadable else None
            decode_all(files.paths, **how, failed=failed, out=pixels)
            flat = len(one_colour(pixels))
            return {"one_colour": flat - len(failed or ()), "failed": failed or {}}

        shape = (len(files), len(self.mode), self.image_size, self.image_size)
        if in_memory:
            images = np.zeros(shape, np.uint8)
            pixels, said = torch.from_numpy(images), fill(images)
        else:
            assert self.cache_dir is not None
            recipe = how | {"version": DECODING, "skip_unreadable": self.skip_unreadable}
            recipe |= {"images": hashlib.sha256(contents.tobytes()).hexdigest()}
            pixels, said = mapped_images(self.cache_dir, recipe, shape, fill)
        self.one_colour = said["one_colour"]
        return pixels, {int(number): why for number, why in said["failed"].items()}

    def read(self) -> tuple[ImageTensors, ImageTensors]:
        """Return training and test images, once they are set up."""
        return self.train_data, self.test_data

    @property
    def title(self) -> str:
        """Name of the folder, and which split."""
        return f"{self.folder.name}, {self.split}"

    def describe(self) -> dict[str, Any]:
        """Return name, counts, sha256 and audit of the data, for results.json."""
        more = {"one_colour": self.one_colour, "not_read": dict(self.others), "resize": self.resize}
        return super().describe() | {"classes": list(self.classes), "audit": asdict(self.audit) | more}
