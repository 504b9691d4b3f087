"""Clusters of images, made without labels, for a GAN to be conditioned on itself.

Liu et al., "Diverse Image Generation via Self-Conditioned GANs", CVPR 2020; here the clusters are those of
k-means on the pixels, made once. The discriminator is given the cluster, so it compares like with like, and
the generator reads the cluster from its latents, so there is nothing to ask for when it is used.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from rdfia.common.checks import KeepsPrecision

# Of the generator's choice: a few of a hundred latents lie between two groups, so that a walk goes over from
# one to the other. With 4 every other latent does, and fewer samples are digits.
SHARPNESS = 50.0


FIT_ON = 10_000  # images of 32 pixels, fewer of larger ones, so that memory stays the same


def images_to_fit(batches: Iterable[Tensor], count: int, length: float) -> Tensor:
    """Return the first images of a training (..., N, C, H, W): as many as clusters are fitted to.

    Args:
        batches: Of images (..., B, C, H, W).
        count: Of the clusters.
        length: Batches in an epoch; in a dry run there are few.
    """
    taken: list[Tensor] = []
    for number, images in enumerate(batches, 1):
        taken.append(images)
        seen = sum(part.shape[-4] for part in taken)
        height, width = images.shape[-2:]
        if seen >= FIT_ON * 32 * 32 // max(height * width, 32 * 32) or (number >= length and seen >= count):
            break
    return torch.cat(taken, -4)


class Groups(KeepsPrecision):
    """Which of ``count`` groups images belong to, and which latents make.

    Latents choose as often as training images have a group: the first ``count`` numbers of each are turned
    into Gumbel noise, and the largest sum of log share and noise is the choice.

    Args:
        count: Number of clusters, at most the length of a latent vector.
        pixels: Numbers in an image.
        uniform: The latents are uniform from -1 to 1, not N(0, 1).
    """

    centres: Tensor
    log_shares: Tensor

    def __init__(self, count: int, pixels: int = 32 * 32, *, uniform: bool = False) -> None:
        super().__init__()
        self.count, self.uniform = count, uniform
        # Until `fit`, all images are of the first group and latents choose any.
        self.register_buffer("centres", torch.zeros(count, pixels))
        self.register_buffer("log_shares", torch.zeros(count))

    @property
    def fitted(self) -> bool:
        """Whether there are groups yet."""
        return bool(self.centres.any())

    def fit(self, images: Tensor, seed: int) -> None:
        """Fit the clusters to images (N, C, H, W) in [0, 1] by k-means.

        Raises:
            ValueError: There are fewer images than groups.
        """
        from sklearn.cluster import KMeans

        if len(images) < self.count:
            raise ValueError(f"{self.count} groups of {len(images)} images; take groups=0")
        flat = images.flatten(1).float().cpu().numpy()
        found = KMeans(self.count, n_init=1, random_state=seed).fit(flat)
        self.centres.copy_(torch.from_numpy(found.cluster_centers_))
        sizes = torch.bincount(torch.from_numpy(found.labels_).long(), minlength=self.count)
        self.log_shares.copy_((sizes / sizes.sum()).clamp(min=1e-6).log())

    def of_images(self, images: Tensor) -> Tensor:
        """Return the group (N,) of each image (N, C, H, W) in [0, 1]."""
        with torch.autocast(images.device.type, enabled=False):  # a group must not depend on the precision
            return torch.cdist(images.flatten(1).float(), self.centres).argmin(1)

    def scores(self, latents: Tensor) -> Tensor:
        """Return how much latents (N, D) want each group, (N, count); the largest is the choice."""
        first = latents[:, : self.count].float()
        if self.uniform:
            log_chance = ((first + 1) / 2).clamp(min=1e-6).log()
        else:
            log_chance = torch.special.log_ndtr(first)
        return self.log_shares - (-log_chance).clamp(min=1e-6).log()

    def of_latents(self, latents: Tensor) -> Tensor:
        """Return the group (N,) that each latent vector (N, D) chooses."""
        return self.scores(latents).argmax(1)

    def forward(self, latents: Tensor) -> Tensor:
        """Return the choice of latents (N, D) as a soft, differentiable cluster assignment (N, count)."""
        return functional.softmax(SHARPNESS * self.scores(latents), 1).to(latents.dtype)
