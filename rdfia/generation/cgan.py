"""Conditional DCGAN: images of the classes that are asked for.

Mirza & Osindero, "Conditional Generative Adversarial Nets", 2014, on DCGAN; as a choice with the projection
of Miyato & Koyama, "cGANs with Projection Discriminator", ICLR 2018. Both networks are given the label.
Only the discriminator makes the generator heed it: real images come with their labels, so an image of
another digit than the label says looks generated. What is left for the noise is style.

    python scripts/train_cgan.py --data-dir /path/to/data
"""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdfia.common.batches import labels_of
from rdfia.common.checks import Classes, as_classes, check_classes
from rdfia.common.draws import drawn
from rdfia.common.literals import validate_literals
from rdfia.generation.gan import GANModule
from rdfia.generation.networks import (
    Blocks,
    Discriminator,
    Initialization,
    Normalization,
    Upsampling,
    bound,
    grow,
    initialize,
    shrink,
    up,
    widths,
)

Conditioning = Literal["one-hot", "embedding", "projection"]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return whether labels (B,) are each class, (B, classes) bool; torch's own looks at them first."""
    return labels[:, None] == torch.arange(classes, device=labels.device)


class ConditionalGenerator(nn.Module):
    """Latents (B, latent_dim) and labels (B,) to images (B, C, H, W) in [-1, 1].

    The label stands beside the latents, one-hot or as learned numbers; from there on all is as in
    `rdfia.generation.networks.Generator`. It has no branch with BatchNorm of its own, where a label would be
    as loud as all latents together, so that the generator could draw one image of each class.

    Args:
        latent_dim: Numbers in a latent vector.
        features: Width of the maps at half the images' size; the earlier ones are wider.
        upsampling: ``transposed`` or ``nearest``, see `rdfia.generation.networks.grow`.
        embedding: Numbers that stand for a label, learned; 0 for one-hot.
        classes: Their number.
        initialization: Of the weights, see `rdfia.generation.networks.initialize`.
        size: H and W: 32, 64 or 128.
        channels: C.
        blocks: ``plain`` or ``residual``, see `rdfia.generation.networks.grow`.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        features: int = 32,
        *,
        upsampling: Upsampling = "transposed",
        embedding: int = 0,
        classes: int = 10,
        initialization: Initialization = "dcgan",
        size: int = 32,
        channels: int = 1,
        blocks: Blocks = "plain",
    ) -> None:
        super().__init__()
        self.classes = classes
        self.embedding = nn.Embedding(classes, embedding) if embedding else None
        self.first = up(latent_dim + (embedding or classes), widths(features, size)[-1], 1, 0)
        self.layers = grow(features, upsampling, size=size, channels=channels, blocks=blocks)
        initialize(self, initialization)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents (B, latent_dim) and labels (B,) to images (B, C, H, W) in [-1, 1]."""
        embedding = self.embedding
        encoded = one_hot(labels, self.classes).to(latents) if embedding is None else embedding(labels)
        first = self.first(torch.cat([latents, encoded], 1)[:, :, None, None])
        images: Tensor = self.layers(first)
        return images


