"""Decoded images in a file that is mapped into memory, for data sets that do not fit there.

Made once; from then on a batch is read from the file, or from what the system keeps of it in free memory. A
file serves one recipe: the content of the pictures, in order, and how they are decoded. It is ``.npy``, with
counts and checksums in a ``.json`` beside it.
"""

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.audit import digests
from datamodules.files import atomic_file, one_at_a_time, say
from datamodules.labelled_files import LabelledFiles

BLOCK = 1 << 26  # bytes with a checksum of their own
Fill = Callable[[np.ndarray], dict[str, Any]]


def mapped_images(
    folder: Path, recipe: dict[str, Any], shape: tuple[int, ...], fill: Fill
) -> tuple[Tensor, dict[str, Any]]:
    """Return images (N, C, H, W) uint8 mapped from a file, and what ``fill`` said; made if it is not there.

    Args:
        folder: Of the cache.
        recipe: All that the images depend on, in plain types.
        shape: (N, C, H, W).
        fill: Writes images into an array of that shape; what it returns, in plain types, is kept.

    Raises:
        ValueError: The disk has too little room.
    """
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"{key}.npy"
    found = _read(path, shape)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(path):  # another process of this machine may make it meanwhile
            found = _read(path, shape) or _make(path, shape, fill)
    return found


def _make(path: Path, shape: tuple[int, ...], fill: Fill) -> tuple[Tensor, dict[str, Any]]:
    folder = path.parent
    needed, free = np.prod(shape, dtype=np.int64) / 1e9, shutil.disk_usage(folder).free / 1e9
    if needed > free:
        raise ValueError(
            f"{shape[0]:,} decoded images take {needed:.1f} GB, and {folder} has {free:.1f} GB free; "
            "take smaller images, or a folder on another disk"
        )
    say(f"decoding {shape[0]:,} images once, to {needed:.1f} GB in {folder}")
    with atomic_file(path) as part:
        pixels = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
        said = fill(pixels)
        pixels.flush()
        summary = {"said": said, "checksums": _checksums(pixels)}
        del pixels
    with atomic_file(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(summary))
    found = _read(path, shape)
    if found is None:
        raise OSError(f"{path} was written and cannot be read; is the disk in order?")
    return found


def _read(path: Path, shape: tuple[int, ...]) -> tuple[Tensor, dict[str, Any]] | None:
    """Return the images of a file and what is known of them, None if it is not there whole."""
    try:
        summary = json.loads(path.with_suffix(".json").read_text())
        # Changes would be copies in memory; nobody makes any, and torch is not warned of.
        pixels = np.load(path, mmap_mode="c")
        whole = pixels.shape == shape and summary["checksums"] == _checksums(pixels)
        if not whole:
            say(f"{path} is damaged; made again")
        return (torch.from_numpy(pixels), dict(summary["said"])) if whole else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        say(f"{path} is not readable ({type(error).__name__}); made again")
        return None


def _checksums(pixels: np.ndarray) -> list[int]:
    """Return the CRC-32 of each block of bytes."""
    flat = pixels.reshape(-1)
    with ThreadPoolExecutor() as threads:
        starts = range(0, len(flat), BLOCK)
        return list(threads.map(lambda start: zlib.crc32(flat[start : start + BLOCK].data), starts))


def remembered_digests(files: LabelledFiles, folder: Path | None) -> np.ndarray:
    """Return what `digests` gives; with a folder, without reading files whose size and time did not change.

    Args:
        files: Pictures.
        folder: Keeps what was found, None for nothing.
    """
    if folder is None:
        return digests(files.paths)
    key = hashlib.sha256(os.fsencode(files.root.absolute())).hexdigest()[:24]
    place = folder / f"{key}.npz"
    stats = np.array(list(_stats(files)), np.int64).reshape(-1, 2)
    hashes, same = np.zeros(len(files), "S32"), np.zeros(len(files), bool)
    try:
        with np.load(place, allow_pickle=False) as kept:
            order = np.argsort(kept["names"])
            names, then, before = (kept[key][order] for key in ("names", "stats", "hashes"))
        at = np.searchsorted(names, files.names).clip(max=max(len(names) - 1, 0))
        same = (names[at] == files.names) & (then[at] == stats).all(1)
        hashes[same] = before[at[same]]
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error):
        pass  # none, or damaged: read again
    fresh = np.flatnonzero(~same)
    if len(fresh):
        hashes[fresh] = digests(files[fresh].paths)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(place) as part, part.open("wb") as file:
            np.savez(file, names=files.names, stats=stats, hashes=hashes)
    return hashes


def _stats(files: LabelledFiles) -> Iterator[tuple[int, int]]:
    """Yield size and time of change, of content or rights, of each file."""
    for name in files.names.tolist():
        stat = os.stat(os.path.join(os.fsencode(files.root), name))
        yield stat.st_size, stat.st_ctime_ns
