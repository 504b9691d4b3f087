"""DCGAN, for grey or colour images of 32, 64 or 128 pixels.

Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks", 2016, with the non-saturating loss of Goodfellow et al. 2014.

The discriminator learns to score real images high and generated ones low, the generator to be scored high,
see `rdfia.generation.losses`. Inside, images live in [-1, 1]; `GANModule.sample` returns [0, 1]. By default
the discriminator compares like with like, see `rdfia.generation.clusters`.

    python scripts/train_gan.py --data-dir /path/to/data
"""

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rdfia.common.batches import images_of, labels_of
from rdfia.common.checks import check_batch, check_settings
from rdfia.common.draws import Ahead, drawn
from rdfia.common.exact import exact
from rdfia.common.literals import validate_literals
from rdfia.common.optimization import Decay, average_weight, lr_factor, set_lr, update_average
from rdfia.common.parallel import average_gradients, leave_gradients
from rdfia.generation import augmentation, losses
from rdfia.generation.clusters import Groups
from rdfia.generation.feature_scores import make_scores
from rdfia.generation.networks import (
    Blocks,
    Discriminator,
    Generator,
    Initialization,
    Normalization,
    Size,
    Upsampling,
    check_size,
)
from rdfia.generation.self_conditioning import ConditionsItself

# The recipe of the practicals, as keywords of `GANModule`.
PRACTICAL: dict[str, Any] = {"latents": "normal", "upsampling": "transposed", "groups": 0, "r1_weight": 0.0}
PRACTICAL |= {"generator_lr": 2e-4, "discriminator_lr": 2e-4, "lr_schedule": "none", "beta2": 0.999}
PRACTICAL |= {"ema_decay": 0.0}
# What differs from the defaults for photographs, chosen on held-out training images of CIFAR-10.
RGB: dict[str, Any] = {"r1_weight": 0.1}
PRESETS: dict[str, dict[str, Any]] = {"best": {}, "practical": PRACTICAL, "rgb": RGB}
PENALTY_EVERY = 8  # R1 and R2 cost as much as the rest of the step, and hold as well when they are rare


class _Kind(NamedTuple):
    """What is done in a step."""

    penalised: bool
    generate: bool
    adapts: bool


