"""GANs of several seeds trained at once, their networks stacked; each ends as it would have alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rdfia.common.batches import images_of, labels_of
from rdfia.common.checks import check_batch
from rdfia.common.draws import drawn
from rdfia.common.stacked import Stacked, StackedSteps
from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import GANModule
from rdfia.generation.networks import check_size

UNSCORED = {"scores": "squeezenet"}  # embedded; nothing is scored while several are trained


class _StackedGroups:
    """The groups of stacked generators."""

    def __init__(self, generator: Stacked, count: int) -> None:
        self.generator, self.count = generator, count

    @property
    def fitted(self) -> bool:
        """Whether there are groups yet."""
        return bool(self.generator.state()["groups.centres"].any())

    def of_images(self, images: Tensor) -> Tensor:
        """Return the group (S, N) of each image (S, N, C, H, W) in [0, 1]."""
        found: Tensor = self.generator.call("groups", "of_images", images)
        return found

    def of_latents(self, latents: Tensor) -> Tensor:
        """Return the group (S, N) that each latent vector (S, N, D) chooses."""
        found: Tensor = self.generator.call("groups", "of_latents", latents)
        return found


class _StackedGANs(StackedSteps, GANModule):
    """Training steps of several modules at once, on batches (S, B, C, H, W) and labels (S, B)."""

    members: list[GANModule]

    def stack(self, members: Sequence[GANModule]) -> None:
        """Take the networks of modules of one shape; `unstack` gives them back."""
        object.__setattr__(self, "members", list(members))  # no parts of this module
        self.generator = Stacked([member.generator for member in members])
        self.discriminator = Stacked([member.discriminator for member in members])
        self.average_generator = Stacked([member.average_generator for member in members])
        self.average_generator.requires_grad_(False)
        for name in ("chance", "surety"):
            setattr(self.augment, name, torch.stack([getattr(one.augment, name) for one in members]))
        if self.groups is not None:
            del self.groups
            self.groups = _StackedGroups(self.generator, members[0].groups.count)  # type: ignore[assignment, union-attr]

    def _draw_for_step(self, count: int, step: int) -> Tensor:
        return torch.stack([member.draw(count, 1, step) for member in self.members])

    def _draw_more_for_step(self, count: int, step: int) -> Tensor:
        columns = sum(self.more_draws)
        return torch.stack([drawn(count, columns, (one.seed, 10, step)).float() for one in self.members])

    def _check(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor | None]:
        images, labels = images_of(batch), labels_of(batch)
        flat = images.flatten(0, 1)
        check_size(flat, self.image_size, self.channels)
        looked_at = labels.flatten() if labels is not None and self.condition(labels) else None
        check_batch(flat, looked_at, self.classes, batch_idx)
        return images, labels

    def fit_groups(self, images: Tensor) -> None:
        """Fit the clusters of each to its own images (S, N, C, H, W)."""
        for member, seen in zip(self.members, images, strict=True):
            assert member.groups is not None
            member.groups.fit(seen, member.seed)
        for network in (self.generator, self.average_generator):
            assert isinstance(network, Stacked)
            for name, value in network.state().items():
                if name.startswith("groups."):
                    own = name.removeprefix("groups.")
                    value.copy_(torch.stack([m.groups.state_dict()[own] for m in self.members]))  # type: ignore[union-attr]

    def unstack(self) -> None:
        """Give the members what was trained."""
        for number, member in enumerate(self.members):
            for name in ("generator", "discriminator", "average_generator"):
                stacked, network = getattr(self, name), getattr(member, name)
                network.load_state_dict(stacked.state_of(number))
            for name in ("chance", "surety"):
                getattr(member.augment, name).copy_(getattr(self.augment, name)[number])
            member.batches_done = self.batches_done


class StackedGAN(_StackedGANs):
    """Several `GANModule` at once.

    Args:
        members: Of the same settings, but for the seed.
    """

    def __init__(self, members: Sequence[GANModule]) -> None:
        super().__init__(**dict(members[0].hparams) | UNSCORED)
        self.stack(members)


class StackedcGAN(_StackedGANs, cGANModule):
    """Several `cGANModule` at once.

    Args:
        members: Of the same settings, but for the seed.
    """

    def __init__(self, members: Sequence[cGANModule]) -> None:
        cGANModule.__init__(self, **dict(members[0].hparams) | UNSCORED)
        self.stack(members)
        counts = torch.stack([member.label_counts for member in members])
        self.label_counts, self.new_counts = counts.clone(), torch.zeros_like(counts)

    def unstack(self) -> None:
        """Give the members what was trained, and how many of each class they saw."""
        super().unstack()
        for member, counts in zip(self.members, self.label_counts + self.new_counts, strict=True):
            member.label_counts.copy_(counts)  # type: ignore[operator] # a buffer
