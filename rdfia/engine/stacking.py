"""Trainings of one row of a table with several seeds, done at once; each is left as if it had been alone.

A stacked module trains in a run folder of its own, as any other: it stops cleanly and goes on. In the end
each seed's folder gets the ``last.ckpt`` and ``metrics.csv`` of its part, from which the table tests it.
"""

import dataclasses
import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch

from rdfia.common.stacked import part_of_optimizer
from rdfia.common.step_log import LogsSteps
from rdfia.engine import resume, training
from rdfia.engine.args import TrainerArgs
from rdfia.engine.callbacks import AtomicCheckpoints
from rdfia.engine.runs import MetricsCSV, read_metrics

STACKED = "stacked_"  # begins the names of their run folders
# The generator has none in steps that it does not take.
LOSSES = ("train/discriminator_loss", "train/class_loss", "train/domain_loss")


def train_together(
    parts: Sequence[TrainerArgs],
    seeds: Sequence[int],
    members: Sequence[LogsSteps],
    stack: Callable[[Sequence[Any]], Any],
    batches: Callable[[Sequence[int]], lightning.LightningDataModule],
    described: dict[str, Any],
) -> None:
    """Train modules of several seeds at once, and write each one's checkpoint and history.

    A seed that is trained already is left alone, and so is one whose weights or losses are not finite: it is
    to be trained by itself, which says so.

    Args:
        parts: The flags of each training, with its folder's name.
        seeds: Of each one's data.
        members: The modules, as they begin.
        stack: Makes a stacked module of several.
        batches: Makes the data of some seeds, side by side.
        described: What each is trained on.
    """
    table = parts[0].output_dir
    todo = [number for number, one in enumerate(parts) if not last_of(table / one.name).exists()]
    if len(todo) < 2:
        return
    free = resume.MAY_CHANGE_BUT_LENGTH
    folders = [training.open_run(parts[n], members[n], described, may_change=free) for n in todo]
    chosen, own_seeds = [members[number] for number in todo], [seeds[number] for number in todo]
    module = stack(chosen)
    together = {"stacked": [parts[number].name for number in todo]}
    digest = hashlib.sha256(json.dumps(together).encode()).hexdigest()[:8]
    flags = dataclasses.replace(parts[todo[0]], name=f"{STACKED}{digest}", wandb=False)
    folder = training.open_run(flags, module, described | together, may_change=free)
    trainer = training.make_trainer(flags, folder, monitor="val/none", mode="max", callbacks=[])
    trainer.limit_val_batches = 0
    with warnings.catch_warnings():
        for meant in ("could not find the monitored key", "have no .val_dataloader.", "a performance drop"):
            warnings.filterwarnings("ignore", f".*{meant}")
        training.fit(flags, trainer, module, batches(own_seeds))
    if flags.fast_dev_run:
        return
    module.unstack()
    checkpoint = torch.load(last_of(folder), map_location="cpu", weights_only=True)
    for number, (member, own) in enumerate(zip(chosen, folders, strict=True)):
        if history_of(folder, own, number) and all(p.isfinite().all() for p in member.parameters()):
            kept = member_checkpoint(checkpoint, member, number, len(todo))
            AtomicCheckpoints().save_checkpoint(kept, last_of(own))
    shutil.rmtree(folder)


def last_of(folder: Path) -> Path:
    """Return where a training keeps its last checkpoint."""
    return folder / "checkpoints" / "last.ckpt"


def check_left(table: Path, rows: Sequence[Sequence[str]]) -> None:
    """Check that a table has no stack that stopped and would be forgotten; delete those that are done.

    Args:
        table: The table's folder.
        rows: Of each row, names of the trainings that are to be done at once now.

    Raises:
        ValueError: There is one, of other seeds.
    """
    wanted = [[name for name in row if not last_of(table / name).exists()] for row in rows]
    for folder in table.glob(f"{STACKED}*"):
        try:
            names = json.loads((folder / "args.json").read_text())["data"]["stacked"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if any(last_of(table / name).exists() for name in names):  # a kill came before it was deleted
            shutil.rmtree(folder)
        elif names not in wanted:
            seeds = " ".join(name.rpartition("_")[2] for name in names)
            raise ValueError(
                f"{folder} holds a training of seeds {seeds} at once that was stopped; go on with it first, "
                f"--seeds {seeds} --stack, or delete the folder"
            )


def member_checkpoint(
    checkpoint: dict[str, Any], member: lightning.LightningModule, number: int, count: int
) -> dict[str, Any]:
    """Return the checkpoint of one module out of that of several: its weights, optimizers, share of time."""
    states = [part_of_optimizer(state, number) for state in checkpoint["optimizer_states"]]
    callbacks = {name: dict(checkpoint["callbacks"][name]) for name in ("Timer", "RandomState")}
    elapsed = callbacks["Timer"]["time_elapsed"]
    callbacks["Timer"]["time_elapsed"] = {name: seconds / count for name, seconds in elapsed.items()}
    own: dict[str, Any] = {"state_dict": {name: value.cpu() for name, value in member.state_dict().items()}}
    own |= {"optimizer_states": states, "callbacks": callbacks}
    return {**checkpoint, **own, "hyper_parameters": dict(member.hparams)}


def history_of(stacked: Path, folder: Path, number: int) -> bool:
    """Write one module's ``metrics.csv`` out of that of several; return whether its losses are finite."""
    history, mark = read_metrics(stacked), f"@{number}"
    logger, finite = MetricsCSV(folder), True
    rows: dict[int, dict[str, float]] = {}
    for name, (steps, values) in history.items():
        if "@" in name and not name.endswith(mark):
            continue
        for step, value in zip(steps, values, strict=True):
            whole = int(value) if name == "epoch" else value
            rows.setdefault(int(step), {})[name.removesuffix(mark)] = whole
            finite &= math.isfinite(value) or name.removesuffix(mark) not in LOSSES
    for step in sorted(rows):
        logger.log_metrics(rows[step], step=step)
    logger.write()
    return finite
