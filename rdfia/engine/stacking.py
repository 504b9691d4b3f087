"""Trainings of one row of a table with several seeds, done at once; each is left as if it had been alone.

A stacked module trains in a run folder of its own, as any other: it stops cleanly and goes on. In the end
each seed's folder gets the ``last.ckpt`` and ``metrics.csv`` of its part, from which the table tests it.
"""

import dataclasses
import math
import shutil
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
    todo = [
        number
        for number, one in enumerate(parts)
        if not (one.output_dir / one.name / "checkpoints" / "last.ckpt").exists()
    ]
    if len(todo) < 2:
        return
    free = resume.MAY_CHANGE_BUT_LENGTH
    folders = [training.open_run(parts[n], members[n], described, may_change=free) for n in todo]
    chosen = [members[number] for number in todo]
    module = stack(chosen)
    first = parts[todo[0]]
    names = "-".join(str(seeds[number]) for number in todo)
    flags = dataclasses.replace(first, name=f"stacked_{first.name[:60]}_with_{names[:30]}")
    folder = training.open_run(flags, module, described, may_change=free)
    trainer = training.make_trainer(flags, folder, monitor="val/none", mode="max", callbacks=[])
    trainer.limit_val_batches = 0
    training.fit(flags, trainer, module, batches([seeds[number] for number in todo]))
    module.unstack()
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    for number, (member, own) in enumerate(zip(chosen, folders, strict=True)):
        if history_of(folder, own, number) and all(p.isfinite().all() for p in member.parameters()):
            kept = member_checkpoint(checkpoint, member, number, len(todo))
            AtomicCheckpoints().save_checkpoint(kept, own / "checkpoints" / "last.ckpt")
    shutil.rmtree(folder)


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
            finite &= math.isfinite(value) or not name.endswith(f"discriminator_loss{mark}")
    for step in sorted(rows):
        logger.log_metrics(rows[step], step=step)
    logger.write()
    return finite
