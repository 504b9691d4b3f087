"""MNIST-M (Ganin et al., "Domain-Adversarial Training of Neural Networks", 2016): digits over photographs.

The common release (59,001 / 9,001 PNG of 32x32) is read when it is there, and kept decoded. Else the set is
generated from MNIST and BSDS500 as the paper describes: for each digit a random crop of a random photograph,
and per channel ``|crop - digit|``; 60,000 / 10,000. Results on the two are not comparable to the last digit,
so both counts are named wherever the data is.
"""

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from datamodules.files import SAMPLES, atomic_file, data_root, not_found, one_at_a_time, say
from datamodules.images import decode, decode_all
from datamodules.in_memory import InMemoryDataModule
from datamodules.layouts import find_idx, find_mnist_m
from datamodules.listing import find_pictures
from datamodules.mnist import DIGITS, load_mnist, to_size
from datamodules.tensors import ImageTensors

RELEASE_COUNTS = (59_001, 9_001)
SIZE = 32
RECIPE_VERSION = 1  # raise when `generate` changes, so that no stale cache is read


def find_backgrounds(root: Path) -> tuple[list[Path], str]:
    """Return the photographs to cut backgrounds from, and what they are.

    BSDS500 if ``root`` has it, else the photographs embedded in this package.
    """
    folder = root / "BSDS500" / "data" / "images"
    photographs = find_pictures(folder).pictures if folder.is_dir() else []
    if photographs:
        return photographs, f"{len(photographs)} BSDS500 photographs"
    photographs = find_pictures(SAMPLES / "photographs").pictures
    missing = "" if root == SAMPLES else f" (no BSDS500 in {root})"
    return photographs, f"{len(photographs)} embedded photographs{missing}"


def blend(digits: Tensor, photographs: Sequence[np.ndarray], generator: np.random.Generator) -> Tensor:
    """Lay digits over random crops of random photographs: ``|crop - digit|`` per channel.

    Args:
        digits: uint8, (N, 1, H, W).
        photographs: uint8, each (height, width, 3), at least H x W.
        generator: Chooses photographs and crops.

    Returns:
        uint8, (N, 3, H, W).
    """
    count, _, height, width = digits.shape
    chosen = generator.integers(len(photographs), size=count)
    corner = generator.random((2, count))
    blended = np.empty((count, 3, height, width), np.uint8)
    for number, photograph in enumerate(photographs):
        rows = np.flatnonzero(chosen == number)
        # A view of all crops, from which only the chosen ones are copied: (n, 3, H, W).
        windows = sliding_window_view(photograph, (height, width), axis=(0, 1))
        top = (corner[0, rows] * windows.shape[0]).astype(int)
        left = (corner[1, rows] * windows.shape[1]).astype(int)
        blended[rows] = windows[top, left]
    # |a - b| of unsigned bytes is max - min, without going through wider numbers.
    ink = digits.numpy()
    return torch.from_numpy(np.maximum(blended, ink) - np.minimum(blended, ink))


def generate(root: Path, photographs: list[Path], seed: int) -> dict[str, Tensor]:
    """Make MNIST-M from the MNIST in ``root``, in a shuffled order.

    The order is shuffled once here, so that the i-th digit of MNIST and the i-th of MNIST-M are not the same
    digit: training on index-aligned pairs would leak the labels of the target.

    Returns:
        ``train_images`` (N, 3, 32, 32) uint8, ``train_labels`` (N,) int64, and the same for ``test``.
    """
    with ThreadPoolExecutor() as threads:
        pictures = list(threads.map(lambda path: decode(path, mode="RGB"), photographs))
    tensors = {}
    for number, part in enumerate(("train", "test")):
        generator = np.random.default_rng([seed, number])
        images, labels = load_mnist(root, train=part == "train")
        order = torch.from_numpy(generator.permutation(len(labels)))
        tensors[f"{part}_images"] = blend(to_size(images, SIZE)[order], pictures, generator)
        tensors[f"{part}_labels"] = labels[order]
    return tensors


