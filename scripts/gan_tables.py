"""Tables of GANs: what changes of a recipe do, each trained with several seeds in a folder of its own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rdfia.engine.args import part_of

if TYPE_CHECKING:
    from train_gan import GANArgs

    from rdfia.generation.gan import GANModule

# What the practicals vary, by the flags that differ from their recipe (--preset practical).
ABLATION: dict[str, dict[str, dict[str, Any]]] = {
    "ngf": {f"ngf {width}": {"generator_features": width} for width in (4, 64, 128, 256)},
    "ndf": {f"ndf {width}": {"discriminator_features": width} for width in (4, 64, 128, 256)},
    "nz": {
        "nz 10": {"latent_dim": 10},
        "nz 1000": {"latent_dim": 1000},
        "uniform latents": {"latents": "uniform"},
    },
    "init": {f"{name} initialization": {"initialization": name} for name in ("pytorch", "orthogonal")},
    "lr": {
        "D rate 0.02": {"discriminator_lr": 0.02},
        "D rate 0.001": {"discriminator_lr": 0.001},
        "G rate 0.05": {"generator_lr": 0.05},
        "G rate 0.001": {"generator_lr": 0.001},
        "rates 0.02 and 0.05": {"discriminator_lr": 0.02, "generator_lr": 0.05},
        "rates 0.001 and 0.001": {"discriminator_lr": 0.001, "generator_lr": 0.001},
        "rates 0.001 and 0.0005": {"discriminator_lr": 0.001, "generator_lr": 0.0005},
        "only D learns": {"generator_lr": 0.0},
        "only G learns": {"discriminator_lr": 0.0},
    },
    "loss": {f"{loss} loss": {"loss": loss} for loss in ("minimax", "least-squares", "hinge")},
    "epochs": {"30 epochs": {"max_epochs": 30}},
}


# From the practicals' recipe to the default, each row with all that is above it.
STEPS: dict[str, dict[str, Any]] = {
    "averaged weights": {"average_decay": 0.999},
    "rates 0.002": {"generator_lr": 2e-3, "discriminator_lr": 2e-3},
    "falling rates": {"decay": "linear"},
    "R1": {"r1": 0.5},
    "batches of 64": {"batch_size": 64},
    "nearest neighbours": {"upsampling": "nearest"},
    "beta2 0.99": {"beta2": 0.99},
    "50 groups": {"groups": 50},
}


LADDER: dict[str, dict[str, Any]] = {
    f"+ {name}": {
        flag: value for change in list(STEPS.values())[: number + 1] for flag, value in change.items()
    }
    for number, name in enumerate(STEPS)
}


# What else was tried on the default.
TRIED: dict[str, dict[str, Any]] = {
    "orthogonal initialization": {"initialization": "orthogonal"},
    "hinge loss": {"loss": "hinge"},
    "least-squares loss": {"loss": "least-squares"},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "twice the rate of D": {"discriminator_lr": 4e-3},
    "twice the rate of G": {"generator_lr": 4e-3},
    "two steps of D": {"discriminator_steps": 2},
    "rates fall as a cosine": {"decay": "cosine"},
    "R1 weight 0.1": {"r1": 0.1},
    "beta1 0": {"beta1": 0.0},
    "nz 50": {"latent_dim": 50},
    "20 groups": {"groups": 20},
    "100 groups": {"groups": 100},
    "batches of 32": {"batch_size": 32},
}


# Flags that say what is trained besides, and what they are in a single run.
BESIDES: dict[str, Any] = {"seeds": (), "ablation": (), "compare": (), "part": None}


def verdict(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what became of a training: ``diverged``, ``no digits``, ``few classes``, ``ok``."""
    fid, recall = metrics["judge_fid"]["mean"], metrics["recall"]["mean"]
    if fid is None or recall is None:
        return "diverged"
    lacking = sum(metrics[f"class_{digit}"]["mean"] < 0.01 for digit in range(10))
    return "no digits" if recall < 0.01 else "few classes" if lacking >= 3 else "ok"


def compare(
    args: "GANArgs",
    build: Callable[[Any], "GANModule"],
    rows: Mapping[str, Mapping[str, Any]],
    train_one: Callable[[Any], dict[str, Any]],
    data: dict[str, Any],
) -> dict[str, Any]:
    """Train each row with each seed in a folder of its own, skip what is done, write and print one table.

    The table has the rows and seeds that are asked for; others in the folder stay for the next time. With
    ``--part`` there is no table: some of the rows and seeds are trained.

    Args:
        args: The flags.
        build: Makes the module of the flags.
        rows: The flags in which each differs.
        train_one: Trains one and returns its results.
        data: What all are trained on.
    """
    from rdfia.common import plots
    from rdfia.engine import devices, errors, runs, training, wandb_run

    module = build(args)
    if (args.output_dir / args.name / "metrics.csv").exists() and not args.overwrite:
        raise ValueError(f"{args.output_dir / args.name} holds a single run; use another --name for a table")
    besides = {name: value for name, value in BESIDES.items() if hasattr(args, name)}
    for changes in rows.values():  # what is wrong with the last one is said before the first is trained
        one = dataclasses.replace(args, **besides, **changes)
        build(one)
        devices.check_devices(one)
    free = training.MAY_CHANGE_BUT_LENGTH | BESIDES.keys()
    folder = training.open_run(args, module, data, may_change=free)
    seeds = list(args.seeds or (args.seed,))
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    for row, seed in part_of([(row, seed) for row in rows for seed in seeds], args.part):
        name = runs.row_name(row, seed)
        one = dataclasses.replace(args, name=name, output_dir=folder, seed=seed, **besides, **rows[row])
        print(f"{row}, seed {seed}")
        try:
            found[row].append(training.finished(one, build(one), data) or train_one(one))
        except errors.Diverged:  # which is written down all the same, but for a dry run
            if args.fast_dev_run:
                raise
            found[row].append(runs.read_results(folder / name / "results.json"))
    if args.part is not None:
        return {}
    trainer = training.make_trainer(args, folder, monitor="val/judge_fid", mode="min", callbacks=[])
    if not trainer.is_global_zero:
        return {}

    samples = {}
    for row in rows:
        last = folder / runs.row_name(row, seeds[0]) / "checkpoints" / "last.ckpt"
        if last.exists() and not args.fast_dev_run:  # none, where it diverged at once
            trained = type(module).load_from_checkpoint(last, map_location="cpu", weights_only=True)
            samples[row] = trained.sample(20)
    if samples:
        runs.save_figure(folder, "samples", plots.image_rows(samples), trainer)
    prefixes = {row: f"{row}/" if len(rows) > 1 else "" for row in rows}
    every = [results for row in rows for results in found[row]]
    metrics = {
        prefixes[row] + score: [one["metrics"][score]["values"][0] for one in found[row]]
        for row in rows
        for score in found[row][0]["metrics"]
        if all(score in one["metrics"] for one in found[row])  # an earlier version may have found less
    }
    outcomes = {row: ", ".join(verdict(one["metrics"]) for one in found[row]) for row in rows}
    diverged = [
        f"{row}, seed {seed}: {one['notes'][1]}"
        for row in rows
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
        for row in rows
    ]
    wandb_run.log_table(trainer, ["", *columns, "outcome"], [list(line) for line in lines])
    wandb_run.finish_last()
    for line in [["", *(column.replace("_", " ") for column in columns), "outcome"], *lines]:
        print(f"{line[0]:26}" + "".join(f"{cell:>26}" for cell in line[1:]))
    print(
        "a dry run, nothing kept" if args.fast_dev_run else f"results.json and a folder for each in {folder}"
    )
    return table
