"""Features of images in place of the images: what a network that is not trained makes of them, made once."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.in_memory import InMemoryDataModule
from datamodules.tensors import Batch, Indices


class FeatureTensors(Dataset[Batch]):
    """Features and labels in memory; indexing with n indices gives a batch of n, as of `ImageTensors`.

    Args:
        features: Of several views of each image, (N, V, F), the first of which is the image as it is; or of
            that alone, (N, F).
        labels: int64, (N,); -1 where there is none.
    """

    mapped = False

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        if features.ndim not in (2, 3) or labels.shape != features.shape[:1]:
            seen = f"{tuple(features.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"features are (N, F) or (N, V, F), with labels (N,); got {seen}")
        self.features, self.labels = features, labels

    @property
    def device(self) -> torch.device:
        """Where the features lie."""
        return self.features.device

    @property
    def labelled(self) -> bool:
        """Whether all images have a label."""
        return bool((self.labels >= 0).all())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: int | Indices) -> Batch:
        """Return features, (B, V, F) or (B, F), and labels (B,); without the first dimension for an int."""
        if isinstance(indices, int):
            return self.features[indices], self.labels[indices]
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        return self.features[chosen], self.labels[chosen]

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch; use with ``collate_fn=as_is``."""
        return self[indices]

    def as_they_are(self) -> Tensor:
        """Return the features of the images without augmentation, (N, F)."""
        return self.features if self.features.ndim == 2 else self.features[:, 0]

    def batches(self, size: int = 1000) -> Iterator[Tensor]:
        """Yield the features of all images as they are, in order, ``size`` at once: (B, F)."""
        yield from self.as_they_are().split(size)

    def part(self, numbers: Tensor, labels: Tensor | None = None) -> "FeatureTensors":
        """Return some of them, with their labels or with others."""
        chosen = numbers.to(self.device)
        labels = self.labels[chosen] if labels is None else labels.to(self.device)
        return FeatureTensors(self.features[chosen], labels)

    def to(self, device: torch.device) -> "FeatureTensors":
        """Return the same on ``device``."""
        return FeatureTensors(self.features.to(device), self.labels.to(device))


class FeatureDataModule(InMemoryDataModule):
    """The features of a data set that is set up; batches of them and labels.

    Args:
        images: The data set.
        features: By ``train``, ``val`` and ``test``.
        about: What they are of, for results.json.

    Example:
        >>> from datamodules import MNISTDataModule
        >>> digits = MNISTDataModule("sample", batch_size=16)
        >>> digits.setup()
        >>> parts = {"train": digits.train_data, "val": digits.val_data, "test": digits.test_data}
        >>> pixels = {
        ...     name: FeatureTensors(torch.cat([one.flatten(1) for one in data.batches()]), data.labels)
        ...     for name, data in parts.items()
        ... }
        >>> features, labels = next(iter(FeatureDataModule(digits, pixels, {}).train_dataloader()))
        >>> features.shape
        torch.Size([16, 784])
    """

    train_data: Any
    val_data: Any
    test_data: Any

    def __init__(
        self, images: InMemoryDataModule, features: dict[str, FeatureTensors], about: dict[str, Any]
    ) -> None:
        super().__init__(images.data_dir, batch_size=images.batch_size, seed=images.seed)
        self.images, self.about, self.classes, self.resized = images, about, images.classes, images.resized
        for part, data in features.items():
            setattr(self, f"{part}_data", data)

    def read(self) -> tuple[Any, Any]:
        """Return training and test features."""
        return self.train_data, self.test_data

    @property
    def title(self) -> str:
        """Name of the data set."""
        return self.images.title

    def describe(self) -> dict[str, Any]:
        """Return what is known of the images, and what their features are of."""
        return self.images.describe() | {"features": self.about}
