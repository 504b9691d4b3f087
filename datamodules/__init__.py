"""The data: one file, one data set, each a ``LightningDataModule`` usable alone from a notebook.

The names below are imported when they are first used, so ``import datamodules`` itself needs no data, network
or GPU::

    from datamodules import MNISTDataModule
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from datamodules.layouts import TORCHVISION

if TYPE_CHECKING:
    from pathlib import Path

    from datamodules.domain_pair import DomainPairDataModule
    from datamodules.features import FeatureDataModule
    from datamodules.folder import ImageFolderDataModule
    from datamodules.imagenet_samples import ImageNetSamplesDataModule
    from datamodules.in_memory import InMemoryDataModule
    from datamodules.mnist import MNISTDataModule
    from datamodules.mnist_m import MNISTMDataModule
    from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule
    from datamodules.scene15 import Scene15DataModule
    from datamodules.torchvision_sets import TorchvisionDataModule, TorchvisionFilesDataModule
    from datamodules.usps import USPSDataModule

# Data sets by the names that flags have for them: a new one is a line here.
DATASETS = {
    "mnist": "mnist.MNISTDataModule",
    "mnist-m": "mnist_m.MNISTMDataModule",
    "scene15": "scene15.Scene15DataModule",
    "usps": "usps.USPSDataModule",
} | {name: f"torchvision_sets.{one.module}" for name, one in TORCHVISION.items()}
# Where each public name lives.
_HOMES = {name: home for home, name in (place.split(".") for place in DATASETS.values())} | {
    "DomainPairDataModule": "domain_pair",
    "FeatureDataModule": "features",
    "ImageFolderDataModule": "folder",
    "ImageNetSamplesDataModule": "imagenet_samples",
    "InMemoryDataModule": "in_memory",
    "MNISTToMNISTMDataModule": "mnist_to_mnist_m",
}
__all__ = [
    "DomainPairDataModule",
    "FeatureDataModule",
    "ImageFolderDataModule",
    "ImageNetSamplesDataModule",
    "InMemoryDataModule",
    "MNISTDataModule",
    "MNISTMDataModule",
    "MNISTToMNISTMDataModule",
    "Scene15DataModule",
    "TorchvisionDataModule",
    "TorchvisionFilesDataModule",
    "USPSDataModule",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def dataset(name: str) -> "Callable[..., InMemoryDataModule]":
    """Return what makes the data module of a data set, by its name.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is none of {', '.join(DATASETS)}")
    kind: Callable[..., InMemoryDataModule] = __getattr__(DATASETS[name].split(".")[1])
    return partial(kind, name) if name in TORCHVISION else kind


def _maker(name: str, data_dir: "Path | str | None") -> "Callable[..., InMemoryDataModule]":
    """Return what makes the data module of a data set, a folder or a list, of keywords alone."""
    if name not in DATASETS and "/" in name:
        return partial(__getattr__("ImageFolderDataModule"), name)
    return partial(dataset(name), data_dir)


def keywords_of(name: str) -> set[str]:
    """Return the keywords that the data module of a data set, a folder or a list takes."""
    taken = set(signature(_maker(name, None)).parameters)
    if "keywords" in taken:  # handed on
        taken |= set(signature(__getattr__("ImageFolderDataModule")).parameters)
    return taken


def open_dataset(name: str, data_dir: "Path | str | None", **keywords: Any) -> "InMemoryDataModule":
    """Return the data module of a data set, or of a folder or a list of pictures, made with keywords.

    ``channels``, ``memory_gb`` and ``cache_dir`` are left out where a data set has no choice of them, as one
    in colour, or one that is small.

    Args:
        name: One of `DATASETS`, or a folder or a list, see `ImageFolderDataModule`, told by a slash.
        data_dir: Where the data sets lie.
        **keywords: Of the data module.

    Raises:
        ValueError: There is no such data set, or it does not take one of the keywords.
    """
    taken = keywords_of(name)
    free = ("channels", "memory_gb", "cache_dir")
    keywords = {key: value for key, value in keywords.items() if key in taken or key not in free}
    for key in keywords:
        if key not in taken:
            raise ValueError(f"data set {name!r} has no {key} to choose; take another data set")
    return _maker(name, data_dir)(**keywords)


def __dir__() -> list[str]:
    """Return the public names too, for completion in a notebook."""
    return sorted({*globals(), *_HOMES})