def recipe_hash(root: Path, photographs: list[Path], seed: int) -> str:
    """Return a hash of all that `generate` depends on."""
    digest = hashlib.sha256(json.dumps([RECIPE_VERSION, SIZE, seed]).encode())
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    for path in [find_idx(root, name) for name in names] + photographs:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def release_hash(folder: Path) -> str:
    """Return a hash of the release's labels, and of the names, sizes and times of its pictures.

    Not of their content: to read 68,002 files is most of the work that the cache is to save.
    """
    digest = hashlib.sha256(json.dumps([RECIPE_VERSION, SIZE, "release"]).encode())
    for part in ("train", "test"):
        digest.update((folder / f"mnist_m_{part}_labels.txt").read_bytes())
        with os.scandir(folder / f"mnist_m_{part}") as entries:
            files = sorted((entry.name, entry.stat()) for entry in entries if entry.is_file())
        digest.update(json.dumps([[name, stat.st_size, stat.st_mtime_ns] for name, stat in files]).encode())
    return digest.hexdigest()[:16]


def _cache_file(root: Path, folder: str, digest: str) -> Path:
    """Return where a set is kept, or will be.

    In the data folder; in the user's cache if that is not writable and does not hold it.
    """
    path = root / folder / f"{digest}.safetensors"
    writable = root != SAMPLES and os.access(path.parent if path.parent.exists() else root, os.W_OK)
    if writable or (path.exists() and _kept(path) is not None):
        return path
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "rdfia" / folder / path.name


def cache_path(root: Path, photographs: list[Path], seed: int) -> Path:
    """Return where the generated set is kept, or will be."""
    return _cache_file(root, "mnist_m_generated", recipe_hash(root, photographs, seed))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return a checksum of the bytes of tensors, by name: 0.2 s for 200 MB."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].contiguous().numpy().data, zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def _kept(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors that a file keeps; None if there is none, or it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            known = (file.metadata() or {}).get("crc32")
    except (SafetensorError, OSError, ValueError, KeyError):
        return None
    return kept if known == _checksum(kept) else None


def _cached(path: Path, make: Callable[[], dict[str, Tensor]], done: str) -> dict[str, Tensor]:
    """Return the tensors that a file keeps, or make and keep them; a damaged file is made again.

    Args:
        path: Of the file.
        make: Makes them.
        done: What is said once they are made.

    Raises:
        ValueError: The file cannot be written.
    """
    if (kept := _kept(path)) is not None:
        return kept
    with one_at_a_time(path):
        if (kept := _kept(path)) is not None:  # another process of this machine made it meanwhile
            return kept
        if path.exists():
            say(f"{path} is damaged, or of an earlier version; made again")
        started = time.perf_counter()
        tensors = make()
        with atomic_file(path) as part:
            try:
                save_file(tensors, part, metadata={"crc32": _checksum(tensors)})
            except SafetensorError as error:  # such as a full disk, which safetensors wraps
                raise ValueError(f"cannot write {path}: {error}") from error
    say(f"{done} in {time.perf_counter() - started:.1f} s and kept in {path}")
    return tensors


def load_generated(root: Path, seed: int = 0) -> tuple[dict[str, Tensor], str]:
    """Return the generated set, from the cache or made now, and what it was made of.

    Raises:
        FileNotFoundError: MNIST is missing.
        ValueError: MNIST or a photograph is damaged, or the cache cannot be written.
    """
    photographs, source = find_backgrounds(root)
    path = cache_path(root, photographs, seed)
    return _cached(path, lambda: generate(root, photographs, seed), "MNIST-M generated"), source


def load_whole_release(root: Path) -> dict[str, Tensor]:
    """Return the common release in ``root/mnist_m``, from the cache or decoded now; as `load_generated`.

    Raises:
        FileNotFoundError: A PNG that a list names is missing.
        ValueError: A list or a PNG is damaged, or the cache cannot be written.
    """
    folder = root / "mnist_m"

    def decode_it() -> dict[str, Tensor]:
        tensors = {}
        for part in ("train", "test"):
            tensors[f"{part}_images"], tensors[f"{part}_labels"] = load_release(folder, train=part == "train")
        return tensors

    return _cached(_cache_file(root, "mnist_m_decoded", release_hash(folder)), decode_it, "MNIST-M decoded")


