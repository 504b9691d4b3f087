"""Training batches of several seeds side by side, for networks that are trained together."""

from collections.abc import Sequence

import lightning
from lightning.pytorch.utilities import CombinedLoader

from datamodules.domain_pair import DomainPairDataModule
from datamodules.in_memory import InMemoryDataModule
from datamodules.tensors import BatchLoader, ShuffledBatches


class StackedSeeds(lightning.LightningDataModule):
    """The training batches that a data module has with each of several seeds: (S, B, C, H, W).

    Args:
        data: Images in memory, or pairs of them.
        seeds: One for each network.
    """

    def __init__(self, data: InMemoryDataModule | DomainPairDataModule, seeds: Sequence[int]) -> None:
        super().__init__()
        self.data, self.seeds = data, tuple(seeds)

    def prepare_data(self) -> None:
        """Check the data."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Load the data."""
        self.data.trainer = self.trainer  # for the device
        self.data.setup(stage)

    def train_dataloader(self) -> BatchLoader | CombinedLoader:
        """Return batches of all seeds."""
        loader = self.data.train_dataloader()
        if isinstance(loader, CombinedLoader):
            stacked = {name: self._stacked(one) for name, one in loader.iterables.items()}
            return CombinedLoader(stacked, "min_size")
        return self._stacked(loader)

    def _stacked(self, loader: BatchLoader) -> BatchLoader:
        order = loader.sampler
        if not isinstance(order, ShuffledBatches):
            raise ValueError("batches of several seeds are those of a shuffled order; leave shuffle on")
        of_all = ShuffledBatches(
            order.length,
            order.batch_size,
            stream=order.stream,
            num_batches=order.num_batches,
            seeds=self.seeds,
        )
        return BatchLoader(loader.dataset, of_all)