class ConditionalDiscriminator(nn.Module):
    """Images (B, C, H, W) in [-1, 1] and labels (B,) to logits (B,); large means real, and of that label.

    The label goes through a branch beside the image's, each half as wide, as Mirza & Osindero have it. (For
    projection take `rdfia.generation.networks.Discriminator`.)

    Args:
        features: Width of the first layer; the later ones are wider.
        conditioning: ``one-hot``: the label is a map for each class, one of them 1. ``embedding``: it is a
            learned map of the image's size.
        classes: Their number.
        initialization: Of the weights, see `rdfia.generation.networks.initialize`.
        size: H and W: 32, 64 or 128.
        channels: C.
        blocks: ``plain`` or ``residual``, see `rdfia.generation.networks.Discriminator`.
        normalization: ``batch``, ``spectral`` or ``none``, as there.
    """

    def __init__(
        self,
        features: int = 32,
        *,
        conditioning: Literal["one-hot", "embedding"] = "one-hot",
        classes: int = 10,
        initialization: Initialization = "dcgan",
        size: int = 32,
        channels: int = 1,
        blocks: Blocks = "plain",
        normalization: Normalization = "batch",
    ) -> None:
        super().__init__()
        self.classes, self.size = classes, size
        self.image_branch = nn.Conv2d(channels, features - features // 2, 4, 2, 1)
        self.label_branch = nn.Conv2d(classes if conditioning == "one-hot" else 1, features // 2, 4, 2, 1)
        self.layers = shrink(features, size=size, blocks=blocks, normalized=normalization == "batch")
        self.last = nn.Conv2d(widths(features, size)[-1], 1, 4)
        initialize(self, initialization)
        self.embedding = nn.Embedding(classes, size * size) if conditioning == "embedding" else None
        self.to(memory_format=torch.channels_last)  # as `rdfia.generation.networks.Discriminator`
        if normalization == "spectral":
            bound(self)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [-1, 1] and labels (B,) to logits (B,)."""
        size = self.size
        if self.embedding is None:
            encoded = one_hot(labels, self.classes).to(images)
            known = encoded[:, :, None, None].expand(-1, -1, size, size)
        else:
            known = self.embedding(labels).reshape(-1, 1, size, size)
        maps = torch.cat([self.image_branch(images), self.label_branch(known)], 1)
        logits: Tensor = self.last(self.layers(functional.leaky_relu(maps, 0.2)))
        return logits.flatten()


class cGANModule(GANModule):  # noqa: N801 - the name that the project is known by
    """Conditional DCGAN, trained as `GANModule` is, on images and their labels.

    In training, generated images are asked for the labels of the real ones beside them. In validation and
    test their labels are drawn as often as training had them: the scored digits' own labels would give it
    their class shares, which an unconditional GAN is not told.

    Args:
        conditioning: ``one-hot`` and ``embedding``: of both networks. ``projection``: of the discriminator,
            with one-hot in the generator; by far the best in few epochs.
        label_in_discriminator: Without it, nothing makes the generator heed the label.
        preview_count: Number of fixed latents for previews, each drawn as all classes.
        classes: Their number.
        class_names: Their names, kept with the checkpoint.
        gan: See `GANModule`.

    Example:
        >>> images = cGANModule().sample(20)  # 0 to 9, and again
        >>> images.shape
        torch.Size([20, 1, 32, 32])
    """

    label_counts: Tensor
    new_counts: Tensor

    def __init__(
        self,
        *,
        conditioning: Conditioning = "projection",
        label_in_discriminator: bool = True,
        preview_count: int = 8,
        classes: int = 10,
        class_names: Sequence[str] = (),
        **gan: Any,
    ) -> None:
        class_names = list(class_names)
        if classes < 2:
            raise ValueError(f"a conditional GAN has at least 2 classes, got {classes}")
        if gan.get("groups"):
            raise ValueError(f"labels are the groups of a conditional GAN, got groups={gan['groups']}")
        if classes != 10 and gan.get("scores") == "digits":
            raise ValueError(f"the digit judge knows 10 classes, got {classes}; take scores='squeezenet'")
        if classes != 10 and gan.get("scores") is None:
            gan["scores"] = "squeezenet"
        validate_literals(cGANModule.__init__, locals())
        super().__init__(preview_count=preview_count, **gan | {"groups": 0})
        self.classes = classes
        embedding = classes if conditioning == "embedding" else 0
        shape: dict[str, Any] = {"upsampling": self.upsampling, "embedding": embedding, "classes": classes}
        self.generator = ConditionalGenerator(self.latent_dim, self.features[0], **shape, **self.shape)
        critic: dict[str, Any] = self.shape | {"normalization": self.normalization}
        if label_in_discriminator and conditioning != "projection":
            if self.features[1] < 2:  # half of them for the label
                raise ValueError(f"{conditioning} labels need discriminator_features of at least 2, got 1")
            self.discriminator = ConditionalDiscriminator(
                self.features[1], conditioning=conditioning, classes=classes, **critic
            )
        else:
            told = classes if label_in_discriminator else 0
            self.discriminator = Discriminator(self.features[1], classes=told, **critic)
        self.average_generator = copy.deepcopy(self.generator).requires_grad_(False)
        self.register_buffer("label_counts", torch.zeros(classes))  # of the training images seen so far
        # Those of this process that the others do not know of yet.
        self.register_buffer("new_counts", torch.zeros(classes), persistent=False)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load checkpoints of a version that counted no labels, too: all are asked for alike then."""
        super().on_load_checkpoint(checkpoint)
        checkpoint["state_dict"].setdefault("label_counts", torch.zeros(self.classes))

    def condition(self, labels: Tensor | None) -> tuple[Tensor, ...]:
        """Return the conditioning inputs of both networks: the labels (B,).

        Raises:
            ValueError: There are none.
        """
        if labels is None:
            raise ValueError("a conditional GAN needs labels, and the batch has none; give (images, labels)")
        return (labels,)

    def ask(self, count: int, *key: int) -> tuple[Tensor, ...]:
        """Draw labels (count,) by the shares of the training images, by seed and ``key`` alone.

        All alike before any training.
        """
        counts = self.label_counts.double().cpu() if self.label_counts.any() else torch.ones(self.classes)
        edges = (counts / counts.sum()).cumsum(0)[:-1]
        numbers = drawn(count, 1, (self.seed, *key, 1))[:, 0]
        chosen = torch.searchsorted(edges.double(), numbers.contiguous(), right=True)
        return (chosen.to(self.device),)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update both networks, and count the labels."""
        super().training_step(batch, batch_idx)
        (labels,) = self.condition(labels_of(batch))
        self.new_counts.scatter_add_(-1, labels, torch.ones_like(labels, dtype=self.new_counts.dtype))

    def _share_counts(self) -> None:
        """Add what was counted since the last time, over all processes."""
        new = self.new_counts
        if self.trainer.world_size > 1:
            new = self.trainer.strategy.reduce(new.clone(), reduce_op="sum")
        self.label_counts += new
        self.new_counts.zero_()

    def on_train_epoch_end(self) -> None:
        """Share what was counted in this epoch."""
        super().on_train_epoch_end()
        self._share_counts()

    def on_validation_epoch_start(self) -> None:
        """Let all processes score one generator, and ask for labels as often as training had them."""
        super().on_validation_epoch_start()
        self._share_counts()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what was counted up to here."""
        super().on_save_checkpoint(checkpoint)
        self._share_counts()
        checkpoint["state_dict"]["label_counts"] = self.label_counts

    @torch.no_grad()
    def sample(
        self,
        count: int,
        *,
        seed: int | None = None,
        truncation: float | None = None,
        labels: Classes | None = None,
    ) -> Tensor:
        """Generate images (count, C, H, W) in [0, 1]; the same seed gives the same latents.

        Args:
            count: Of the images.
            seed: Of the latents, by default the module's own.
            truncation: See `rdfia.generation.latents.truncated`; None for latents as they are drawn.
            labels: (count,), or one for all; by default all classes in turn, again and again.

        Raises:
            ValueError: They are not so many classes.
        """
        in_turn = torch.arange(count) % self.classes
        asked = in_turn if labels is None else as_classes(labels, torch.empty(count))
        check_classes(asked, self.classes)
        return self._generate(count, seed, truncation, asked)

    @torch.no_grad()
    def class_grid(self, latents: Tensor) -> Tensor:
        """Generate all classes from each latent.

        Args:
            latents: (Z, latent_dim).

        Returns:
            Images (classes, Z, C, H, W) in [0, 1]: a row is one class, a column has one latent.
        """
        labels = torch.arange(self.classes)
        return torch.stack([self(latents, label.expand(len(latents))) for label in labels])

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Map a batch of latents (B, latent_dim) and labels (B,) to images (B, C, H, W) in [0, 1]."""
        images: Tensor = self(*batch)
        return images