def load_release(folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Read one part of the common release, ``mnist_m_{train,test}/*.png`` and its list of labels.

    Returns:
        Images (N, 3, 32, 32) uint8 and labels (N,) int64.

    Raises:
        FileNotFoundError: A PNG that the list names is missing.
        ValueError: A line of the list, or a PNG, is damaged.
    """
    part = "train" if train else "test"
    listing = folder / f"mnist_m_{part}_labels.txt"
    names, labels = [], []
    for number, line in enumerate(listing.read_text().splitlines(), 1):
        match line.split():
            case [name, label] if label in list("0123456789"):
                names.append(name)
                labels.append(int(label))
            case []:
                continue
            case _:
                raise ValueError(f"{listing}:{number} is {line!r}, expected '00000000.png 5'")
    images = folder / f"mnist_m_{part}"
    present = {entry.name for entry in os.scandir(images)}
    if missing := [name for name in names if name not in present]:
        raise FileNotFoundError(
            f"{images / missing[0]} is missing, and {len(missing) - 1} more that {listing} names; "
            "unpack the release again, or remove the folder to generate MNIST-M from MNIST and BSDS500"
        )
    pixels = decode_all([images / name for name in names], mode="RGB", size=SIZE)
    return pixels, torch.tensor(labels)


class MNISTMDataModule(InMemoryDataModule):
    """MNIST-M for training, validation and test; batches of float images (B, 3, H, W) in [0, 1] and labels.

    Args:
        data_dir: Where ``mnist_m`` or ``MNIST/raw`` and ``BSDS500`` lie; ``sample`` for the embedded digits
            over the embedded photographs. By default ``$RDFIA_DATA``, else ``./data``.
        batch_size: Images in one training step, over all processes together.
        seed: Of the order of the training batches. The images do not depend on it.
        num_workers: 0 is fastest: the images live in memory.
        image_size: 32, or 28 (the central part).
        val_fraction: The part of the training images held out for validation: the last ones.
        source: ``release``, ``generated``, or ``auto``: the release where it is.
        train_on_val: Train on the validation images too; the validation set stays the same.

    Example:
        >>> digits = MNISTMDataModule("sample", batch_size=64)
        >>> digits.setup()  # doctest: +ELLIPSIS
        MNIST-M...images
        >>> images, labels = next(iter(digits.train_dataloader()))
        >>> images.shape
        torch.Size([64, 3, 32, 32])
    """

    classes = DIGITS

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        batch_size: int = 128,
        seed: int = 0,
        num_workers: int = 0,
        image_size: int = 32,
        val_fraction: float = 1 / 12,
        source: Literal["auto", "release", "generated"] = "auto",
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
        if image_size not in (28, 32):
            raise ValueError(f"image_size is 28 or 32, got {image_size}")
        self.image_size, self.source, self.made_of = image_size, source, ""
        self.resized = "cut" if image_size == 28 else "squash"

    def _release(self) -> Path | None:
        """Return the folder of the release, or None if the set is to be generated."""
        root = data_root(self.data_dir)
        folder = root / "mnist_m"
        if self.source == "generated" or (self.source == "auto" and not folder.is_dir()):
            return None
        if not folder.is_dir():
            raise not_found("MNIST-M", "mnist_m/mnist_m_train_labels.txt", root, "mnist-m")
        return find_mnist_m(root)

    def prepare_data(self) -> None:
        """Generate the set, or decode the release, and cache it, in one process. Never downloads."""
        root = data_root(self.data_dir)
        if self._release() is None:
            load_generated(root)
        else:
            load_whole_release(root)

    def read(self) -> tuple[ImageTensors, ImageTensors]:
        """Return training and test images, and say what they are."""
        root = data_root(self.data_dir)
        if self._release() is not None:
            tensors, self.made_of = load_whole_release(root), "common release"
        else:
            tensors, sources = load_generated(root)
            self.made_of = f"generated from MNIST and {sources}"
        train, test = (
            self._part(tensors[f"{part}_images"], tensors[f"{part}_labels"]) for part in ("train", "test")
        )
        say(f"{self.title}: {len(train):,} training and {len(test):,} test images")
        return train, test

    @property
    def title(self) -> str:
        """``MNIST-M``, and what it was made of."""
        return f"MNIST-M, {self.made_of}"

    def _part(self, images: Tensor, labels: Tensor) -> ImageTensors:
        edge = (SIZE - self.image_size) // 2
        return ImageTensors(images[..., edge : SIZE - edge, edge : SIZE - edge], labels)
