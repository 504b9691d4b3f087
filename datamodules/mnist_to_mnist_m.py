"""MNIST as source and MNIST-M as target, a batch of each in every training step."""

from pathlib import Path
from typing import Any, Literal

from datamodules.domain_pair import DomainPairDataModule
from datamodules.mnist import MNISTDataModule
from datamodules.mnist_m import MNISTMDataModule


class MNISTToMNISTMDataModule(DomainPairDataModule):
    """Source (MNIST, three equal channels) and target (MNIST-M): a `DomainPairDataModule`.

    Args:
        data_dir: See `MNISTDataModule` and `MNISTMDataModule`.
        batch_size: Images of each domain in one training step, over all processes together.
        seed: Of both orders.
        num_workers: 0 is fastest: the images live in memory.
        image_size: 28, as DANN's networks take them, or 32.
        source: Which MNIST-M, see `MNISTMDataModule`.

    Example:
        >>> digits = MNISTToMNISTMDataModule("sample", batch_size=64)
        >>> digits.setup()  # doctest: +ELLIPSIS
        MNIST-M...images
        >>> batch, _, _ = next(iter(digits.train_dataloader()))
        >>> batch["source"][0].shape, batch["target"][0].shape
        (torch.Size([64, 3, 28, 28]), torch.Size([64, 3, 28, 28]))
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        batch_size: int = 128,
        seed: int = 0,
        num_workers: int = 0,
        image_size: int = 28,
        source: Literal["auto", "release", "generated"] = "auto",
    ) -> None:
        shared: dict[str, Any] = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "image_size": image_size,
        }
        digits = MNISTDataModule(data_dir, channels=3, **shared)
        target = MNISTMDataModule(data_dir, source=source, **shared)
        super().__init__(digits, target, batch_size=batch_size, seed=seed)
