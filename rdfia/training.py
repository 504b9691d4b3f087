"""The only place that knows the cluster: trainer, precision, devices, resume, signals."""

import dataclasses
import io
import json
import logging
import math
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from rdfia.command_line import Interrupted, TrainerArgs
from rdfia.runs import (
    MetricsCSV,
    git_commit,
    is_dry_run,
    is_first_process,
    save_figure,
    save_film,
    whole_file,
    write_json,
)
from rdfia.wandb_run import wandb_logger

# Lightning warns of what is meant here: the judge and the averaged generator are in eval mode, data in
# memory needs no workers, and a run folder that holds checkpoints is one to go on with.
MEANT = (
    "module.s. in eval mode",
    "does not have many workers",
    "exists and is not empty",
    "isinstance.treespec",
)


MEND = "use another --name, or --overwrite to start anew"
# Flags that may differ when a run goes on; any other would make two runs of one.
MAY_CHANGE = frozenset(
    {
        "cache",
        "cache_dir",
        "memory_gb",
        "max_epochs",
        "data_dir",
        "output_dir",
        "accelerator",
        "devices",
        "num_nodes",
        "wandb",
        "overwrite",
    }
)


# Of a training whose schedules follow from how much of max_epochs is done.
MAY_CHANGE_BUT_LENGTH = MAY_CHANGE - {"max_epochs"}


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
        with whole_file(Path(path)) as part:
            part.write_bytes(buffer.getbuffer())


