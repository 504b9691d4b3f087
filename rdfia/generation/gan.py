"""DCGAN for 32x32 images.

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
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rdfia.common.batches import images_of, labels_of
from rdfia.common.checks import check_batch, check_settings
from rdfia.common.draws import Ahead
from rdfia.common.exact import exact
from rdfia.common.graphed import GraphsSteps
from rdfia.common.literals import validate_literals
from rdfia.common.optimization import Decay, average_weight, lr_factor, set_lr, update_average
from rdfia.common.parallel import average_gradients, broadcast_buffers, leave_gradients
from rdfia.generation import losses
from rdfia.generation.clusters import Groups, images_to_fit
from rdfia.generation.digit_judge import DigitScores
from rdfia.generation.feature_scores import FeatureScores
from rdfia.generation.latents import draw_latents
from rdfia.generation.networks import Discriminator, Generator, Initialization, Upsampling, check_size

# The recipe of the practicals, as keywords of `GANModule`.
PRACTICAL: dict[str, Any] = {"latents": "normal", "upsampling": "transposed", "groups": 0, "r1_weight": 0.0}
PRACTICAL |= {"generator_lr": 2e-4, "discriminator_lr": 2e-4, "lr_schedule": "none", "beta2": 0.999}
PRACTICAL |= {"ema_decay": 0.0}
R1_EVERY = 8  # the penalty costs as much as the rest of the step, and holds as well when it is rare


class GANModule(GraphsSteps):
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
            ``latent_dim`` if that is less.
        initialization: ``dcgan``, ``pytorch`` or ``orthogonal``, see `rdfia.generation.networks.initialize`.
        loss: ``non-saturating``, ``minimax``, ``least-squares`` or ``hinge``, see `rdfia.generation.losses`.
        label_smoothing: One-sided: the target for real images is 1 minus this; not with hinge.
        discriminator_steps: Discriminator updates per generator update.
        r1_weight: Weight of the R1 penalty, half of which times `gradient_penalty` is added; 0 for none.
        generator_lr: Adam's learning rate for the generator.
        discriminator_lr: Adam's learning rate for the discriminator.
        beta1: Adam's beta1; 0.5 keeps the two networks from oscillating.
        beta2: Adam's beta2.
        lr_schedule: Decay of both rates over ``max_epochs``: ``none``, ``linear`` or ``cosine``.
        ema_decay: Decay of the exponential moving average (EMA) of the generator, which makes the samples;
            0 disables it.
        seed: Of the latents.
        preview_count: Number of fixed latents for previews.
        scores: How images are scored: ``digits`` by the digit judge, ``features`` of a network that knows
            photographs, for images of any other kind.

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
        scores: Literal["digits", "features"] = "digits",
    ) -> None:
        super().__init__()
        validate_literals(GANModule.__init__, locals())
        if groups is None:
            groups = min(50, latent_dim)
        check_settings(
            locals(),
            counts=("latent_dim", "generator_features", "discriminator_features", "discriminator_steps"),
            amounts=("generator_lr", "discriminator_lr", "r1_weight", "groups"),
            shares=("label_smoothing", "beta1", "beta2", "ema_decay"),
        )
        if groups > latent_dim:
            raise ValueError(f"groups are at most latent_dim, {latent_dim}, got {groups}; 0 for none")
        if label_smoothing and loss == "hinge":
            raise ValueError("the hinge loss has no labels to smooth; take label_smoothing=0")
        self.save_hyperparameters(ignore=["members"])  # of stacked ones
        self.automatic_optimization = False
        self.latent_dim, self.latents, self.seed = latent_dim, latents, seed
        self.latents_ahead = Ahead(self._draw_for_step)
        self.features, self.initialization = (generator_features, discriminator_features), initialization
        self.loss, self.label_smoothing, self.r1_weight = loss, label_smoothing, r1_weight
        self.discriminator_steps = discriminator_steps
        self.rates = (discriminator_lr, generator_lr)  # in the order of the optimizers
        self.rates_now = self.rates
        self.betas, self.lr_schedule, self.ema_decay = (beta1, beta2), lr_schedule, ema_decay
        self.upsampling = upsampling
        self.groups = Groups(groups, uniform=latents == "uniform") if groups else None
        self.generator: nn.Module = Generator(
            latent_dim,
            generator_features,
            upsampling=upsampling,
            groups=self.groups,
            initialization=initialization,
        )
        self.discriminator: nn.Module = Discriminator(
            discriminator_features, classes=groups, initialization=initialization
        )
        self.average_generator: nn.Module = copy.deepcopy(self.generator).requires_grad_(False)
        self.scores: DigitScores | FeatureScores = DigitScores() if scores == "digits" else FeatureScores()
        # Buffers: on the right device, in every checkpoint, the same grid all run long.
        self.register_buffer("preview_latents", self.draw(preview_count, 0, 0))
        # Not trainer.global_step, which counts the steps of both optimizers.
        self.batches_done = 0

    def draw(self, count: int, *key: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Draw latents (count, latent_dim) that depend on seed, ``key`` and ``rank`` alone."""
        return draw_latents(
            count,
            self.latent_dim,
            [self.seed, *key],
            distribution=self.latents,
            rank=rank,
            world_size=world_size,
        )

    def _draw_for_step(self, count: int, step: int) -> Tensor:
        return self.draw(count, 1, step, rank=self.global_rank, world_size=self.trainer.world_size)

    def condition(self, labels: Tensor | None) -> tuple[Tensor, ...]:
        """Return extra conditioning inputs: none here; `cGANModule` returns the labels (B,)."""
        return ()

    def ask(self, count: int, *key: int) -> tuple[Tensor, ...]:
        """Return what generated images are asked for when they are scored: nothing; see `cGANModule`."""
        return ()

    def on_train_start(self) -> None:
        """Fit the clusters unless resuming; all ranks use those of rank 0."""
        super().on_train_start()
        if self.trainer.global_step == 0:  # also of a module that was trained before: rates fall again
            self.batches_done = 0
        if self.groups is None or self.groups.fitted:
            return
        loader: Any = self.trainer.train_dataloader
        seen = (self._gather(self._check(batch, number)[0]) for number, batch in enumerate(loader))
        self.fit_groups(images_to_fit(seen, self.groups.count, self.trainer.num_training_batches))

    def _gather(self, images: Tensor) -> Tensor:
        images = images.to(self.device)
        if self.trainer.world_size > 1:  # in the order of one process: they take turns within a batch
            gathered: Any = self.all_gather(images)
            images = gathered.transpose(0, 1).flatten(0, 1)
        return images

    def fit_groups(self, images: Tensor) -> None:
        """Fit the clusters to images (N, 1, 32, 32) in [0, 1]."""
        assert self.groups is not None
        self.groups.fit(images, self.seed)
        broadcast_buffers(self.groups, self.trainer.world_size)
        assert isinstance(self.average_generator, Generator)
        assert self.average_generator.groups is not None
        self.average_generator.groups.load_state_dict(self.groups.state_dict())

    def forward(self, latents: Tensor, *condition: Tensor) -> Tensor:
        """Map latents (B, latent_dim) to images (B, 1, 32, 32) in [0, 1] with the averaged generator.

        Always in eval mode, so that an image does not depend on the others of its batch.
        """
        average = self.average_generator
        was_training = average.training
        inputs = [part.to(self.device) for part in condition]
        weight = next(average.parameters())
        images: Tensor = average.eval()(latents.to(weight), *inputs)
        average.train(was_training)
        return (images.float() + 1) / 2

    @torch.no_grad()
    def sample(self, count: int, *, seed: int | None = None) -> Tensor:
        """Generate images (count, 1, 32, 32) in [0, 1]; the same seed gives the same images."""
        return self._generate(count, seed)

    def _generate(self, count: int, seed: int | None, *condition: Tensor) -> Tensor:
        """Generate images from latents that the seed says, a thousand at a time."""
        key = [self.seed if seed is None else seed, 3, 0]
        latents = draw_latents(count, self.latent_dim, key, distribution=self.latents)
        parts = zip(*(torch.split(part, 1000) for part in (latents, *condition)), strict=True)
        return torch.cat([self(*part) for part in parts])

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
        penalised = self.r1_weight > 0 and self.batches_done % R1_EVERY == 0
        generate = (self.batches_done + 1) % self.discriminator_steps == 0
        inputs = (images, latents, *self.condition(labels))
        numbers = {"weight": average_weight(self.ema_decay, self.batches_done)}
        wrapped: Any = self.optimizers()
        if self.graphs is None:
            values = self._update(wrapped, penalised, generate, *inputs, weight=numbers["weight"])
        else:
            step = partial(self._update, self.trainer.optimizers, penalised, generate)
            values = self.graphs((penalised, generate), step, inputs, numbers)
            for optimizer in wrapped if generate else wrapped[:1]:  # the trainer counts their steps
                optimizer._on_before_step()
                optimizer._on_after_step()
        self.batches_done += 1
        names = ("discriminator", "generator")
        rates = {f"train/{name}_lr": rate for name, rate in zip(names, self.rates_now, strict=True)}
        self.log_step(losses.LOGGED, values, rates | {"train/batch": float(self.batches_done)})

    def _update(
        self,
        optimizers: Sequence[Any],
        penalised: bool,
        generate: bool,
        images: Tensor,
        latents: Tensor,
        *condition: Tensor,
        weight: float | Tensor,
    ) -> Tensor:
        """Update both networks, and the average; return what is logged, in the order of `losses.LOGGED`."""
        real = images * 2 - 1
        real_condition = fake_condition = condition
        if self.groups is not None:
            real_condition = (self.groups.of_images(images),)
            fake_condition = (self.groups.of_latents(latents),)
        discriminator_optimizer, generator_optimizer = optimizers
        # One backward pass right before its own step, never two before two: the fp16 scaler rescales
        # after each step. Detached, so that nothing of this step can reach the generator.
        fake = self.generator(latents, *condition)
        with self.toggled_optimizer(discriminator_optimizer):
            float32 = torch.autocast(self.device.type, enabled=False) if penalised else nullcontext()
            # Real and generated images in passes of their own, so that BatchNorm does not mix them.
            # Compiled networks have no second derivatives, and must not update the statistics of BatchNorm
            # between such a pass and its backward.
            discriminate = self.discriminator.forward if penalised else self.discriminator
            with float32, exact() if penalised else nullcontext():
                real_logits = discriminate(real.requires_grad_(penalised), *real_condition)
                r1 = losses.gradient_penalty(real_logits, real) if penalised else 0.0
            fake_logits = discriminate(fake.detach(), *fake_condition)
            smoothed: dict[str, Any] = {"loss": self.loss, "label_smoothing": self.label_smoothing}
            d_loss = self.each(partial(losses.discriminator_loss, **smoothed))(real_logits, fake_logits)
            discriminator_optimizer.zero_grad()
            self.manual_backward((d_loss + R1_EVERY * self.r1_weight / 2 * r1).sum())
            average_gradients(self.discriminator.parameters(), self.trainer.world_size)
            discriminator_optimizer.step()

        g_loss = torch.full_like(d_loss, torch.nan)  # where there is no step
        if generate:
            with self.toggled_optimizer(generator_optimizer):
                logits = self.discriminator(fake, *fake_condition)
                g_loss = self.each(partial(losses.generator_loss, loss=self.loss))(logits)
                generator_optimizer.zero_grad()
                self.manual_backward(g_loss.sum())
                average_gradients(self.generator.parameters(), self.trainer.world_size)
                generator_optimizer.step()
            update_average(self.average_generator, self.generator, weight)
        looks = self.each(partial(losses.looks_of, loss=self.loss))(real_logits, fake_logits)
        return torch.stack([d_loss, g_loss, *looks]).detach()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the number of batches, on which latents and average depend."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["batches_done"] = self.batches_done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the number of batches; the judge stays the one that the package has now."""
        self.batches_done = checkpoint["batches_done"]
        checkpoint["state_dict"] |= {
            f"scores.{name}": value for name, value in self.scores.state_dict().items()
        }

    def _check(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor | None]:
        """Check images, and labels where they are looked at; return both."""
        images, labels = images_of(batch), labels_of(batch)
        check_size(images)
        looked_at = labels if self.condition(labels) else None
        check_batch(images, looked_at, self.classes, batch_idx)
        return images, labels

    def _compare(self, batch: Any, *key: int) -> None:
        """Score a batch of real images (B, 1, 32, 32) and as many generated ones."""
        real, labels = self._check(batch, key[-1])
        condition = self.ask(len(real), *key, self.global_rank)
        self.scores.update(real, real=True, labels=labels)
        generated = self(self.draw(len(real), *key, self.global_rank), *condition)
        self.scores.update(generated, real=False, labels=condition[0] if condition else None)

    def _log_scores(self, stage: str) -> None:
        scores = {f"{stage}/{name}": value for name, value in self.scores.compute().items()}
        self.log_dict(scores, sync_dist=True)  # equal on all processes already
        self.scores.reset()

    def on_validation_epoch_start(self) -> None:
        """Let all processes score one generator."""
        broadcast_buffers(self.average_generator, self.trainer.world_size)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Compare validation images with as many generated ones, from the same latents in each epoch."""
        self._compare(batch, 2, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log val/judge_fid, or what else is scored."""
        self._log_scores("val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Compare test images with as many generated ones."""
        self._compare(batch, 4, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log test/judge_fid, or what else is scored."""
        self._log_scores("test")

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Map a batch of latents (B, latent_dim) to images (B, 1, 32, 32) in [0, 1]."""
        return self(batch)  # type: ignore[no-any-return] # images

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the discriminator's Adam and the generator's, in the order in which they step."""
        networks = (self.discriminator, self.generator)
        return [
            torch.optim.Adam(network.parameters(), lr=rate, betas=self.betas, fused=True)
            for network, rate in zip(networks, self.rates, strict=True)
        ]
