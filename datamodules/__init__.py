"""The data: one file, one data set, each a ``LightningDataModule`` usable alone from a notebook.

The names below are imported when they are first used, so ``import datamodules`` itself needs no data, network
or GPU:

    from datamodules import MNISTDataModule
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.domain_pair import DomainPairDataModule
    from datamodules.imagenet_samples import ImageNetSamplesDataModule
    from datamodules.mnist import MNISTDataModule
    from datamodules.mnist_m import MNISTMDataModule
    from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule
    from datamodules.scene15 import Scene15DataModule
    from datamodules.usps import USPSDataModule

# Where each public name lives.
_HOMES = {
    "DomainPairDataModule": "domain_pair",
    "ImageNetSamplesDataModule": "imagenet_samples",
    "MNISTDataModule": "mnist",
    "MNISTMDataModule": "mnist_m",
    "MNISTToMNISTMDataModule": "mnist_to_mnist_m",
    "Scene15DataModule": "scene15",
    "USPSDataModule": "usps",
}
__all__ = [
    "DomainPairDataModule",
    "ImageNetSamplesDataModule",
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


def __dir__() -> list[str]:
    """Return the public names too, for completion in a notebook."""
    return sorted({*globals(), *_HOMES})
