"""The experiment on one pair of domains: train all rows of its table, score, draw."""

import math
import statistics
import warnings
from pathlib import Path
from typing import Any, cast

from datamodules import keywords_of, open_dataset
from datamodules.domain_pair import DomainPairDataModule
from datamodules.features import FeatureTensors
from rdfia.adaptation import classical
from rdfia.adaptation.config import ABLATION, CLASSICAL, PSEUDO_LABELS, ROWS, TABLE_FLAGS, Args
from rdfia.adaptation.experiment_features import precomputed
from rdfia.adaptation.experiment_figures import draw
from rdfia.adaptation.experiment_predictions import label_shift, write_predictions
from rdfia.adaptation.experiment_training import Trained, make_module, stack_row, train_row
from rdfia.common import plots
from rdfia.common.figure_style import axis_label
from rdfia.engine import report, resume, runs, stacking, tables, training, wandb_run
from rdfia.engine.errors import Diverged

ON_TARGET = axis_label("accuracy on the target's test images", share=True, better="more")


def run_pair(args: Args) -> dict[str, Any]:
    """Train all rows with all seeds, test, draw; return the content of results.json.

    Raises:
        Diverged: All of them did.
    """
    asked, seeds = args.row(), list(args.seeds or (args.seed,))
    rows = rows_of(args)
    pictures = open_pair(args)
    pictures.prepare_data()
    pictures.setup()
    data = pictures.describe()
    if not pictures.target_labelled and (args.labelled == "target" or "target-trained" in args.compare):
        raise ValueError(f"--target {args.target} has no labels to train on; leave target-trained out")
    pictures.train_dataloader()  # says now if a batch is too large
    # Rows and rounds are added, and look after themselves.
    free = resume.MAY_CHANGE_BUT_LENGTH | TABLE_FLAGS.keys()
    folder = training.open_run(args, make_module(args, pictures), data, may_change=free)
    pair = pictures
    if args.precomputed:  # takes long: now that all else is known to be good
        pair = precomputed(args, pictures)
        data = pair.describe()
    table = Trained(seeds)
    planned = list(tables.trainings(args, rows, tables.by_seed(args), folder, TABLE_FLAGS))
    by_row = [[one for name, _, one in planned if name == row] for row in rows] if args.stack else []
    stacking.check_left(folder, [[one.name for one in parts] for parts in by_row])
    for parts in by_row:
        stack_row(parts, pair)
    for row, seed, part in planned:
        pair.seed, pair.pseudo_labelled = seed, None
        rounds = {flag: getattr(args, flag) for flag in PSEUDO_LABELS} if row == asked else {}
        try:
            train_row(part, row, rounds, pair, data, table)
        except Diverged as error:  # a row of the table that says so
            if not (table.found or len(rows) * len(seeds) > 1):
                raise
            print(error)
            named = "pseudo-labels" if row == asked and seed in table.found.get(asked, {}) else row
            table.add_diverged(named, seed, {"target_accuracy": math.nan})
    if args.part is not None:
        return {}
    for row in args.compare:
        found = classify_features(row, pair, table.notes) if row in CLASSICAL else {}
        for seed in seeds if found else ():  # of which nothing of it depends
            table.add(row, seed, found)
    if table.trainer is None:
        raise Diverged(f"all rows diverged, see the folders in {folder}")
    return finish(args, table, pair, pictures, data, folder) if table.trainer.is_global_zero else {}


def rows_of(args: Args) -> dict[str, dict[str, Any]]:
    """Return the rows to train, and the flags in which each differs; the one that is asked for comes last."""
    asked = args.row()
    rows: dict[str, dict[str, Any]] = {row: ROWS[row] for row in args.compare if row in ROWS}
    if args.ablation:
        rows |= {
            row: changes for row, changes in ABLATION.items() if changes != {"precision": args.precision}
        }
    rows.pop(asked, None)
    return rows | {asked: ROWS[asked]}  # last, for the pseudo-labels


def open_pair(args: Args) -> DomainPairDataModule:
    """Return the data module of source and target."""
    taken = {name: keywords_of(name) for name in (args.source, args.target)}
    for flag in args.reading().keys() - {"memory_gb", "cache_dir"}:
        if not any(flag in known for known in taken.values()):
            raise ValueError(f"--{flag.replace('_', '-')}: neither source nor target has a choice of it")
    reading: dict[str, Any] = args.reading() | {"batch_size": args.batch_size, "channels": 3}
    reading |= {"image_size": args.image_size}
    domains = []
    for name in (args.source, args.target):
        options = {key: value for key, value in reading.items() if key in taken[name]}
        if name == args.target and "labels" in taken[name]:
            options["labels"] = "optional"
        domains.append(open_dataset(name, args.data_dir, **options))
    source, target = domains
    options = {"shared_classes": args.shared_classes, "batch_size": args.batch_size}
    options |= {"open_set": args.open_set, "transductive": args.transductive}
    return DomainPairDataModule(source, target, **options)