class GANModule(ConditionsItself):
    """DCGAN with manual optimization: a discriminator step, then a generator step per batch.

    Right under float32, bf16-mixed and 16-mixed, on one process and, with the strategy ``ddp``, on many: it
    averages the gradients of each network itself. Budget training in epochs: ``trainer.global_step`` counts
    the steps of both optimizers; ``batches_done`` counts batches.

    The defaults are what gave the best digits in 5 epochs of batches of 64; ``GANModule(**PRACTICAL)`` is the
    recipe of the practicals, for batches of 128.

    Args:
        latent_dim: Numbers in a latent vector.
        latents: Their distribution: ``normal`` is N(0, 1), ``uniform`` is from -1 to 1.
        generator_features: Width of the generator.
        discriminator_features: Width of the discriminator.
        upsampling: ``transposed`` or ``nearest``, see `rdfia.generation.networks.grow`.
        groups: Number of clusters for self-conditioning (Liu et al. 2020): the discriminator is given the
            cluster, the latents select it. Fitted by k-means when training starts
            (`rdfia.generation.clusters`). At most ``latent_dim``; 0 disables it; None for 50, or
            ``latent_dim`` if that is less; 0 with a loss of pairs or a penalty between images.
        initialization: ``dcgan``, ``pytorch`` or ``orthogonal``, see `rdfia.generation.networks.initialize`.
        loss: ``non-saturating``, ``minimax``, ``least-squares``, ``hinge``, ``wasserstein`` or
            ``relativistic``, see `rdfia.generation.losses`.
        label_smoothing: One-sided: the target for real images is 1 minus this; only where there is a target.
        discriminator_steps: Discriminator updates per generator update.
        r1_weight: Weight of the R1 penalty, half of which times `gradient_penalty` is added, of real images
            as the discriminator sees them; 0 for none.
        r2_weight: The same of generated images; 0 for none.
        gp_weight: Weight of the `wasserstein_penalty`, in every step, of images between real and generated
            ones; 0 for none. The paper has 10, and no BatchNorm in the discriminator.
        top_k: Share of the generated images that the generator's loss heeds at last, those that look most
            real; it falls from 1 by a hundredth each epoch (Sinha et al. 2020).
        generator_lr: Adam's learning rate for the generator.
        discriminator_lr: Adam's learning rate for the discriminator.
        beta1: Adam's beta1; 0.5 keeps the two networks from oscillating.
        beta2: Adam's beta2.
        lr_schedule: Decay of both rates over ``max_epochs``: ``none``, ``linear`` or ``cosine``.
        ema_decay: Decay of the exponential moving average (EMA) of the generator, which makes the samples;
            0 disables it.
        seed: Of the latents.
        preview_count: Number of fixed latents for previews.
        scores: Whose features score the images, see `rdfia.generation.feature_scores.make_scores`; None for
            ``digits`` where images are grey and of 32 pixels, else ``squeezenet``.
        image_size: 32, 64 or 128 pixels.
        channels: Of the images: 1 for grey, 3 for colour.
        blocks: ``plain`` convolutions as in the paper, or ``residual`` ones, of both networks.
        normalization: Of the discriminator: ``batch``, ``spectral`` or ``none``, see
            `rdfia.generation.networks.Discriminator`.
        augment: What all images go through before the discriminator: ``none``, ``diffaugment`` or ``ada``,
            see `rdfia.generation.augmentation`.
        flips: Mirror each real image with a chance of one half.
        data_dir: Where the ``weights/`` of ``scores`` lie, if they are not embedded.

    Example:
        >>> images = GANModule().sample(4)
        >>> images.shape
        torch.Size([4, 1, 32, 32])
    """

    preview_latents: Tensor
    classes = 0  # that it is told: none
    compiled: tuple[str, ...] = ("generator", "discriminator")  # by --compile
    on_bar: tuple[str, ...] = losses.LOGGED[:2]

    def __init__(
        self,
        *,
        latent_dim: int = 100,
        latents: Literal["normal", "uniform"] = "normal",
        generator_features: int = 32,
        discriminator_features: int = 32,
        upsampling: Upsampling = "nearest",
        groups: int | None = None,
        initialization: Initialization = "dcgan",
        loss: losses.Loss = "non-saturating",
        label_smoothing: float = 0.0,
        discriminator_steps: int = 1,
        r1_weight: float = 0.5,
        generator_lr: float = 2e-3,
        discriminator_lr: float = 2e-3,
        beta1: float = 0.5,
        beta2: float = 0.99,
        lr_schedule: Decay = "linear",
        ema_decay: float = 0.999,
        seed: int = 0,
        preview_count: int = 64,
        scores: str | None = None,
        image_size: Size = 32,
        channels: int = 1,
        blocks: Blocks = "plain",
        normalization: Normalization = "batch",
        r2_weight: float = 0.0,
        gp_weight: float = 0.0,
        top_k: float = 1.0,
        augment: augmentation.Augmentation = "none",
        flips: bool = False,
        data_dir: Path | str | None = None,
    ) -> None:
        super().__init__()
        validate_literals(GANModule.__init__, locals())
        if groups is None:
            groups = min(50, latent_dim) if losses.heeds_groups(loss, gp_weight) else 0
        numbers = ("latent_dim", "generator_features", "discriminator_features", "discriminator_steps")
        check_settings(
            locals(),
            counts=(*numbers, "channels"),
            amounts=("generator_lr", "discriminator_lr", "r1_weight", "r2_weight", "gp_weight", "groups"),
            shares=("label_smoothing", "beta1", "beta2", "ema_decay"),
        )
        if groups > latent_dim:
            raise ValueError(f"groups are at most latent_dim, {latent_dim}, got {groups}; 0 for none")
        losses.check_together(locals())
        self.save_hyperparameters(ignore=["members", "data_dir"])  # of stacked ones; of this machine
        self.automatic_optimization = False
        self.latent_dim, self.latents, self.seed = latent_dim, latents, seed
        self.latents_ahead, self.draws_ahead = Ahead(self._draw_for_step), Ahead(self._draw_more_for_step)
        self.image_size, self.channels = int(image_size), channels
        self.flips, self.augment = flips, augmentation.Augment(augment)
        self.features, self.initialization = (generator_features, discriminator_features), initialization
        self.loss, self.label_smoothing, self.top_k = loss, label_smoothing, top_k
        self.r1_weight, self.r2_weight, self.gp_weight = r1_weight, r2_weight, gp_weight
        self.discriminator_steps = discriminator_steps
        self.rates = (discriminator_lr, generator_lr)  # in the order of the optimizers
        self.rates_now = self.rates
        self.betas, self.lr_schedule, self.ema_decay = (beta1, beta2), lr_schedule, ema_decay
        self.upsampling = upsampling
        pixels = channels * image_size**2
        self.groups = Groups(groups, pixels, uniform=latents == "uniform") if groups else None
        # What both networks have in common, and those of a conditional GAN.
        self.shape: dict[str, Any] = {"size": self.image_size, "channels": channels, "blocks": blocks}
        self.shape["initialization"] = initialization
        self.generator: nn.Module = Generator(
            latent_dim,
            generator_features,
            upsampling=upsampling,
            groups=self.groups,
            **self.shape,
        )
        self.normalization = normalization
        self.discriminator: nn.Module = Discriminator(
            discriminator_features, classes=groups, normalization=normalization, **self.shape
        )
        self.average_generator: nn.Module = copy.deepcopy(self.generator).requires_grad_(False)
        of_digits = image_size == 32 and channels == 1
        if scores == "digits" and not of_digits:
            raise ValueError("the digit judge knows grey digits of 32 pixels; take scores='squeezenet'")
        self.scores = make_scores(scores or ("digits" if of_digits else "squeezenet"), data_dir)
        # Buffers: on the right device, in every checkpoint, the same grid all run long.
        self.register_buffer("preview_latents", self.draw(preview_count, 0, 0))
        # Not trainer.global_step, which counts the steps of both optimizers.
        self.batches_done = 0

    def _draw_for_step(self, count: int, step: int) -> Tensor:
        return self.draw(count, 1, step, rank=self.global_rank, world_size=self.trainer.world_size)

    @property
    def more_draws(self) -> list[int]:
        """How many numbers each image of a step needs beside the latents, by what they are for."""
        changes = self.augment.numbers
        return [int(self.flips), int(self.gp_weight > 0), changes, changes, changes]

    def _draw_more_for_step(self, count: int, step: int) -> Tensor:
        """Draw numbers in [0, 1), (count, sum of `more_draws`)."""
        world = {"rank": self.global_rank, "world_size": self.trainer.world_size}
        return drawn(count, sum(self.more_draws), (self.seed, 10, step), **world).float()

    def condition(self, labels: Tensor | None) -> tuple[Tensor, ...]:
        """Return extra conditioning inputs: none here; `cGANModule` returns the labels (B,)."""
        return ()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rates of this batch.

        Raises:
            ValueError: They are to fall and the trainer has no end.
        """
        if self.lr_schedule == "none":
            return
        epochs = self.trainer.max_epochs or -1
        batches = self.trainer.num_training_batches
        if epochs < 1 or math.isinf(batches):
            need = "a loader that has a length" if epochs >= 1 else "max_epochs"
            raise ValueError(f"falling learning rates follow progress: give the trainer {need}")
        progress = self.batches_done / (epochs * batches)
        factor = lr_factor(min(progress, 1.0), self.lr_schedule)
        self.rates_now = (self.rates[0] * factor, self.rates[1] * factor)
        for optimizer, rate in zip(self.trainer.optimizers, self.rates_now, strict=True):
            set_lr(optimizer, rate)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update the discriminator, then the generator, then the generator's average."""
        images, labels = self._check(batch, batch_idx)
        leave_gradients(self.trainer)
        latents = self.latents_ahead.at(images.device, images.shape[-4], self.batches_done)
        if sum(self.more_draws):
            more = self.draws_ahead.at(images.device, images.shape[-4], self.batches_done)
        else:
            more = latents[..., :0]
        kind = self._kind()
        inputs = (images, latents, more, *self.condition(labels))
        numbers = {"weight": average_weight(self.ema_decay, self.batches_done)}
        if self.top_k < 1:
            # Lightning knows how many batches an epoch has; a loader without length is one long epoch.
            length = self.trainer.num_training_batches
            epoch = 0 if math.isinf(length) else self.batches_done // max(1, int(length))
            numbers["top_k"] = float(math.ceil(max(self.top_k, 0.99**epoch) * images.shape[-4]))
        wrapped: Any = self.optimizers()
        if self.graphs is None:
            values = self._update(wrapped, kind, *inputs, **numbers)  # type: ignore[arg-type] # by name
        else:
            step = partial(self._update, self.trainer.optimizers, kind)
            values = self.graphs(kind, step, inputs, numbers)
            for optimizer in wrapped if kind.generate else wrapped[:1]:  # the trainer counts their steps
                optimizer._on_before_step()
                optimizer._on_after_step()
        self.batches_done += 1
        names = ("discriminator", "generator")
        rates = {f"train/{name}_lr": rate for name, rate in zip(names, self.rates_now, strict=True)}
        self.log_step(self.logged, values, rates | {"train/batch": float(self.batches_done)})

    @property
    def logged(self) -> tuple[str, ...]:
        """Names of what a step tells of itself."""
        return losses.LOGGED + (("train/augment_chance",) if self.augment.kind == "ada" else ())

    def _kind(self) -> "_Kind":
        """Return what is done in this step."""
        done = self.batches_done
        return _Kind(
            penalised=self.r1_weight + self.r2_weight > 0 and done % PENALTY_EVERY == 0,
            generate=(done + 1) % self.discriminator_steps == 0,
            adapts=self.augment.kind == "ada" and (done + 1) % augmentation.EVERY == 0,
        )

    def _update(
        self,
        optimizers: Sequence[Any],
        kind: "_Kind",
        images: Tensor,
        latents: Tensor,
        more: Tensor,
        *condition: Tensor,
        weight: float | Tensor,
        top_k: float | Tensor | None = None,
    ) -> Tensor:
        """Update both networks, and the average; return what is logged, in the order of `logged`."""
        mirrored, mixing, for_real, for_fake, for_generator = more.split(self.more_draws, -1)
        if self.flips:  # first, so that an image and its group are of one side
            images = augmentation.flipped(images, mirrored[..., 0])
        real = images * 2 - 1
        real = self.augment(real, for_real)
        real_condition = fake_condition = condition
        if self.groups is not None:
            real_condition = (self.groups.of_images(images),)
            fake_condition = (self.groups.of_latents(latents),)
        discriminator_optimizer, generator_optimizer = optimizers
        # One backward pass right before its own step, never two before two: the fp16 scaler rescales
        # after each step. Detached, so that nothing of this step can reach the generator.
        with torch.set_grad_enabled(kind.generate):  # its graph is kept only where the generator learns
            fake = self.generator(latents, *condition)
        with self.toggled_optimizer(discriminator_optimizer):
            seen = self.augment(fake.detach(), for_fake)
            # Compiled networks have no second derivatives, and must not update the statistics of BatchNorm
            # between such a pass and its backward.
            discriminate = self.discriminator.forward if kind.penalised else self.discriminator
            often = PENALTY_EVERY / 2 if kind.penalised else 0.0
            # Real and generated images in passes of their own, so that BatchNorm does not mix them.
            real_logits, r1 = losses.judge(discriminate, real, real_condition, often * self.r1_weight)
            fake_logits, r2 = losses.judge(discriminate, seen, fake_condition, often * self.r2_weight)
            smoothed: dict[str, Any] = {"loss": self.loss, "label_smoothing": self.label_smoothing}
            d_loss = self.each(partial(losses.discriminator_loss, **smoothed))(real_logits, fake_logits)
            penalties = r1 + r2
            if self.gp_weight:
                mixed = losses.between(real, seen, mixing[..., 0])
                critic, penalty = self.discriminator.forward, losses.wasserstein_penalty
                penalties = (
                    penalties + losses.judge(critic, mixed, real_condition, self.gp_weight, penalty)[1]
                )
            discriminator_optimizer.zero_grad()
            with exact() if kind.penalised or self.gp_weight else nullcontext():  # second derivatives
                self.manual_backward((d_loss + penalties).sum())
            average_gradients(self.discriminator.parameters(), self.trainer.world_size)
            discriminator_optimizer.step()
        self.augment.watch(real_logits, self.trainer.world_size)
        if kind.adapts:
            self.augment.adapt()

        g_loss = torch.full_like(d_loss, torch.nan)  # where there is no step
        if kind.generate:
            with self.toggled_optimizer(generator_optimizer):
                logits = [self.discriminator(self.augment(fake, for_generator), *fake_condition)]
                if self.loss == "relativistic":
                    logits.append(self.discriminator(real.detach(), *real_condition))
                g_loss = self.each(partial(self._generator_loss, top_k=top_k))(*logits)
                generator_optimizer.zero_grad()
                self.manual_backward(g_loss.sum())
                average_gradients(self.generator.parameters(), self.trainer.world_size)
                generator_optimizer.step()
            update_average(self.average_generator, self.generator, weight)
        looks = self.each(partial(losses.looks_of, loss=self.loss))(real_logits, fake_logits)
        chance = [self.augment.chance.to(d_loss)] if self.augment.kind == "ada" else []
        return torch.stack([d_loss, g_loss, *looks, *chance]).detach()

    def _generator_loss(
        self, fake_logits: Tensor, *real_logits: Tensor, top_k: float | Tensor | None
    ) -> Tensor:
        return losses.generator_loss(fake_logits, self.loss, *real_logits, top_k=top_k)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the number of batches, on which latents and average depend."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["batches_done"] = self.batches_done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the number of batches."""
        super().on_load_checkpoint(checkpoint)
        self.batches_done = checkpoint["batches_done"]

    def _check(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor | None]:
        """Check images, and labels where they are looked at; return both."""
        images, labels = images_of(batch), labels_of(batch)
        check_size(images, self.image_size, self.channels)
        looked_at = labels if self.condition(labels) else None
        check_batch(images, looked_at, self.classes, batch_idx)
        return images, labels

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the discriminator's Adam and the generator's, in the order in which they step."""
        networks = (self.discriminator, self.generator)
        return [
            torch.optim.Adam(network.parameters(), lr=rate, betas=self.betas, fused=True)
            for network, rate in zip(networks, self.rates, strict=True)
        ]
