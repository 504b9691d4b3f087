"""What watches a training: clean stops, checkpoints without halves, pictures of each epoch."""

import io
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.plugins.io import TorchCheckpointIO
from matplotlib.figure import Figure
from PIL import Image

from datamodules.files import atomic_file
from rdfia.common.environment import is_dry_run
from rdfia.common.memory import peak_memory
from rdfia.common.progress import EVERY
from rdfia.common.step_log import READ_EVERY
from rdfia.engine.divergence import refuse_broken_weights
from rdfia.engine.errors import Interrupted
from rdfia.engine.runs import MetricsCSV, save_figure, save_film
from rdfia.engine.slurm import requeue_job
from rdfia.engine.wandb_run import wandb_loggers


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints beside their final name and renames them: a crash keeps the last good one.

    (Lightning copies from the system's temporary folder, which a kill can cut in two.)
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save ``checkpoint`` under ``path``, completely or not at all."""
        # Through memory: where the disk is full, torch hides the OSError behind one of its own.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic_file(Path(path)) as part:
            part.write_bytes(buffer.getbuffer())


class StopCleanly(Callback):
    """On Ctrl-C or SIGTERM, finishes the batch, saves ``last.ckpt`` and raises `Interrupted`.

    In a Slurm job also on SIGUSR1, which Slurm sends when its time is nearly over
    (``sbatch --signal=SIGUSR1@90``); the job is put into the queue again then. A second Ctrl-C stops at once;
    the last checkpoint is complete all the same. (A second SIGTERM does not: Slurm sends it to what is left
    of a job as soon as one of its processes has ended or the job is put into the queue again.)
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.received: signal.Signals | None = None
        self.leaving = False
        self.wait, self.asked = (
            1,
            time.perf_counter(),
        )  # batches until processes ask each other, and since when
        self.batches = 0  # since then
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Listen to the signals."""

        def note(number: int, frame: Any) -> None:
            if self.received:
                if number == signal.SIGINT:
                    raise KeyboardInterrupt
                return
            self.received = signal.Signals(number)
            print(f"\n{self.received.name}: saving after this batch", file=sys.stderr)

        warned = [signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else []
        for number in (signal.SIGINT, signal.SIGTERM, *warned):
            self._handlers[number] = signal.signal(number, note)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if asked to stop."""
        # The last batch of an epoch is followed by validation, which saves; a stop before it would lose that.
        if trainer.is_last_batch:
            return
        self.leaving = self._asked_to_stop(trainer)
        if self.leaving and not is_dry_run(trainer):
            refuse_broken_weights(module, self.checkpoint)
            trainer.save_checkpoint(self.checkpoint)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leave; only now are the metrics of the saved batch logged."""
        if self.leaving:
            saved = (
                ""
                if is_dry_run(trainer)
                else f"; saved {self.checkpoint}, the same command resumes from there"
            )
            for logger in trainer.loggers:
                if isinstance(logger, MetricsCSV):  # the batches before the checkpoint are not trained again
                    logger.finalize("interrupted")
            self._requeue(trainer)
            raise Interrupted(f"interrupted{saved}")

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Tell `fit` if a signal came after the last batch: all is trained, but the user wants out."""
        self.leaving = self._any(trainer, self.received is not None)
        if self.leaving:
            self._requeue(trainer)

    def _requeue(self, trainer: lightning.Trainer) -> None:
        """Put the job into the queue again if its time is over; no process leaves before that is done."""
        if self._any(trainer, self.received == signal.SIGUSR1) and trainer.is_global_zero:
            requeue_job()
        trainer.strategy.barrier()

    def _asked_to_stop(self, trainer: lightning.Trainer) -> bool:
        """Return whether any process has a signal; several ask each other about four times a second.

        Each question makes a GPU wait, and all processes must ask after the same batch: they agree on the
        next one, too.
        """
        if trainer.world_size == 1:
            return self.received is not None
        self.batches += 1
        if self.batches < self.wait:
            return False
        now = time.perf_counter()
        mine = torch.tensor([float(self.received is not None), (now - self.asked) / self.batches])
        found = trainer.strategy.reduce(mine.to(trainer.strategy.root_device), reduce_op="max")
        stop, seconds = found.tolist()
        self.wait = max(1, min(READ_EVERY, int(0.25 / max(seconds, 1e-3))))
        self.batches, self.asked = 0, now
        return bool(stop)

    def _any(self, trainer: lightning.Trainer, mine: bool) -> bool:
        """Return whether something holds of any process: a signal may reach one, and all leave together."""
        return mine if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(mine, all=False)

    def teardown(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


class RandomState(Callback):
    """Keeps the state of torch's random numbers in checkpoints, so that dropout goes on where it was.

    All processes go on with the state of the first and of its GPU, as they all begin with one seed.
    """

    def __init__(self) -> None:
        self.saved: dict[str, Any] = {}
        self.device = torch.device("cpu")

    def setup(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        """Note the device of the run: one on the CPU leaves the GPUs of its machine alone."""
        self.device = trainer.strategy.root_device

    def state_dict(self) -> dict[str, Any]:
        """Return the states of CPU and, if the run has one, of this process's GPU."""
        on_gpu = self.device.type == "cuda"
        gpu = {"gpu": torch.cuda.get_rng_state(self.device)} if on_gpu else {}
        return {"cpu": torch.get_rng_state(), **gpu}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts: what comes before it may draw, too."""
        self.saved = state_dict

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Set the states of the checkpoint that the run resumes from."""
        if self.saved:
            torch.set_rng_state(self.saved["cpu"].cpu())
            if "gpu" in self.saved and self.device.type == "cuda":
                torch.cuda.set_rng_state(self.saved["gpu"].cpu(), self.device)
            self.saved = {}


class StopEarly(EarlyStopping):
    """Lightning's early stopping, which stays stopped when the same command is run again."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Do not train on where patience had run out."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class EpochLines(Callback):
    """Lines of text where a progress bar would fill a log file with thousands.

    After the first `FIRST` steps how long it will take; then, every half minute, how far it is. One line per
    epoch: what is monitored, seconds of the epoch and so far, images trained on in a second, GiB of memory
    used at most: of the GPU, or `peak_memory`. The last two go to Weights & Biases, not to ``metrics.csv``,
    which says the same on each machine.

    Args:
        shown: Logged names of metrics; nothing is said before the first is known.
        batch_size: Images of a step over all processes.
        printed: Whether to print the lines.
    """

    FIRST = 20

    def __init__(self, shown: tuple[str, ...], batch_size: int, *, printed: bool) -> None:
        self.shown, self.batch_size, self.printed = shown, batch_size, printed
        self.started = self.epoch_started = self.said = time.perf_counter()
        self.batches, self.images_per_second = 0, 0.0
        self.steps, self.first_done = 0, 0.0  # of this process, and when its first step was done

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Begin to count."""
        self.epoch_started, self.batches = time.perf_counter(), 0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count; a GPU has not always done what it was given, which evens out over an epoch."""
        self.batches, self.steps = self.batches + 1, self.steps + 1
        now = time.perf_counter()
        self.images_per_second = self.batches * self.batch_size / (now - self.epoch_started)
        if self.steps == 1:
            self.first_done = now
        early = self.steps == self.FIRST
        if not (self.printed and trainer.is_global_zero and (early or now - self.said >= EVERY)):
            return
        length, epochs = trainer.num_training_batches, trainer.max_epochs or -1
        if not math.isfinite(length) or epochs < 1 or self.steps < 2:
            return
        self.said = now
        step = (now - self.first_done) / max(self.steps - 1, 1)
        left = step * (length * (epochs - trainer.current_epoch) - batch_idx - 1)
        where = f"step {batch_idx + 1:,} of {length:,}, epoch {trainer.current_epoch + 1} of {epochs}"
        print(f"{where}: {1000 * step:,.0f} ms a step, about {left:,.0f} s of steps left", flush=True)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Print the line."""
        values = {name: trainer.callback_metrics.get(name) for name in self.shown}
        if not trainer.is_global_zero or trainer.sanity_checking or values[self.shown[0]] is None:
            return
        gpu = module.device.type == "cuda"
        memory = torch.cuda.max_memory_allocated(module.device) / 2**30 if gpu else peak_memory()
        pace = {"images_per_second": self.images_per_second, "memory_gb": memory}
        if self.printed:
            self.said = now = time.perf_counter()
            known = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)
            print(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {known}, "
                f"{now - self.epoch_started:.0f} s, {now - self.started:.0f} s in all, "
                f"{pace['images_per_second']:,.0f} images/s, {pace['memory_gb']:.1f} GiB",
                flush=True,
            )
        for logger in wandb_loggers(trainer):
            logger.log_metrics(pace)  # no step: the trainer's counts the steps of both optimizers of a GAN


class EpochFigure(Callback):
    """Draws a figure of the module before training and after each validation.

    Args:
        folder: The run folder; files are ``figures/<name>_epoch_000.png`` and so on.
        name: Of the figure.
        draw: Makes it from the module.
    """

    def __init__(self, folder: Path, name: str, draw: Callable[[lightning.LightningModule], Figure]) -> None:
        self.folder, self.name, self.draw = folder, name, draw

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Draw the untrained module, unless the run resumes."""
        if trainer.current_epoch == 0 and trainer.global_step == 0:
            self._save(trainer, module, 0)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Draw the module after this epoch."""
        if not trainer.sanity_checking:
            self._save(trainer, module, trainer.current_epoch + 1)

    def _save(self, trainer: lightning.Trainer, module: lightning.LightningModule, epoch: int) -> None:
        if trainer.is_global_zero:
            save_figure(self.folder, f"{self.name}_epoch_{epoch:03d}", self.draw(module), trainer)


class Film(Callback):
    """Films how images change while a module trains: frames in ``figures/film/``, joined to ``film.gif``.

    Args:
        folder: The run folder.
        draw: Makes a frame of the module, (H, W) or (H, W, 3) uint8.
        frames: About as many, at even distances over the whole training.
    """

    def __init__(
        self, folder: Path, draw: Callable[[lightning.LightningModule], np.ndarray], frames: int = 60
    ) -> None:
        self.folder, self.draw, self.frames = folder / "figures", draw, frames

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep a frame, numbered by the batches trained: those made twice replace each other."""
        if is_dry_run(trainer) or not trainer.is_global_zero:
            return
        length = int(trainer.num_training_batches)
        batches, planned = trainer.current_epoch * length + batch_idx + 1, (trainer.max_epochs or 1) * length
        if batches % max(1, planned // self.frames) == 0 or batches == planned:
            with torch.no_grad(), atomic_file(self.folder / "film" / f"{batches:07d}.png") as part:
                Image.fromarray(self.draw(module)).save(part, format="png")

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Join the frames."""
        paths = sorted((self.folder / "film").glob("*.png"))
        if trainer.is_global_zero and paths:
            frames = [np.array(Image.open(path)) for path in paths]
            said = f"{len(paths)} frames, from batch {int(paths[0].stem):,} to {int(paths[-1].stem):,}."
            save_film(self.folder.parent, "film", frames, trainer, said)
