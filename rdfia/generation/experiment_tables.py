"""Tables of GANs: what changes of a recipe do, each trained with several seeds in a folder of its own."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import lightning

from rdfia.common import plots
from rdfia.common.environment import is_dry_run
from rdfia.engine import devices, runs, training, wandb_run
from rdfia.engine.args import part_of
from rdfia.engine.errors import Diverged
from rdfia.generation.config import SharedArgs
from rdfia.generation.gan import GANModule

Flags = TypeVar("Flags", bound=SharedArgs)
Results = dict[str, Any]
# Flags that say what is trained besides, and what they are in a single run.
TABLE_FLAGS: dict[str, Any] = {"seeds": (), "ablation": (), "compare": (), "part": None}


class Trains(Protocol):
    """One training, by its flags."""

    def build(self) -> GANModule:
        """Return the module that the flags describe."""

    def train(self) -> Results:
        """Train, test and draw; return the content of results.json."""


def verdict(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what became of a training: ``diverged``, ``no digits``, ``few classes``, ``ok``."""
    fid, recall = metrics["judge_fid"]["mean"], metrics["recall"]["mean"]
    if fid is None or recall is None:
        return "diverged"
    lacking = sum(metrics[f"class_{digit}"]["mean"] < 0.01 for digit in range(10))
    return "no digits" if recall < 0.01 else "few classes" if lacking >= 3 else "ok"


def compare(
    args: Flags,
    rows: Mapping[str, Mapping[str, Any]],
    make: Callable[[Flags], Trains],
    data: dict[str, Any],
) -> Results:
    """Train each row with each seed in a folder of its own, skip what is done, write and print one table.

    The table has the rows and seeds that are asked for; others in the folder stay for the next time. With
    ``--part`` there is no table: some of the rows and seeds are trained.

    Args:
        args: The flags.
        rows: The flags in which each differs.
        make: Makes the training that flags describe.
        data: What all are trained on.
    """
    module = make(args).build()
    if (args.output_dir / args.name / "metrics.csv").exists() and not args.overwrite:
        raise ValueError(f"{args.output_dir / args.name} holds a single run; use another --name for a table")
    besides = {name: value for name, value in TABLE_FLAGS.items() if hasattr(args, name)}
    for changes in rows.values():  # what is wrong with the last one is said before the first is trained
        one = dataclasses.replace(args, **besides, **changes)
        make(one).build()
        devices.check_devices(one)
    free = training.MAY_CHANGE_BUT_LENGTH | TABLE_FLAGS.keys()
    folder = training.open_run(args, module, data, may_change=free)
    seeds = list(args.seeds or (args.seed,))
    found: dict[str, list[Results]] = {row: [] for row in rows}
    for row, seed in part_of([(row, seed) for row in rows for seed in seeds], args.part):
        name = runs.row_name(row, seed)
        own: dict[str, Any] = {"name": name, "output_dir": folder, "seed": seed}
        one = dataclasses.replace(args, **own, **besides, **rows[row])
        print(f"{row}, seed {seed}")
        try:
            trained = training.finished(one, make(one).build(), data) or make(one).train()
        except Diverged:  # which is written down all the same, but for a dry run
            if args.fast_dev_run:
                raise
            trained = runs.read_results(folder / name / "results.json")
        found[row].append(trained)
    if args.part is not None:
        return {}
    trainer = training.make_trainer(args, folder, monitor="val/judge_fid", mode="min", callbacks=[])
    if not trainer.is_global_zero:
        return {}
    if not args.fast_dev_run:
        draw_samples(type(module), list(rows), seeds[0], folder, trainer)
    return write_table(found, seeds, data, folder, trainer)


def draw_samples(
    kind: type[GANModule], rows: list[str], seed: int, folder: Path, trainer: lightning.Trainer
) -> None:
    """Draw samples of each row."""
    samples = {}
    for row in rows:
        last = folder / runs.row_name(row, seed) / "checkpoints" / "last.ckpt"
        if last.exists():  # none, where it diverged at once
            trained = kind.load_from_checkpoint(last, map_location="cpu", weights_only=True)
            samples[row] = trained.sample(20)
    if samples:
        runs.save_figure(folder, "samples", plots.image_rows(samples), trainer)


def write_table(
    found: dict[str, list[Results]],
    seeds: list[int],
    data: dict[str, Any],
    folder: Path,
    trainer: lightning.Trainer,
) -> Results:
    """Write the results.json of a table and print it; return its content.

    Args:
        found: By row, the results of each seed.
        seeds: In their order.
        data: What all were trained on.
        folder: The run folder.
        trainer: Knows where else tables are shown.
    """
    prefixes = {row: f"{row}/" if len(found) > 1 else "" for row in found}
    every = [results for row in found for results in found[row]]
    metrics = {
        prefixes[row] + score: [one["metrics"][score]["values"][0] for one in found[row]]
        for row in found
        for score in found[row][0]["metrics"]
        if all(score in one["metrics"] for one in found[row])  # an earlier version may have found less
    }
    outcomes = {row: ", ".join(verdict(one["metrics"]) for one in found[row]) for row in found}
    diverged = [
        f"{row}, seed {seed}: {one['notes'][1]}"
        for row in found
        for seed, one in zip(seeds, found[row], strict=True)
        if len(one["notes"]) > 1
    ]
    origins = sorted({f"trained at {one['commit']} on {one['device']}" for one in every})
    table = runs.write_results(
        folder,
        trainer,
        technique=every[0]["technique"],
        seeds=seeds,
        data=data,
        metrics=metrics,
        selection=every[0]["selection"],
        wall_seconds=sum(one["wall_seconds"] for one in every),
        notes=[
            every[0]["notes"][0],
            *origins,
            *(f"{row}: {outcome}" for row, outcome in outcomes.items()),
            *diverged,
        ],
    )
    columns = ["judge_fid", "precision", "recall", "histogram_distance", "confident_share"]
    columns += ["final_discriminator_loss", "final_generator_loss", "loss_swing", "seconds"]
    columns = [column for column in columns if all(column in one["metrics"] for one in every)]
    lines = [
        [
            row,
            *(runs.spread(table["metrics"][prefixes[row] + column], 3) for column in columns),
            outcomes[row],
        ]
        for row in found
    ]
    wandb_run.log_table(trainer, ["", *columns, "outcome"], [list(line) for line in lines])
    wandb_run.finish_last()
    for line in [["", *(column.replace("_", " ") for column in columns), "outcome"], *lines]:
        print(f"{line[0]:26}" + "".join(f"{cell:>26}" for cell in line[1:]))
    print(
        "a dry run, nothing kept"
        if is_dry_run(trainer)
        else f"results.json and a folder for each in {folder}"
    )
    return table
