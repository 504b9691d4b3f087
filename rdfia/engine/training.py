"""The only place that knows the cluster: trainer, precision, devices, resume, signals."""

import logging
import operator
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import distributed, nn

from datamodules.files import say
from rdfia.common.batch_norm import ShareBatchNorm
from rdfia.common.environment import device_name, git_commit, is_dry_run, is_first_process
from rdfia.common.exact import allow_tf32
from rdfia.common.graphed import GraphsSteps
from rdfia.engine import lock
from rdfia.engine.args import GraphFlags, RunArgs, TrainerArgs
from rdfia.engine.callbacks import (
    AtomicCheckpoints,
    EpochLines,
    RandomState,
    StopCleanly,
)
from rdfia.engine.devices import (
    accelerator_of,
    check_devices,
    cluster,
    processes,
    say_device,
    settle,
    why_no_graphs,
)
from rdfia.engine.divergence import StopWhereLossesDiverge
from rdfia.engine.errors import Checked, Interrupted
from rdfia.engine.profile import TimeTable
from rdfia.engine.resume import (
    MAY_CHANGE,
    MAY_CHANGE_BUT_LENGTH,
    check_checkpoint,
    check_flags,
    plain,
    written_flags,
)
from rdfia.engine.runs import MetricsCSV, read_results, write_json
from rdfia.engine.slurm import SLURM_JOB
from rdfia.engine.wandb_run import wandb_logger

# Lightning warns of what is meant here: the judge and the averaged generator are in eval mode, data in
# memory needs no workers, and a run folder that holds checkpoints is one to resume.
IGNORED_WARNINGS = (
    "module.s. in eval mode",
    "does not have many workers",
    "exists and is not empty",
    "isinstance.treespec",
    ".broadcast_buffers. is deprecated",  # older versions of torch have no other word
    "all_gather is deprecated",  # Lightning's
    "The .srun. command is available",  # `processes` says what must be said
)


def open_run(
    args: RunArgs,
    module: nn.Module,
    data: dict[str, Any],
    *,
    may_change: frozenset[str] = MAY_CHANGE,
) -> Path:
    """Make the run folder, or check the one to resume, and write flags and data to ``args.json``.

    Call it when data and flags are known to be good: bad input shall leave nothing behind.

    Args:
        args: The flags.
        module: To be trained.
        data: What it is trained on.
        may_change: Flags that may differ from those that the run began with.

    Raises:
        ValueError: The device is missing, the folder cannot be written or another process writes there, or
            its checkpoint is not one to resume from.
        Checked: With ``--check``, if all is well; nothing is written.
    """
    check_devices(args)
    git_commit()  # remembered for results.json
    folder = args.output_dir / args.name
    if args.fast_dev_run and not args.check:
        return folder
    last = folder / "checkpoints" / "last.ckpt"
    flags = written_flags(args, module, data)
    if last.exists() and not args.overwrite and isinstance(args, TrainerArgs):
        check_checkpoint(last, module, args.max_epochs)
    rows = any(folder.glob("*/args.json")) or any(folder.glob("parts/*"))  # of a table, of visualize.py
    begun = rows or last.exists() or (folder / "results.json").exists()
    longer = False
    if last.exists() and not args.overwrite and not (folder / "args.json").exists():
        raise ValueError(f"{last} lacks the flags that it was trained with (args.json); delete {folder}")
    if begun and not args.overwrite and (folder / "args.json").exists():
        began = check_flags(folder / "args.json", flags, may_change)
        longer = began.get("max_epochs") != flags.get("max_epochs")
    if not (is_first_process() or args.check):
        if args.overwrite:
            wait_for_first(folder)
        return folder
    if args.overwrite and folder.exists() and not (folder / "args.json").exists():
        raise ValueError(
            f"--overwrite deletes run folders, and {folder} holds no args.json; delete it yourself"
        )
    shared = getattr(args, "part", None) is not None  # others write here too, each rows of its own
    if args.check and not shared:
        lock.check(folder)
    try:
        if args.check:
            there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            tempfile.TemporaryDirectory(dir=there).cleanup()  # can be written
            each, nodes = processes(args)
            begins = "resumes" if begun and not args.overwrite else "begins"
            raise Checked(f"checked: {folder} {begins}; nodes {nodes}, processes on each {each}")
        if not shared:
            lock.take(folder)
        if args.overwrite:
            for row in folder.rglob(lock.FILE):  # of a table, which another process trains
                lock.check(row.parent)
            # The flags last: what is left by a kill is a run folder still.
            for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == "args.json"):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != lock.FILE:
                    entry.unlink()
        if not last.exists():  # what a run logged that died before its first checkpoint
            (folder / "metrics.csv").unlink(missing_ok=True)
            shutil.rmtree(folder / "figures" / "film", ignore_errors=True)
        if not shared:
            for place in (folder, folder / "checkpoints", folder / "figures", folder / "figures" / "film"):
                for part in place.glob(".*.part"):  # which a kill left
                    part.unlink(missing_ok=True)
        if longer:  # they are those of a shorter training
            (folder / "results.json").unlink(missing_ok=True)
        last.parent.mkdir(parents=True, exist_ok=True)
        write_json(folder / "args.json", flags)
        if "SLURM_JOB_ID" in os.environ:
            (folder / SLURM_JOB).write_text(os.environ["SLURM_JOB_ID"])
    except OSError as error:
        raise ValueError(
            f"run folder {folder} cannot be written ({error.strerror}); choose another --output-dir"
        ) from error
    return folder


