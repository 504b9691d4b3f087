"""Tables of GANs: what changes of a recipe do, each trained with several seeds in a folder of its own."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import lightning

from datamodules.in_memory import InMemoryDataModule
from datamodules.stacked import StackedSeeds
from rdfia.common import plots
from rdfia.common.environment import is_dry_run
from rdfia.engine import devices, resume, runs, stacking, tables, training, wandb_run
from rdfia.engine.errors import Diverged
from rdfia.generation.cgan import cGANModule
from rdfia.generation.config import TABLE_FLAGS, SharedArgs
from rdfia.generation.gan import GANModule
from rdfia.generation.sampled_features import LEAST
from rdfia.generation.stacked import StackedcGAN, StackedGAN
from rdfia.generation.trained import load_gan

Flags = TypeVar("Flags", bound=SharedArgs)
Results = dict[str, Any]


class Trains(Protocol):
    """One training, by its flags."""

    def build(self, images: InMemoryDataModule | None = None) -> GANModule:
        """Return the module that the flags describe, for data."""

    def train(self) -> Results:
        """Train, test and draw; return the content of results.json."""


def verdict(scores: Mapping[str, float]) -> str:
    """Return what became of a training: ``not scored``, ``diverged``, ``no digits``, ``few classes``, ``ok``.

    Not scored is what has too few images to compare with. Of images that are no digits, ``unlike`` where
    recall is below 0.01.
    """
    recall, digits = scores["recall"], "judge_fid" in scores
    if scores.get("n_real", LEAST) < LEAST:
        return "not scored"
    if math.isnan(scores[distance_of(scores)]) or math.isnan(recall):
        return "diverged"
    if recall < 0.01:
        return "no digits" if digits else "unlike"
    lacking = sum(scores.get(f"class_{digit}", 1.0) < 0.01 for digit in range(10))
    return "few classes" if lacking >= 3 else "ok"


def distance_of(names: Iterable[str]) -> str:
    """Return the name of the Fréchet distance among scores: it is named after whose features they are."""
    ending = [name for name in names if name.endswith("fid") and not name.startswith(("floor_", "test_"))]
    return min(ending, key=len)


def compare(
    args: Flags,
    rows: Mapping[str, Mapping[str, Any]],
    make: Callable[[Flags], Trains],
    images: InMemoryDataModule,
) -> Results:
    """Train each row with each seed in a folder of its own, skip what is done, write and print one table.

    The table has the rows and seeds that are asked for; others in the folder stay for the next time. With
    ``--part`` there is no table: some of the rows and seeds are trained.

    Args:
        args: The flags.
        rows: The flags in which each differs.
        make: Makes the training that flags describe.
        images: What all are trained on.
    """
    data = images.describe()
    module = make(args).build(images)
    if (args.output_dir / args.name / "metrics.csv").exists() and not args.overwrite:
        raise ValueError(f"{args.output_dir / args.name} holds a single run; use another --name for a table")
    neutral = {name: value for name, value in TABLE_FLAGS.items() if hasattr(args, name)}
    for changes in rows.values():  # what is wrong with the last one is said before the first is trained
        one = dataclasses.replace(args, **neutral, **changes)
        make(one).build(images)
        devices.check_devices(one)
    free = resume.MAY_CHANGE_BUT_LENGTH | TABLE_FLAGS.keys()
    folder = training.open_run(args, module, data, may_change=free)
    table = tables.Table(list(tables.by_seed(args)))
    planned = list(tables.trainings(args, rows, tables.by_seed(args), folder, neutral))
    by_row = [[one for name, _, one in planned if name == row] for row in rows] if args.stack else []
    stacking.check_left(folder, [[one.name for one in parts] for parts in by_row])
    for parts in by_row:
        stack_row(parts, make, images)
    every: list[Results] = []
    for row, seed, one in planned:
        print(f"{row}, seed {seed}")
        try:
            trained = training.finished(one, make(one).build(images), data) or make(one).train()
        except Diverged:  # which is written down all the same, but for a dry run
            if args.fast_dev_run:
                raise
            trained = runs.read_results(folder / one.name / "results.json")
        if not trained:  # the process that writes has the results
            continue
        every.append(trained)
        values = {score: metric["values"][0] for score, metric in trained["metrics"].items()}
        scores = {score: math.nan if value is None else value for score, value in values.items()}
        if trained["status"] == "finished":
            table.add(row, seed, scores)
        else:
            table.add_diverged(row, seed, scores, trained["notes"][1])
    if args.part is not None:
        return {}
    monitor = f"val/{module.scores.fid}"
    trainer = training.make_trainer(args, folder, monitor=monitor, mode="min", callbacks=[])
    if not trainer.is_global_zero:
        return {}
    if not args.fast_dev_run:
        draw_samples(list(rows), table.seeds[0], folder, trainer)
    return write_table(table, every, data, folder, trainer)


def stack_row(parts: list[Flags], make: Callable[[Flags], Trains], images: InMemoryDataModule) -> None:
    """Train a row's seeds at once, as far as they are to be trained."""
    members = []
    for one in parts:
        lightning.seed_everything(one.seed, workers=True, verbose=False)
        members.append(make(one).build(images))
    if members[0].normalization == "spectral":  # its power iterations are no function of stacked weights
        print("spectral normalisation trains one seed after another, not --stack")
        return
    own = copy.copy(images)
    if (size := parts[0].batch_size) is not None:  # which a row may change
        own.batch_size = size
    kind = StackedcGAN if isinstance(members[0], cGANModule) else StackedGAN
    seeds, batches = [one.seed for one in parts], partial(StackedSeeds, own)
    stacking.train_together(parts, seeds, members, kind, batches, images.describe())


