"""What a trained GAN is for: it draws images, and they are scored."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rdfia.common.graphed import GraphsSteps
from rdfia.common.parallel import broadcast_buffers
from rdfia.generation.clusters import Groups
from rdfia.generation.latents import draw_latents, truncated
from rdfia.generation.sampled_features import SampledFeatures


class MakesSamples(GraphsSteps):
    """A module whose averaged generator makes images (B, C, H, W) in [0, 1] of latents (B, latent_dim)."""

    latent_dim: int
    latents: Literal["normal", "uniform"]
    seed: int
    groups: Groups | None
    average_generator: nn.Module
    scores: SampledFeatures
    channels: int
    image_size: int

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

    def ask(self, count: int, *key: int) -> tuple[Tensor, ...]:
        """Return what generated images are asked for when they are scored: nothing; see `cGANModule`."""
        return ()

    def forward(self, latents: Tensor, *condition: Tensor) -> Tensor:
        """Map latents (B, latent_dim) to images (B, C, H, W) in [0, 1] with the averaged generator.

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
    def sample(self, count: int, *, seed: int | None = None, truncation: float | None = None) -> Tensor:
        """Generate images (count, C, H, W) in [0, 1]; the same seed gives the same images.

        Args:
            count: Of the images.
            seed: Of the latents, by default the module's own.
            truncation: See `rdfia.generation.latents.truncated`; None for latents as they are drawn.
        """
        return self._generate(count, seed, truncation)

    def _generate(self, count: int, seed: int | None, truncation: float | None, *condition: Tensor) -> Tensor:
        """Generate images from latents that the seed says."""
        return torch.cat(list(self.sample_parts(count, seed, truncation, *condition)))

    @torch.no_grad()
    def sample_parts(
        self, count: int, seed: int | None, truncation: float | None, *condition: Tensor
    ) -> Iterator[Tensor]:
        """Yield the images of `sample` part by part, a thousand of 32 pixels at a time."""
        key = [self.seed if seed is None else seed, 3, 0]
        # torch.randn draws 16 numbers at a time, and the last ones once more where these do not come out: of
        # whole sixteens the first latents are the same however many are drawn.
        whole = -(-count // 16) * 16
        latents = draw_latents(whole, self.latent_dim, key, distribution=self.latents)[:count]
        if truncation is not None:
            latents = self.truncate(latents, truncation)
        at_once = max(1, 1000 * 32 * 32 // self.image_size**2)
        for part in zip(*(torch.split(part, at_once) for part in (latents, *condition)), strict=True):
            yield self(*part)

    def truncate(self, latents: Tensor, limit: float) -> Tensor:
        """Return latents (B, latent_dim) within a limit, but for the numbers that choose a group.

        Raises:
            ValueError: All numbers do, or the limit is no such.
        """
        choosing = self.groups.count if self.groups else 0
        if choosing == self.latent_dim:
            raise ValueError(f"all {choosing} numbers of a latent choose its group: none can be truncated")
        rest = truncated(latents[:, choosing:], limit, distribution=self.latents)
        return torch.cat([latents[:, :choosing], rest], 1)

    def _check(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor | None]:
        """Check images, and labels where they are looked at; return both."""
        raise NotImplementedError

    def _compare(self, batch: Any, *key: int) -> None:
        """Score a batch of real images (B, C, H, W) and as many generated ones."""
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
        """Map a batch of latents (B, latent_dim) to images (B, C, H, W) in [0, 1]."""
        return self(batch)  # type: ignore[no-any-return] # images

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the networks that score as the package has them now."""
        super().on_load_checkpoint(checkpoint)
        own = {f"scores.{name}": value for name, value in self.scores.state_dict().items()}
        saved = checkpoint["state_dict"].items()  # of earlier versions, with those that scored
        others = {name: value for name, value in saved if not name.startswith("scores.")}
        checkpoint["state_dict"] = others | own
