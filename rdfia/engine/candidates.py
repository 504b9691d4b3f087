"""Checkpoints of the epochs that may be the best by one of several scores, or by all of them together."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from rdfia.common.environment import is_dry_run
from rdfia.common.ranks import mean_ranks


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether ``one`` is as good as ``other`` in all scores, nan as good as none."""
    return all(mine >= theirs or math.isnan(theirs) for mine, theirs in zip(one, other, strict=True))


class KeepsCandidates(Callback):
    """Keeps ``<prefix>_<epoch>.ckpt`` of each epoch that no other one beats in all scores.

    The best epoch by each score is among them, and so is the best by the mean of its ranks.

    Args:
        folder: Of the checkpoints.
        metrics: By the name of a score, the metric that validation logs.
        low: Names of those of which low is best.
        prefix: Of the names of the checkpoints. Scores that must not have a say in which epochs of the others
            are kept go to another one of these callbacks, with another prefix.
    """

    def __init__(
        self,
        folder: Path,
        metrics: Mapping[str, str],
        low: Sequence[str] = (),
        prefix: str = "candidate",
    ) -> None:
        self.folder, self.metrics, self.low, self.prefix = folder, dict(metrics), tuple(low), prefix
        self.history: list[dict[str, Any]] = []

    def path(self, epoch: int) -> Path:
        """Return where the checkpoint of an epoch lies, while it is a candidate."""
        return self.folder / f"{self.prefix}_{epoch}.ckpt"

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep this epoch if it is a candidate, and delete those that it beats."""
        if trainer.sanity_checking or is_dry_run(trainer) or trainer.state.fn != TrainerFn.FITTING:
            return
        logged = trainer.callback_metrics
        scores = {
            name: float(logged[metric]) * (-1 if name in self.low else 1)
            for name, metric in self.metrics.items()
            if metric in logged
        }
        epoch = trainer.current_epoch
        before = [one for one in self.history if one["epoch"] < epoch]
        candidates = [one for one in before if one["candidate"]]
        values = list(scores.values())
        new = not any(beats(list(one["scores"].values()), values) for one in candidates)
        self.history = [*before, {"epoch": epoch, "scores": scores, "candidate": new}]
        if not new:
            return
        trainer.save_checkpoint(self.path(epoch), weights_only=True)
        for one in candidates:
            if beats(values, list(one["scores"].values())):
                one["candidate"] = False
                if trainer.is_global_zero:
                    self.path(one["epoch"]).unlink(missing_ok=True)

    def best(self, *names: str) -> Path | None:
        """Return the checkpoint of the best epoch by a score, or by the mean rank of several; or None.

        A score that is not a number in any epoch has no say, and chooses none.
        """
        known = [one for one in self.history if all(name in one["scores"] for name in names)]
        ranks = mean_ranks([[one["scores"][name] for name in names] for one in known])
        kept = [
            (rank, self.path(one["epoch"]))
            for rank, one in zip(ranks, known, strict=True)
            if one["candidate"] and not math.isnan(rank) and self.path(one["epoch"]).exists()
        ]
        return max(kept, key=lambda one: one[0])[1] if kept else None  # the first of those that are best

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint."""
        return f"KeepsCandidates {self.prefix}"

    def state_dict(self) -> dict[str, Any]:
        """Return the scores of all epochs so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from those."""
        self.history = state_dict["history"]
