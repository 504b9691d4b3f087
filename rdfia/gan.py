"""DCGAN for 32x32 images.

Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks", 2016, with the non-saturating loss of Goodfellow et al. 2014.

The discriminator learns to score real images high and generated ones low, the generator to be scored high:

    L_D = softplus(-D(x)) + softplus(D(G(z)))        L_G = softplus(-D(G(z)))

which are the binary cross-entropies of the papers, written on logits so that they neither saturate nor
overflow in half precision. Inside, images live in [-1, 1]; `GANModule.sample` returns [0, 1].

    python scripts/train_gan.py --data-dir /path/to/data
"""

import copy
from collections.abc import Iterable
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from rdfia.digit_judge import DigitScores


class Generator(nn.Module):
    """Latents (B, latent_dim) to images (B, channels, 32, 32) in [-1, 1].

    Transposed 4x4 convolutions double the size three times, from 4x4; BatchNorm and ReLU between them.

    Args:
        latent_dim: Numbers in a latent vector.
        features: Width of the last hidden layer; the earlier ones have 2 and 4 times as many.
        channels: Of the images.
    """

    def __init__(self, latent_dim: int = 100, features: int = 32, channels: int = 1) -> None:
        super().__init__()

        def up(inputs: int, outputs: int, stride: int, padding: int) -> list[nn.Module]:
            # BatchNorm has a bias of its own.
            convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
            return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

        self.layers = nn.Sequential(
            *up(latent_dim, 4 * features, 1, 0),  # 4x4
            *up(4 * features, 2 * features, 2, 1),  # 8x8
            *up(2 * features, features, 2, 1),  # 16x16
            nn.ConvTranspose2d(features, channels, 4, 2, 1),  # 32x32
            nn.Tanh(),
        )
        self.apply(initialize_dcgan)

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents (B, latent_dim) to images (B, channels, 32, 32) in [-1, 1]."""
        images: Tensor = self.layers(latents[:, :, None, None])
        return images


class Discriminator(nn.Module):
    """Images (B, channels, 32, 32) in [-1, 1] to logits (B,); large means real.

    Args:
        features: Width of the first layer; the later ones have 2 and 4 times as many.
        channels: Of the images.
    """

    def __init__(self, features: int = 32, channels: int = 1) -> None:
        super().__init__()

        def down(inputs: int, outputs: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
            return [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]

        self.layers = nn.Sequential(
            nn.Conv2d(channels, features, 4, 2, 1),  # 16x16; no BatchNorm at the input
            nn.LeakyReLU(0.2),
            *down(features, 2 * features),  # 8x8
            *down(2 * features, 4 * features),  # 4x4
            nn.Conv2d(4 * features, 1, 4),  # 1x1
        )
        self.apply(initialize_dcgan)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, channels, 32, 32) in [-1, 1] to logits (B,)."""
        logits: Tensor = self.layers(images)
        return logits.flatten()


