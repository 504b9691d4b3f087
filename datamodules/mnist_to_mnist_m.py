"""MNIST as source and MNIST-M as target, a batch of each in every training step."""

from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch.utilities import CombinedLoader

from datamodules.mnist import MNISTDataModule
from datamodules.mnist_m import MNISTMDataModule
from datamodules.tensors import BatchLoader, ShuffledBatches, on_device


class MNISTToMNISTMDataModule(lightning.LightningDataModule):
    """Source (MNIST, three equal channels) and target (MNIST-M), for unsupervised domain adaptation.

    A training batch is ``{"source": (images, labels), "target": (images, labels)}``. The two orders are
    independent of each other, on one process and on many: MNIST-M is made of the same digits, so equal orders
    would pair each digit with itself and leak the target's labels. An epoch passes once over the larger set;
    the smaller one is shuffled anew each time it is used up.

    Validation and test have two loaders: 0 is the source, 1 the target.

    Args:
        data_dir: See `MNISTDataModule` and `MNISTMDataModule`.
        batch_size: Images of each domain in one training step, over all processes together.
        seed: Of both orders.
        num_workers: 0 is fastest: the images live in memory.
        image_size: 32 or 28.
        source: Which MNIST-M, see `MNISTMDataModule`.

    Example:
        >>> digits = MNISTToMNISTMDataModule("sample", batch_size=64)
        >>> digits.setup()  # doctest: +ELLIPSIS
        MNIST-M...images
        >>> batch, _, _ = next(iter(digits.train_dataloader()))
        >>> batch["source"][0].shape, batch["target"][0].shape
        (torch.Size([64, 3, 32, 32]), torch.Size([64, 3, 32, 32]))
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        batch_size: int = 128,
        seed: int = 0,
        num_workers: int = 0,
        image_size: int = 32,
        source: Literal["auto", "release", "generated"] = "auto",
    ) -> None:
        super().__init__()
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        shared: dict[str, Any] = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "image_size": image_size,
        }
        self.source = MNISTDataModule(data_dir, channels=3, **shared)
        self.target = MNISTMDataModule(data_dir, source=source, **shared)

    def prepare_data(self) -> None:
        """Check the source and generate the target if there is no release. Never downloads."""
        self.source.prepare_data()
        self.target.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Load both domains into memory."""
        for domain in (self.source, self.target):
            domain.trainer = self.trainer  # for the device
            domain.setup(stage)

    def describe(self) -> dict[str, Any]:
        """Return name, counts and sha256 of both domains, for results.json."""
        return {"source": self.source.describe(), "target": self.target.describe()}

    def train_dataloader(self) -> CombinedLoader:
        """Return pairs of batches in independent orders."""
        domains: dict[str, MNISTDataModule | MNISTMDataModule] = {
            "source": self.source,
            "target": self.target,
        }
        longest = max(len(domain.train_data) for domain in domains.values())
        loaders = {}
        for stream, (name, domain) in enumerate(domains.items()):
            order = ShuffledBatches(
                len(domain.train_data),
                self.batch_size,
                seed=self.seed,
                stream=stream,
                num_batches=longest // self.batch_size,
            )
            data = on_device(domain.train_data, domain)
            loaders[name] = BatchLoader(data, order, num_workers=self.num_workers)
        return CombinedLoader(loaders, "min_size")

    def val_dataloader(self) -> list[BatchLoader]:
        """Return source and target; each validation image is scored exactly once."""
        return [self.source.val_dataloader(), self.target.val_dataloader()]

    def test_dataloader(self) -> list[BatchLoader]:
        """Return source and target; each test image is scored exactly once."""
        return [self.source.test_dataloader(), self.target.test_dataloader()]
