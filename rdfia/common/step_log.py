"""What each training step was like: kept on the device, and read many steps at a time.

To read a number makes a GPU wait for all that it was given to do, so nothing is read within a step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor

READ_EVERY = 50  # steps


class Row(NamedTuple):
    """What a step was like: its number over all epochs, its epoch and batch, from 0, and numbers by name."""

    step: int
    epoch: int
    batch: int
    numbers: dict[str, float]


class LogsSteps(lightning.LightningModule):
    """A module that logs a row of numbers for each training step.

    Loggers get the rows of which the trainer's ``log_every_n_steps`` says so, or their own ``every_n_steps``
    if they have it. Rows come late: after `READ_EVERY` steps, at the end of an epoch, and before a checkpoint
    is saved. With several processes a number is the mean over them. The trainer's ``callback_metrics`` hold
    those of the last row that was read.
    """

    on_bar: tuple[str, ...] = ()  # what a progress bar shows
    several = False  # trainings in one, each of which may diverge by itself

    def __init__(self) -> None:
        super().__init__()
        self.last_row: Row | None = None
        self._steps: list[Row] = []
        self._names: Sequence[str] = ()
        self._values: list[Tensor] = []

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of one network's tensors: itself, but for `rdfia.common.stacked.StackedSteps`."""
        return function

    def log_step(self, names: Sequence[str], values: Tensor, numbers: Mapping[str, float]) -> None:
        """Keep the row of this step; its names are the same in all steps of a training.

        Args:
            names: Of what the device has found.
            values: (len(names),), on the device.
            numbers: What is known without it.
        """
        self._names = names
        self._values.append(values.detach().float())
        loop, epoch = self.trainer.fit_loop, self.current_epoch
        self._steps.append(Row(loop.total_batch_idx, epoch, loop.batch_idx, {**numbers, "epoch": epoch}))

    def steps_are_due(self) -> bool:
        """Return whether rows are to be read: there are many, or the epoch ends."""
        return len(self._steps) >= READ_EVERY or self.trainer.is_last_batch

    def read_steps(self) -> list[Row]:
        """Read the rows that are kept, give them to the loggers and return them; processes do so together."""
        if not self._steps:
            return []
        values = torch.stack(self._values)
        if self.trainer.world_size > 1:
            values = self.trainer.strategy.reduce(values, reduce_op="mean")
        rows = [
            row._replace(numbers=row.numbers | dict(zip(self._names, found, strict=True)))
            for row, found in zip(self._steps, values.tolist(), strict=True)
        ]
        self._steps, self._values, self.last_row = [], [], rows[-1]
        for logger in self.loggers:
            usual = self.trainer.log_every_n_steps  # type: ignore[attr-defined] # set at run time
            every = getattr(type(logger), "every_n_steps", usual)  # a dry run's has all names
            for row in rows:
                if usual and not (row.step + 1) % every:
                    logger.log_metrics(row.numbers, step=row.step)
            logger.save()
        return rows

    def on_fit_start(self) -> None:
        """Forget the rows of a training that was broken off."""
        self._steps, self._values, self.last_row = [], [], None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Read the rows where they are due, and tell the trainer what the last one says."""
        if self.steps_are_due():
            self.read_steps()
        self._tell_trainer()

    def _tell_trainer(self) -> None:
        row, self.last_row = self.last_row, None
        bar = self.trainer.progress_bar_callback is not None
        for name, number in row.numbers.items() if row else ():
            # On the CPU: of what is on a bar, Lightning reads the number in each step.
            if name != "epoch":
                value = torch.tensor(float(number))
                self.log(name, value, prog_bar=bar and name in self.on_bar, logger=False)

    def on_train_epoch_end(self) -> None:
        """Read what is left of an epoch that ended early."""
        self.read_steps()
        self._tell_trainer()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the rows: the history goes as far as the checkpoint."""
        self.read_steps()