def draw_samples(rows: list[str], seed: int, folder: Path, trainer: lightning.Trainer) -> None:
    """Draw samples of each row."""
    samples = {}
    for row in rows:
        last = folder / runs.row_name(row, seed) / "checkpoints" / "last.ckpt"
        if last.exists():  # none, where it diverged at once
            samples[row] = load_gan(last).sample(20)
    if samples:
        runs.save_figure(folder, "samples", plots.image_rows(samples), trainer)


def write_table(
    table: tables.Table,
    every: list[Results],
    data: dict[str, Any],
    folder: Path,
    trainer: lightning.Trainer,
) -> Results:
    """Write the results.json of a table and print it; return its content.

    Args:
        table: The scores of all trainings.
        every: Their results.
        data: What all were trained on.
        folder: The run folder.
        trainer: Knows where else tables are shown.
    """
    prefixes = {row: f"{row}/" if len(table.found) > 1 else "" for row in table.found}
    metrics = table.metrics()
    if len(table.found) == 1:
        metrics = {name.partition("/")[2]: values for name, values in metrics.items()}
    outcomes = {
        row: ", ".join(verdict(scores) for scores in by_seed.values()) for row, by_seed in table.found.items()
    }
    results = runs.write_results(
        folder,
        trainer,
        technique=every[0]["technique"],
        seeds=list(table.seeds),
        data=data,
        metrics=metrics,
        selection=every[0]["selection"],
        wall_seconds=sum(one["wall_seconds"] for one in every),
        status=table.status(),
        notes=[
            every[0]["notes"][0],
            *sorted({f"trained at {one['commit']} on {one['device']}" for one in every}),
            *(f"{row}: {outcome}" for row, outcome in outcomes.items()),
            *table.diverged,
            *dict.fromkeys(  # of a closer look, the same for all
                note for one in every if one["status"] == "finished" for note in one["notes"][1:]
            ),
        ],
    )
    columns = ["judge_fid", "precision", "recall", "histogram_distance", "confident_share"]
    if not any(name.endswith("judge_fid") for name in metrics):
        distance = distance_of(name.rpartition("/")[2] for name in metrics)
        columns = [distance, "kid", "precision", "recall", "density", "coverage"]
    columns += ["final_discriminator_loss", "final_generator_loss", "loss_swing", "seconds"]
    lines = tables.show(results, prefixes, columns, digits=3, last=("outcome", outcomes))
    wandb_run.log_table(trainer, lines[0], lines[1:])
    wandb_run.finish_last()
    print(
        "a dry run, nothing kept"
        if is_dry_run(trainer)
        else f"results.json and a folder for each in {folder}"
    )
    return results