def classify_features(row: str, pair: DomainPairDataModule, notes: list[str]) -> dict[str, float]:
    """Return the scores of a classifier of features that are there, aligned as the row says.

    Args:
        row: See `rdfia.adaptation.classical.classify`.
        pair: Of features.
        notes: Takes what is to be said of it.
    """
    if not pair.target_labelled:
        notes.append(
            f"{row}: left out, it trains nothing to keep and the target has no labels to score it by"
        )
        return {}
    train, target, test = (
        cast(FeatureTensors, data)
        for data in (pair.source.train_data, pair.target.train_data, pair.target.test_data)
    )
    features = [data.as_they_are().cpu() for data in (target, test)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        predicted = classical.classify(row, train.as_they_are().cpu(), train.labels.cpu(), *features)
    notes += dict.fromkeys(f"{row}: {str(one.message).split('. ')[0]}" for one in said)
    labels = test.labels.cpu()
    return {"target_accuracy": (predicted == labels)[labels >= 0].double().mean().item()}


def finish(
    args: Args,
    table: Trained,
    pair: DomainPairDataModule,
    pictures: DomainPairDataModule,
    data: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Draw, write results.json, predictions and a page, print the table; return the content of results.json.

    Args:
        args: The flags.
        table: What was trained.
        pair: What it was trained on: images, or their features.
        pictures: The images.
        data: Description of ``pair``.
        folder: The run folder.
    """
    trainer = table.trainer
    assert trainer is not None
    seeds, metrics = list(table.seeds), table.metrics()
    labelled = pair.target_labelled
    notes = ["the target has no labels: what needs them is left out"]
    if labelled:
        notes = ["target_accuracy_by_oracle chooses the epoch by target labels: for comparison only"]
    if args.stack and len(seeds) > 1:
        notes.append("seeds were trained at once, without a validation after each epoch: the last one counts")
    notes += [*table.diverged, *table.notes]
    if any(module.hparams["batch_norm"] for module in table.modules.values()):
        notes.append("each domain is scored, and looked at, under the BatchNorm statistics kept of it")
    notes += notes_of(args, table, pair)
    if args.pseudo_label_rounds and labelled:
        notes.append("round_n_label_accuracy uses target labels to count only")
    if table.modules:  # not of an ablation of which the reference row diverged
        draw(args, folder, trainer, table.modules, pair, pictures)
        asked = table.modules.get("pseudo-labels") or table.modules.get(args.row())
        if asked is not None:
            notes += label_shift(asked, pair)
            write_predictions(folder, trainer, asked, pair, pictures)
    accuracies = {
        name.split("/")[0]: statistics.fmean(filter(math.isfinite, values))
        for name, values in metrics.items()
        if name.endswith("/target_accuracy") and any(map(math.isfinite, values))
    }
    if labelled:
        of_seeds = f"mean over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
        rows_drawn = plots.bars({ON_TARGET: accuracies}, title=of_seeds)
        runs.save_figure(folder, "target_accuracy", rows_drawn, trainer)
    results = runs.write_results(
        folder,
        trainer,
        technique="dann",
        seeds=seeds,
        data=data,
        metrics=metrics,
        selection="last epoch",
        wall_seconds=sum(
            scores.get("seconds", 0.0) for by_seed in table.found.values() for scores in by_seed.values()
        ),
        status=table.status(),
        notes=notes,
    )
    wandb_run.finish_last()
    report.write_run_page(folder, results, trainer)
    of_target: tuple[str, ...] = ("target_entropy", "target_information")
    if labelled:
        of_target = ("target_loss", "target_accuracy", "target_unknown_accuracy", "target_h_score")
    columns = ("source_loss", "source_accuracy", *of_target, "a_distance")
    tables.show(results, {row: f"{row}/" for row in table.found}, columns)
    written = (
        f"results.json, index.html, predictions.csv, figures/ and a folder for each training in {folder}"
    )
    print("a dry run, nothing kept" if args.fast_dev_run else written)
    return results


def notes_of(args: Args, table: Trained, pair: DomainPairDataModule) -> list[str]:
    """Return what is to be said of the data, and of the way the network is used."""
    notes = []
    if args.transductive:
        notes.append(
            "transductive: all target images are adapted to, unlabelled, and tested; all source images are "
            "trained on, but those held out, of which source scores are"
        )
    if args.pretrained:
        trained = {"all": "all layers trained", "none": "no layer trained"}.get(
            args.trunk_trained, f"trained from {args.trunk_trained} on"
        )
        how = f"precomputed features, {args.views} views an image" if args.precomputed else "images"
        notes.append(f"{args.network}: {trained}, its BatchNorm {args.trunk_batch_norm}; trained on {how}")
    if args.open_set:
        notes.append(
            "target_accuracy is of known classes; a prediction of entropy over log(K) / 2 says unknown"
        )
    return notes