class StopCleanly(Callback):
    """On Ctrl-C or SIGTERM, finishes the batch, saves ``last.ckpt`` and raises `Interrupted`.

    A second signal stops at once; the last checkpoint is complete all the same.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.received: signal.Signals | None = None
        self.leaving = False
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Listen to the signals."""

        def note(number: int, frame: Any) -> None:
            if self.received:
                raise KeyboardInterrupt
            self.received = signal.Signals(number)
            print(f"\n{self.received.name}: saving after this batch", file=sys.stderr)

        for number in (signal.SIGINT, signal.SIGTERM):
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
        self.leaving = self._asked(trainer)
        if self.leaving and not is_dry_run(trainer):
            trainer.save_checkpoint(self.checkpoint)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leave; only now are the metrics of the saved batch logged."""
        if self.leaving:
            saved = (
                ""
                if is_dry_run(trainer)
                else f"; saved {self.checkpoint}, the same command goes on from there"
            )
            raise Interrupted(f"interrupted{saved}")

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Tell `fit` if a signal came after the last batch: all is trained, but the user wants out."""
        self.leaving = self._asked(trainer)

    def _asked(self, trainer: lightning.Trainer) -> bool:
        """Return whether a signal came to any process: it may reach only one, and all must leave together."""
        asked = self.received is not None
        return (
            asked if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(asked, all=False)
        )

    def teardown(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


class Diverged(ValueError):  # noqa: N818 - it says what became of the run
    """A loss is not a number any more, or infinite."""


class StopWhereLossesDiverge(Callback):
    """Raises `Diverged` where a loss is not finite, before any checkpoint is saved with what made it so.

    Args:
        losses: Their logged names.
        folder: The run folder.
    """

    def __init__(self, losses: tuple[str, ...], folder: Path) -> None:
        self.losses, self.folder = losses, folder

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at the losses of the batch before: only now are they logged."""
        self._look(trainer, batch_idx)

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Look at the losses of the last batch."""
        self._look(trainer, int(trainer.num_training_batches))

    def _look(self, trainer: lightning.Trainer, batch: int) -> None:
        found = {name: float(trainer.logged_metrics.get(name, 0.0)) for name in self.losses}
        bad = next((name for name, value in found.items() if not math.isfinite(value)), None)
        if trainer.world_size > 1:  # all processes leave together
            stop = trainer.strategy.reduce_boolean_decision(bad is not None, all=False)
            bad = (bad or "a loss of another process") if stop else None
        if bad is not None:
            last = self.folder / "checkpoints" / "last.ckpt"
            kept = f"; {last} is from before" if last.exists() else ""
            raise Diverged(
                f"{bad} is {found.get(bad, math.nan)} after batch {batch} of epoch "
                f"{trainer.current_epoch + 1}{kept}; "
                "take smaller learning rates and another --name, or --overwrite"
            )


class RandomState(Callback):
    """Keeps the state of torch's random numbers in checkpoints, so that dropout goes on where it was.

    All processes go on with the state of the first and of its GPU, as they all begin with one seed.
    """

    def __init__(self) -> None:
        self.saved: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the states of CPU and, where there is one, of this process's GPU."""
        state = {"cpu": torch.get_rng_state()}
        return state | ({"gpu": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts: what comes before it may draw, too."""
        self.saved = state_dict

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Set the states of the checkpoint that the run goes on from."""
        if self.saved:
            torch.set_rng_state(self.saved["cpu"].cpu())
            if "gpu" in self.saved and torch.cuda.is_available():
                torch.cuda.set_rng_state(self.saved["gpu"].cpu())
            self.saved = {}


class StopEarly(EarlyStopping):
    """Lightning's early stopping, which stays stopped when the same command is run again."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Do not train on where patience had run out."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class EpochLines(Callback):
    """One line of text per epoch, where a progress bar would fill a log file with thousands."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.started = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Print epoch, time and what is monitored."""
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.is_global_zero and not trainer.sanity_checking and value is not None:
            seconds = time.perf_counter() - self.started
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            print(f"{epoch}: {self.monitor} {value:.4g}, {seconds:.0f} s", flush=True)


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
            with torch.no_grad(), whole_file(self.folder / "film" / f"{batches:07d}.png") as part:
                Image.fromarray(self.draw(module)).save(part, format="png")

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Join the frames."""
        paths = sorted((self.folder / "film").glob("*.png"))
        if trainer.is_global_zero:
            frames = [np.array(Image.open(path)) for path in paths]
            save_film(self.folder.parent, "film", frames, trainer)


def process_count(args: TrainerArgs) -> int:
    """Return how many processes the run will have, over all nodes."""
    gpus = torch.cuda.device_count() if args.accelerator != "cpu" else 0
    return (args.devices or max(gpus, 1)) * args.num_nodes


def check_checkpoint(path: Path, module: nn.Module, max_epochs: int) -> None:
    """Check that ``module`` can go on from a checkpoint.

    Raises:
        ValueError: It is unreadable, of another technique or size, or already trained longer than asked for.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        shapes = {name: value.shape for name, value in checkpoint["state_dict"].items()}
        epoch = int(checkpoint.get("epoch", 0))
    except Exception as error:
        why = type(error).__name__
        raise ValueError(f"{path} is not a readable checkpoint ({why}); {MEND}") from error
    own = {name: value.shape for name, value in module.state_dict().items()}
    if strange := {name for name in shapes | own if shapes.get(name) != own.get(name)}:
        raise ValueError(
            f"{path} is not a checkpoint of this {type(module).__name__} ({min(strange)} differs); {MEND}"
        )
    if epoch >= max_epochs:
        raise ValueError(
            f"{path} is in epoch {epoch + 1}, this command says --max-epochs {max_epochs}; {MEND}"
        )


def written_flags(args: TrainerArgs, module: nn.Module, data: dict[str, Any]) -> dict[str, Any]:
    """Return what ``args.json`` holds: the flags, the module's own settings and the data.

    The settings, because flags that are not given follow a default, and another version may have another.
    """
    settings = dict(getattr(module, "hparams", {}))
    content = dataclasses.asdict(args) | {"module": settings, "data": data}
    # As the file will hold them: paths as text, tuples as lists.
    flags: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return flags


def check_flags(path: Path, flags: dict[str, Any], may_change: frozenset[str] = MAY_CHANGE) -> dict[str, Any]:
    """Check that a run goes on as it began, but for flags of ``may_change``; return what it began with.

    Raises:
        ValueError: One differs, or the file is damaged.
    """
    try:
        began = dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {MEND}") from error
    if began.get("data", flags["data"]) != flags["data"]:
        then, now = json.dumps(began["data"]), json.dumps(flags["data"])
        raise ValueError(f"{path.parent} was trained on {then}, this command reads {now}; {MEND}")
    for name, value in began.items():
        if name in flags and name not in may_change | {"module"} and flags[name] != value:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{path} has {flag} {value}, this command says {flags[name]}; {MEND}")
    for name, value in began.get("module", {}).items():
        now = flags["module"].get(name)
        if name not in may_change and now != value:
            raise ValueError(f"{path} trains with {name} {value}, this version with {now}; {MEND}")
    return began


def open_run(
    args: TrainerArgs,
    module: nn.Module,
    data: dict[str, Any],
    *,
    may_change: frozenset[str] = MAY_CHANGE,
) -> Path:
    """Make the run folder, or check the one to go on with, and write flags and data to ``args.json``.

    Call it when data and flags are known to be good: bad input shall leave nothing behind.

    Args:
        args: The flags.
        module: To be trained.
        data: What it is trained on.
        may_change: Flags that may differ from those that the run began with.

    Raises:
        ValueError: The device is missing, the folder cannot be written, or its checkpoint is not one to go on
            from.
    """
    gpus = torch.cuda.device_count()
    if args.accelerator == "gpu" and not gpus:
        raise ValueError("no GPU was found; use --accelerator cpu")
    if args.accelerator != "cpu" and gpus and (args.devices or 1) > gpus:
        raise ValueError(f"--devices {args.devices}, but this node has {gpus}")
    if args.batch_size % process_count(args):
        raise ValueError(
            f"--batch-size {args.batch_size} cannot be shared by {process_count(args)} processes; "
            f"take a multiple of {process_count(args)}"
        )
    git_commit()  # remembered for results.json
    folder = args.output_dir / args.name
    if args.fast_dev_run:
        return folder
    last = folder / "checkpoints" / "last.ckpt"
    flags = written_flags(args, module, data)
    if last.exists() and not args.overwrite:
        check_checkpoint(last, module, args.max_epochs)
    begun = last.exists() or (folder / "results.json").exists()
    longer = False
    if begun and not args.overwrite and (folder / "args.json").exists():
        began = check_flags(folder / "args.json", flags, may_change)
        longer = began.get("max_epochs") != flags["max_epochs"]
    if args.overwrite and folder.exists() and not (folder / "args.json").exists():
        raise ValueError(f"--overwrite deletes run folders, and {folder} holds no args.json")
    if is_first_process():
        try:
            if args.overwrite and folder.exists():
                shutil.rmtree(folder)
            if not last.exists():  # what a run logged that died before its first checkpoint
                (folder / "metrics.csv").unlink(missing_ok=True)
                shutil.rmtree(folder / "figures" / "film", ignore_errors=True)
            if longer:  # they are those of a shorter training
                (folder / "results.json").unlink(missing_ok=True)
            last.parent.mkdir(parents=True, exist_ok=True)
            write_json(folder / "args.json", flags)
        except OSError as error:
            raise ValueError(
                f"run folder {folder} cannot be written ({error.strerror}); choose another --output-dir"
            ) from error
    return folder


def finished(args: TrainerArgs, module: nn.Module, data: dict[str, Any]) -> dict[str, Any] | None:
    """Return results.json of a run that has ended; None if there is no such run, or it is to begin anew.

    Raises:
        ValueError: It had other flags or other data.
    """
    folder = args.output_dir / args.name
    if args.fast_dev_run or args.overwrite or not (folder / "results.json").exists():
        return None
    check_flags(folder / "args.json", written_flags(args, module, data), MAY_CHANGE_BUT_LENGTH)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def make_trainer(
    args: TrainerArgs,
    folder: Path,
    *,
    monitor: str,
    mode: str,
    callbacks: list[Callback],
    losses: tuple[str, ...] = (),
    two_optimizers: bool = False,
    unused_weights: bool = False,
) -> lightning.Trainer:
    """Return the trainer for a run.

    Args:
        args: The shared flags.
        folder: The run folder, from `open_run`.
        monitor: The metric that chooses ``best.ckpt``.
        mode: ``min`` or ``max``.
        callbacks: More callbacks.
        losses: Logged names of those that stop the run when they are not finite.
        two_optimizers: The module steps two optimizers, each of which leaves the other's network unused.
        unused_weights: Some weights have no gradient in some steps; DDP must look for them then.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in MEANT:
        warnings.filterwarnings("ignore", f".*{message}")
    loggers: list[Logger] = [MetricsCSV(folder)]
    if args.wandb and not args.fast_dev_run:
        loggers += [logger] if (logger := wandb_logger(args.name, folder)) else []
    strategy = "auto"
    if process_count(args) > 1:
        strategy = "ddp_find_unused_parameters_true" if two_optimizers or unused_weights else "ddp"
    checkpoints = folder / "checkpoints"
    # Two callbacks: save_last writes no last.ckpt where an epoch is not the best so far, and one in dry runs.
    best = ModelCheckpoint(checkpoints, "best", monitor=monitor, mode=mode, enable_version_counter=False)
    last = ModelCheckpoint(checkpoints, "last", enable_version_counter=False)
    watched = sys.stderr.isatty()
    return lightning.Trainer(
        accelerator=args.accelerator,
        devices=args.devices or (1 if process_count(args) == 1 else "auto"),
        num_nodes=args.num_nodes,
        strategy=strategy,
        precision="32-true" if args.precision == "float32" else args.precision,
        max_epochs=args.max_epochs,
        logger=loggers,
        callbacks=[
            best,
            Timer(),
            RandomState(),
            StopWhereLossesDiverge(losses, folder),
            StopCleanly(checkpoints / "last.ckpt"),
            TQDMProgressBar(refresh_rate=10) if watched else EpochLines(monitor),
            *callbacks,
            last,  # so that last.ckpt holds what all others have come to
        ],
        plugins=[AtomicCheckpoints()],
        enable_progress_bar=watched,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        # Two batches: with two optimizers a fast_dev_run of n means n steps, not n batches.
        fast_dev_run=4 if args.fast_dev_run and two_optimizers else 2 * args.fast_dev_run,
        default_root_dir=folder,
    )


def fit(
    args: TrainerArgs,
    trainer: lightning.Trainer,
    module: lightning.LightningModule,
    datamodule: lightning.LightningDataModule,
) -> float:
    """Train, going on from the run's ``last.ckpt`` if there is one; return the seconds of training in all.

    Raises:
        Diverged: A loss was not finite.
        Interrupted: The run was asked to stop.
    """
    last = args.output_dir / args.name / "checkpoints" / "last.ckpt"
    resume = last.exists() and not args.overwrite and not args.fast_dev_run
    trainer.fit(module, datamodule, ckpt_path=last if resume else None, weights_only=True)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set at run time
    if any(callback.leaving for callback in callbacks if isinstance(callback, StopCleanly)):
        raise Interrupted(f"interrupted; {last} is complete, the same command goes on from there")
    if args.fast_dev_run:
        return seconds_trained(trainer)
    # What the checkpoint says, so that a run that is only scored again has the time it had.
    checkpoint = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    return float(checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"])


def seconds_trained(trainer: lightning.Trainer) -> float:
    """Return the seconds of training so far, in all."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set at run time
    timer = next(callback for callback in callbacks if isinstance(callback, Timer))
    return timer.time_elapsed("train")


def save_module(trainer: lightning.Trainer, module: lightning.LightningModule, folder: Path) -> None:
    """Write ``checkpoints/best.ckpt`` of a module fitted without the trainer; nothing in a dry run."""
    if not is_dry_run(trainer):
        trainer.strategy.connect(module)
        trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
