"""The data: one file, one data set, each a ``LightningDataModule`` usable alone from a notebook.

The names below are imported when they are first used, so ``import datamodules`` itself needs no data, network
or GPU:

    from datamodules import MNISTDataModule
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.domain_pair import DomainPairDataModule
    from datamodules.imagenet_samples import ImageNetSamplesDataModule
    from datamodules.in_memory import InMemoryDataModule
    from datamodules.mnist import MNISTDataModule
    from datamodules.mnist_m import MNISTMDataModule
    from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule
    from datamodules.scene15 import Scene15DataModule
    from datamodules.usps import USPSDataModule

# Where each public name lives.
_HOMES = {
    "DomainPairDataModule": "domain_pair",
    "ImageNetSamplesDataModule": "imagenet_samples",
    "InMemoryDataModule": "in_memory",
    "MNISTDataModule": "mnist",
    "MNISTMDataModule": "mnist_m",
    "MNISTToMNISTMDataModule": "mnist_to_mnist_m",
    "Scene15DataModule": "scene15",
    "USPSDataModule": "usps",
}
__all__ = [
    "DomainPairDataModule",
    "ImageNetSamplesDataModule",
    "InMemoryDataModule",
    "MNISTDataModule",
    "MNISTMDataModule",
    "MNISTToMNISTMDataModule",
    "Scene15DataModule",
    "USPSDataModule",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


# Data sets by the names that flags have for them.
DATASETS = {
    "mnist": "MNISTDataModule",
    "mnist-m": "MNISTMDataModule",
    "scene15": "Scene15DataModule",
    "usps": "USPSDataModule",
}


def dataset(name: str) -> "Callable[..., InMemoryDataModule]":
    """Return the data module class of a data set by its name.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is none of {', '.join(DATASETS)}")
    kind: Callable[..., InMemoryDataModule] = __getattr__(DATASETS[name])
    return kind


def __dir__() -> list[str]:
    """Return the public names too, for completion in a notebook."""
    return sorted({*globals(), *_HOMES})