def initialize_dcgan(layer: nn.Module) -> None:
    """Draw convolution weights from N(0, 0.02) and BatchNorm scales from N(1, 0.02), as the paper does."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the binary cross-entropy that scores real images 1 plus the one that scores generated ones 0."""
    real, fake = real_logits.float(), fake_logits.float()
    return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Return the non-saturating loss: the binary cross-entropy that scores generated images 1."""
    return functional.softplus(-fake_logits.float()).mean()


def draw_latents(
    count: int, latent_dim: int, key: Iterable[int], *, rank: int = 0, world_size: int = 1
) -> Tensor:
    """Draw latents (count, latent_dim) from N(0, 1) that depend on ``key`` and ``rank`` alone.

    There is no state to lose: a resumed run draws what the uninterrupted one would have drawn, and the
    processes of a run draw, together, what one process would draw.

    Args:
        count: Latents for this process.
        latent_dim: Numbers in each.
        key: Non-negative integers, such as a seed and the number of a batch.
        rank: Of this process among ``world_size``.
        world_size: Number of processes.
    """
    # torch's CPU generator uses 32 bits of a seed; SeedSequence mixes all of the key into them.
    seed = int(np.random.SeedSequence(list(key)).generate_state(1)[0])
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count * world_size, latent_dim, generator=generator)[rank::world_size]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move ``average``'s parameters towards ``model``'s and copy its buffers.

    The decay rises to ``decay`` as ``(1 + step) / (10 + step)``, so that the random weights of the first
    steps are soon forgotten. Without the buffers the average would normalise with the statistics of those.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for kept, current in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(current)


def share_statistics(module: nn.Module, world_size: int) -> None:
    """Give all processes the first one's buffers, such as BatchNorm's statistics: checkpoints hold those."""
    if world_size > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, 0)


class GANModule(lightning.LightningModule):
    """DCGAN with manual optimization: one discriminator step, then one generator step per batch.

    Right under float32, bf16-mixed and 16-mixed. With several processes use the strategy
    ``ddp_find_unused_parameters_true``, since each of the two losses leaves the other network unused
    (`rdfia.training` picks it). Budget training in epochs: ``trainer.global_step`` counts the steps of
    both optimizers; ``batches_done`` counts batches.

    Args:
        latent_dim: Numbers in a latent vector.
        generator_features: Width of the generator.
        discriminator_features: Width of the discriminator.
        generator_lr: Adam's learning rate for the generator.
        discriminator_lr: Adam's learning rate for the discriminator.
        beta1: Adam's first decay; 0.5 keeps the two networks from oscillating.
        beta2: Adam's second decay.
        average_decay: Of the exponential moving average of the generator, which makes the samples.
        seed: Of the latents.
        preview_count: Number of fixed latents for previews.

    Example:
        >>> images = GANModule().sample(4)
        >>> images.shape
        torch.Size([4, 1, 32, 32])
    """

    preview_latents: Tensor

    def __init__(
        self,
        *,
        latent_dim: int = 100,
        generator_features: int = 32,
        discriminator_features: int = 32,
        generator_lr: float = 2e-4,
        discriminator_lr: float = 2e-4,
        beta1: float = 0.5,
        beta2: float = 0.999,
        average_decay: float = 0.999,
        seed: int = 0,
        preview_count: int = 64,
    ) -> None:
        super().__init__()
        widths = {"latent_dim": latent_dim, "generator_features": generator_features}
        for name, value in (widths | {"discriminator_features": discriminator_features}).items():
            if value < 1:
                raise ValueError(f"{name} is at least 1, got {value}")
        for name, rate in (("generator_lr", generator_lr), ("discriminator_lr", discriminator_lr)):
            if not rate >= 0:
                raise ValueError(f"{name} is not negative, got {rate}")
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.latent_dim, self.seed = latent_dim, seed
        self.generator_lr, self.discriminator_lr = generator_lr, discriminator_lr
        self.betas = (beta1, beta2)
        self.average_decay = average_decay
        self.generator = Generator(latent_dim, generator_features)
        self.discriminator = Discriminator(discriminator_features)
        self.average_generator = copy.deepcopy(self.generator).requires_grad_(False)
        self.scores = DigitScores()
        # Buffers: on the right device, in every checkpoint, the same grid all run long.
        self.register_buffer("preview_latents", draw_latents(preview_count, latent_dim, [seed, 0, 0]))
        # Not trainer.global_step, which counts the steps of both optimizers.
        self.batches_done = 0

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents (B, latent_dim) to images (B, 1, 32, 32) in [0, 1] with the averaged generator.

        Always in eval mode, so that an image does not depend on the others of its batch.
        """
        average = self.average_generator
        was_training = average.training
        images: Tensor = average.eval()(latents.to(self.device))
        average.train(was_training)
        return (images.float() + 1) / 2

    @torch.no_grad()
    def sample(self, count: int, *, seed: int | None = None) -> Tensor:
        """Generate images (count, 1, 32, 32) in [0, 1]; the same seed gives the same images."""
        key = [self.seed if seed is None else seed, 3, 0]
        latents = draw_latents(count, self.latent_dim, key)
        return torch.cat([self(part) for part in torch.split(latents, 1000)])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Update the discriminator, then the generator, then the generator's average."""
        real = batch[0] * 2 - 1
        latents = draw_latents(
            len(real),
            self.latent_dim,
            [self.seed, 1, self.batches_done],
            rank=self.global_rank,
            world_size=self.trainer.world_size,
        ).to(self.device)
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        discriminator_optimizer, generator_optimizer = optimizers

        # One backward pass right before its own step, never two before two: the fp16 scaler rescales
        # after each step. Detached, so that nothing of this step can reach the generator.
        fake = self.generator(latents)
        with self.toggled_optimizer(discriminator_optimizer):
            # Real and generated images in passes of their own, so that BatchNorm does not mix them.
            real_logits = self.discriminator(real)
            fake_logits = self.discriminator(fake.detach())
            d_loss = discriminator_loss(real_logits, fake_logits)
            discriminator_optimizer.zero_grad()
            self.manual_backward(d_loss)
            discriminator_optimizer.step()

        with self.toggled_optimizer(generator_optimizer):
            fooled_logits = self.discriminator(fake)
            g_loss = generator_loss(fooled_logits)
            generator_optimizer.zero_grad()
            self.manual_backward(g_loss)
            generator_optimizer.step()

        update_average(self.average_generator, self.generator, self.average_decay, self.batches_done)
        self.batches_done += 1
        self.log_dict({"train/discriminator_loss": d_loss, "train/generator_loss": g_loss}, prog_bar=True)
        self.log_dict(
            {
                "train/real_score": real_logits.detach().float().sigmoid().mean(),
                "train/fake_score": fake_logits.detach().float().sigmoid().mean(),
                "train/batch": float(self.batches_done),
            }
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the number of batches, on which latents and average depend."""
        checkpoint["batches_done"] = self.batches_done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the number of batches."""
        self.batches_done = checkpoint["batches_done"]

    def _compare(self, real: Tensor, key: list[int]) -> None:
        """Show the judge a batch of real digits (B, 1, 32, 32) and as many generated ones."""
        latents = draw_latents(len(real), self.latent_dim, [*key, self.global_rank])
        self.scores.update(real, real=True)
        self.scores.update(self(latents), real=False)

    def _log_scores(self, stage: str) -> None:
        scores = {f"{stage}/{name}": value for name, value in self.scores.compute().items()}
        self.log_dict(scores, sync_dist=True)  # equal on all processes already
        self.scores.reset()

    def on_validation_epoch_start(self) -> None:
        """Let all processes score one generator."""
        share_statistics(self.average_generator, self.trainer.world_size)

    def on_test_epoch_start(self) -> None:
        """Let all processes score one generator."""
        share_statistics(self.average_generator, self.trainer.world_size)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Compare validation digits with as many generated ones, from the same latents in each epoch."""
        self._compare(batch[0], [self.seed, 2, batch_idx])

    def on_validation_epoch_end(self) -> None:
        """Log val/judge_fid and the other scores."""
        self._log_scores("val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Compare test digits with as many generated ones."""
        self._compare(batch[0], [self.seed, 4, batch_idx])

    def on_test_epoch_end(self) -> None:
        """Log test/judge_fid and the other scores."""
        self._log_scores("test")

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Map a batch of latents (B, latent_dim) to images (B, 1, 32, 32) in [0, 1]."""
        images: Tensor = self(batch)
        return images

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the discriminator's Adam and the generator's, in the order in which they step."""
        return [
            torch.optim.Adam(self.discriminator.parameters(), lr=self.discriminator_lr, betas=self.betas),
            torch.optim.Adam(self.generator.parameters(), lr=self.generator_lr, betas=self.betas),
        ]
