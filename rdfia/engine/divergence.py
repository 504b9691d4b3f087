"""Where a training diverges it stops, and no checkpoint is saved with what made it so."""

import math
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from rdfia.common.step_log import LogsSteps, Row
from rdfia.engine.errors import Diverged


def refuse_broken_weights(module: lightning.LightningModule, last: Path) -> None:
    """Let no checkpoint be saved with weights that are not finite, which finite losses can leave behind.

    Raises:
        Diverged: Some are not.
    """
    if getattr(module, "several", False):  # one of them may be trained again, by itself
        return
    weights = dict(module.named_parameters())
    whole = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()  # read once
    for name, finite in zip(weights, whole, strict=True):
        if not finite:
            raise Diverged(f"{name} is not finite in epoch {module.current_epoch + 1}{what_to_do(last)}")


def what_to_do(last: Path) -> str:
    """Return how the message of a run that cannot resume ends."""
    kept = f"; {last} is from before" if last.exists() else ""
    return f"{kept}; take smaller learning rates and another --name, or --overwrite"


class StopWhereLossesDiverge(Callback):
    """Raises `Diverged` where a loss is not finite, before any checkpoint is saved with what made it so.

    Args:
        losses: Their logged names.
        folder: The run folder.
    """

    def __init__(self, losses: tuple[str, ...], folder: Path) -> None:
        self.losses, self.last = losses, folder / "checkpoints" / "last.ckpt"

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the losses, where they are read."""
        if isinstance(module, LogsSteps):
            if module.steps_are_due():
                self._look_at(module.read_steps())
            return
        metrics = trainer.callback_metrics
        found = {name: float(metrics.get(name, 0.0)) for name in self.losses}
        if trainer.world_size > 1:  # all processes leave together
            finite = all(map(math.isfinite, found.values()))
            if trainer.strategy.reduce_boolean_decision(not finite, all=False) and finite:
                found = {"a loss of another process": math.nan}
        self._look_at([Row(trainer.fit_loop.total_batch_idx, trainer.current_epoch, batch_idx, found)])

    def _look_at(self, rows: list[Row]) -> None:
        for row in rows:
            for name in self.losses:
                if not math.isfinite(value := row.numbers.get(name, 0.0)):
                    where = f"batch {row.batch + 1} of epoch {row.epoch + 1}"
                    raise Diverged(f"{name} is {value} after {where}{what_to_do(self.last)}")

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Look at those of an epoch that ended early."""
        if isinstance(module, LogsSteps):
            self._look_at(module.read_steps())

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look at the losses up to here: none that is not finite gets into a checkpoint."""
        if isinstance(module, LogsSteps):
            self._look_at(module.read_steps())

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Look at what the last batch made of the weights."""
        if not trainer.sanity_checking:
            refuse_broken_weights(module, self.last)
