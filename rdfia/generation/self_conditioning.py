"""A GAN that fits its clusters when its training starts, see `rdfia.generation.clusters`."""

from typing import Any

import torch
from torch import Tensor

from rdfia.common.parallel import broadcast_buffers
from rdfia.generation.clusters import images_to_fit
from rdfia.generation.samples import MakesSamples


class ConditionsItself(MakesSamples):
    """A module whose ``groups``, if it has any, are fitted to the first images of its training."""

    batches_done: int
    flips: bool

    def on_train_start(self) -> None:
        """Fit the clusters unless resuming; all ranks use those of rank 0."""
        super().on_train_start()
        if self.trainer.global_step == 0:  # also of a module that was trained before: rates fall again
            self.batches_done = 0
        if self.groups is None or self.groups.fitted:
            return
        loader: Any = self.trainer.train_dataloader
        seen = (self._gather(self._check(batch, number)[0]) for number, batch in enumerate(loader))
        images = images_to_fit(seen, self.groups.count, self.trainer.num_training_batches)
        # Groups, and how large they are, of what the discriminator sees.
        self.fit_groups(torch.cat([images, images.flip(-1)], -4) if self.flips else images)

    def _gather(self, images: Tensor) -> Tensor:
        images = images.to(self.device)
        if self.trainer.world_size > 1:  # in the order of one process: they take turns within a batch
            gathered: Any = self.all_gather(images)
            images = gathered.transpose(0, 1).flatten(0, 1)
        return images

    def fit_groups(self, images: Tensor) -> None:
        """Fit the clusters to images (N, C, H, W) in [0, 1]."""
        assert self.groups is not None
        self.groups.fit(images, self.seed)
        broadcast_buffers(self.groups, self.trainer.world_size)
        self.average_generator.get_submodule("groups").load_state_dict(self.groups.state_dict())