def wait_for_first(folder: Path, seconds: float = 300) -> None:
    """Wait in a Slurm job until its first process has begun from scratch: what it deletes is not to be read.

    Raises:
        ValueError: It does not.
    """
    job, mark, end = os.environ.get("SLURM_JOB_ID"), folder / SLURM_JOB, time.monotonic() + seconds
    while job:
        with suppress(OSError):  # it is being deleted
            if mark.read_text() == job:
                return
        if time.monotonic() > end:
            raise ValueError(f"the first process has not begun {folder} from scratch within {seconds:g} s")
        time.sleep(0.1)


def finished(args: RunArgs, module: nn.Module, data: dict[str, Any]) -> dict[str, Any] | None:
    """Return results.json of a run that has ended, and say so; None if there is none or --overwrite.

    Raises:
        ValueError: It had other flags or other data.
    """
    folder = args.output_dir / args.name
    if args.fast_dev_run or args.overwrite or not (folder / "results.json").exists():
        return None
    check_flags(folder / "args.json", written_flags(args, module, data), MAY_CHANGE_BUT_LENGTH)
    if is_first_process():
        print(
            f"{folder} has its results.json, which is taken as it is; --overwrite begins from scratch",
            flush=True,
        )
    return read_results(folder / "results.json")


def make_trainer(
    args: RunArgs,
    folder: Path,
    *,
    monitor: str,
    mode: str,
    callbacks: list[Callback],
    losses: tuple[str, ...] = (),
    two_optimizers: bool = False,
    shown: tuple[str, ...] = (),
) -> lightning.Trainer:
    """Return the trainer for a run.

    Args:
        args: The shared flags.
        folder: The run folder, from `open_run`.
        monitor: The metric that chooses ``best.ckpt``.
        mode: ``min`` or ``max``.
        callbacks: More callbacks.
        losses: Logged names of those that stop the run when they are not finite.
        two_optimizers: The module steps two optimizers, and the trainer counts both.
        shown: More metrics for the line of each epoch.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", f".*{message}")
    args = settle(args)
    accelerator = accelerator_of(args)
    allow_tf32(getattr(args, "tf32", False))
    loggers: list[Logger] = [MetricsCSV(folder)]
    if args.wandb and not args.fast_dev_run:
        loggers += [logger] if (logger := wandb_logger(args.name, folder, plain(args))) else []
    strategy: Strategy | str
    strategy, (environment, each, nodes) = "auto", cluster(args)
    if each * nodes > 1:
        # Buffers are those of each process until they are needed: modules share them before validation.
        strategy = DDPStrategy(broadcast_buffers=False)
    shared = each * nodes > 1 and getattr(args, "sync_batch_norm", False)
    checkpoints = folder / "checkpoints"
    # Two callbacks: save_last writes no last.ckpt where an epoch is not the best so far, and one in dry runs.
    best = ModelCheckpoint(checkpoints, "best", monitor=monitor, mode=mode, enable_version_counter=False)
    last = ModelCheckpoint(checkpoints, "last", enable_version_counter=False)
    watched = sys.stderr.isatty()
    assert args.precision != "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    precision = "32-true" if args.precision == "float32" else args.precision
    deterministic: Literal["warn"] | None = None
    if getattr(args, "deterministic", False):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS wants it
        deterministic = "warn"
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=each,
        num_nodes=nodes,
        strategy=strategy,
        precision=precision,
        max_epochs=args.max_epochs if isinstance(args, TrainerArgs) else 1,
        logger=loggers,
        callbacks=[
            best,
            Timer(),
            RandomState(),
            StopWhereLossesDiverge(losses, folder),
            StopCleanly(checkpoints / "last.ckpt"),
            EpochLines((monitor, *shown), args.batch_size, printed=not watched),
            *([TQDMProgressBar(refresh_rate=10)] if watched else []),
            *callbacks,
            last,  # so that last.ckpt holds what all others have come to
        ],
        plugins=[AtomicCheckpoints(), *environment, *([ShareBatchNorm()] if shared else [])],
        deterministic=deterministic,
        benchmark=accelerator == "cuda" and not deterministic,  # cuDNN tries its kernels once
        profiler=TimeTable() if getattr(args, "profile", False) else None,
        enable_progress_bar=watched,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        # Two batches: with two optimizers a fast_dev_run of n means n steps, not n batches.
        fast_dev_run=4 if args.fast_dev_run and two_optimizers else 2 * args.fast_dev_run,
        default_root_dir=folder,
    )
    say_device(device_name(trainer), args.precision, accelerator, each)
    return trainer


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
    if args.compile:
        torch.compiler.reset()  # that of another row of a table
        for name in getattr(module, "compiled", ()):
            part = operator.attrgetter(name)(module)
            if part is not None:  # not all methods have all parts
                part.compile()
    if isinstance(args, GraphFlags) and isinstance(module, GraphsSteps):
        module.use_graphs = args.graph != "off" and why_no_graphs(args) is None
    resume = last.exists() and not args.overwrite and not args.fast_dev_run
    if resume:
        say(f"going on from {last}")
    trainer.fit(module, datamodule, ckpt_path=last if resume else None, weights_only=True)
    ShareBatchNorm().revert(module)  # what follows is each process's own
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set at run time
    if any(callback.leaving for callback in callbacks if isinstance(callback, StopCleanly)):
        raise Interrupted(f"interrupted; {last} is complete, the same command resumes from there")
    if args.fast_dev_run:
        return seconds_trained(trainer)
    # What the checkpoint says, so that a run that is only scored again has the time it had.
    checkpoint = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    return float(checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"])


def back_on_device(trainer: lightning.Trainer, module: lightning.LightningModule) -> torch.device:
    """Move a module back to the device of a trainer, which leaves it on the CPU; return the device."""
    device = trainer.strategy.root_device
    module.to(device)
    return device


def seconds_trained(trainer: lightning.Trainer) -> float:
    """Return the seconds of training so far, in all."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set at run time
    timer = next(callback for callback in callbacks if isinstance(callback, Timer))
    return timer.time_elapsed("train")


@contextmanager
def all_processes(trainer: lightning.Trainer) -> Iterator[None]:
    """Start the processes of a trainer that is not asked to fit; afterwards the first goes on alone."""
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.launch(lambda: None)
    trainer.strategy.setup_environment()
    try:
        yield
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def save_module(trainer: lightning.Trainer, module: lightning.LightningModule, folder: Path) -> None:
    """Write ``checkpoints/best.ckpt`` of a module fitted without the trainer; nothing in a dry run."""
    if not is_dry_run(trainer):
        trainer.strategy.connect(module)
        trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
