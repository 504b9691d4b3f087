"""The experiment: train DANN and what it is compared with, score and draw all of them."""

import copy
import dataclasses
import math
import statistics
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import keywords_of, open_dataset
from datamodules.domain_pair import DomainPairDataModule
from datamodules.stacked import StackedSeeds
from rdfia.adaptation import embeddings
from rdfia.adaptation.config import (
    ABLATION,
    PSEUDO_LABELS,
    ROWS,
    SELECTIONS,
    STATISTICS_ALONE,
    TABLE_FLAGS,
    Args,
)
from rdfia.adaptation.dann import PAPER, DANNModule
from rdfia.adaptation.experiment_figures import draw
from rdfia.adaptation.network import reestimate_statistics
from rdfia.adaptation.pseudo_labels import PseudoLabelModule, confident
from rdfia.adaptation.scores import information
from rdfia.adaptation.stacked import StackedDANN
from rdfia.common import plots
from rdfia.common.weights import weights_hash
from rdfia.engine import devices, resume, runs, stacking, tables, training, wandb_run
from rdfia.engine.args import keywords
from rdfia.engine.errors import Diverged

Scores = dict[str, float]


@dataclass
class Trained(tables.Table):
    """A table of DANN, with what its figures are of."""

    modules: dict[str, DANNModule] = field(default_factory=dict)
    """By row, those of the first seed."""
    trainer: lightning.Trainer | None = None
    """The last one."""


def run(args: Args) -> dict[str, Any]:
    """Train all rows with all seeds, test, draw; return the content of results.json.

    Raises:
        Diverged: All of them did.
    """
    args = devices.settle(args)
    asked, seeds = args.row(), list(args.seeds or (args.seed,))
    rows = rows_of(args)
    digits = digit_pair(args)
    digits.prepare_data()
    digits.setup()
    digits.train_dataloader()  # says now if a batch is too large
    data = digits.describe()
    if not digits.target_labelled and (args.labelled == "target" or "target-trained" in args.compare):
        raise ValueError(f"--target {args.target} has no labels to train on; leave target-trained out")
    # Rows and rounds are added, and look after themselves.
    free = resume.MAY_CHANGE_BUT_LENGTH | TABLE_FLAGS.keys()
    module = DANNModule(**module_flags(args, digits))
    folder = training.open_run(args, module, data, may_change=free)
    table = Trained(seeds)
    planned = list(tables.trainings(args, rows, tables.by_seed(args), folder, TABLE_FLAGS))
    by_row = [[one for name, _, one in planned if name == row] for row in rows] if args.stack else []
    stacking.check_left(folder, [[one.name for one in parts] for parts in by_row])
    for parts in by_row:
        stack_row(parts, digits)
    for row, seed, part in planned:
        digits.seed, digits.pseudo_labelled = seed, None
        rounds = {flag: getattr(args, flag) for flag in PSEUDO_LABELS} if row == asked else {}
        try:
            train_row(part, row, rounds, digits, data, table)
        except Diverged as error:  # a row of the table that says so
            if not (table.found or len(rows) * len(seeds) > 1):
                raise
            print(error)
            named = "pseudo-labels" if row == asked and seed in table.found.get(asked, {}) else row
            table.add_diverged(named, seed, {"target_accuracy": math.nan})
    if args.part is not None:
        return {}
    if table.trainer is None:
        raise Diverged(f"all rows diverged, see the folders in {folder}")
    return finish(args, table, digits, data, folder) if table.trainer.is_global_zero else {}


def stack_row(parts: list[Args], digits: DomainPairDataModule) -> None:
    """Train a row's seeds at once, as far as they are to be trained."""
    members = []
    for one in parts:
        lightning.seed_everything(one.seed, workers=True, verbose=False)
        members.append(DANNModule(**module_flags(one, digits)))
    seeds, batches = [one.seed for one in parts], partial(StackedSeeds, digits)
    stacking.train_together(parts, seeds, members, StackedDANN, batches, digits.describe())


def rows_of(args: Args) -> dict[str, dict[str, Any]]:
    """Return the rows to train, and the flags in which each differs; the one that is asked for comes last."""
    asked = args.row()
    rows: dict[str, dict[str, Any]] = {row: ROWS[row] for row in args.compare}
    if args.ablation:
        rows |= {
            row: changes for row, changes in ABLATION.items() if changes != {"precision": args.precision}
        }
    rows.pop(asked, None)
    return rows | {asked: ROWS[asked]}  # last, for the pseudo-labels


def digit_pair(args: Args) -> DomainPairDataModule:
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
    return DomainPairDataModule(source, target, **options)


def module_flags(args: Args, digits: DomainPairDataModule) -> dict[str, Any]:
    """Return the keywords of `DANNModule` that follow from the flags and the data."""
    recipe = PAPER if args.network == "paper" else {}
    of_data: dict[str, Any] = {"classes": len(digits.classes), "class_names": digits.classes}
    of_data["resize"] = digits.target.resized  # for new images, which are of the target
    return recipe | keywords(DANNModule, args) | ROWS[args.row()] | of_data


def train_row(
    args: Args,
    row: str,
    rounds: dict[str, Any],
    digits: DomainPairDataModule,
    data: dict[str, Any],
    table: Trained,
) -> None:
    """Train one row with one seed, and what follows from it; write its scores into the table.

    Args:
        args: The flags of this row.
        row: Its name.
        rounds: Flags of the self-training that follows; empty if none does.
        digits: Source and target.
        data: Their description.
        table: Takes the scores and the module.

    Raises:
        Diverged: A loss was not finite.
    """
    lightning.seed_everything(args.seed, workers=True, verbose=False)
    module = DANNModule(**module_flags(args, digits))
    scores, trainer = train(args, module, digits, data, select=row in ROWS)
    table.trainer = trainer
    table.add(row, args.seed, scores | looked_at(module, digits, trainer, args))
    if row in ROWS:
        table.modules.setdefault(row, module)
    if row == "source-only" and module.hparams["batch_norm"]:
        other = statistics_alone(module, digits)
        tested = merged(trainer.test(other, digits, verbose=False))
        table.add(STATISTICS_ALONE, args.seed, tested | looked_at(other, digits, trainer, args))
    if rounds.get("pseudo_label_rounds"):
        again = dataclasses.replace(args, **rounds)
        scores, student, table.trainer = self_train(again, module, digits, data)
        table.add("pseudo-labels", args.seed, scores | looked_at(student, digits, table.trainer, args))
        table.modules.setdefault("pseudo-labels", student)


def train(
    args: Args, module: DANNModule, digits: DomainPairDataModule, data: dict[str, Any], *, select: bool
) -> tuple[Scores, lightning.Trainer]:
    """Train one row with one seed, in a folder of its own; leave the last epoch's weights in ``module``.

    Returns:
        Test scores of the last epoch, if ``select`` also target_accuracy of the epochs that each of
        `SELECTIONS` chooses; the trainer.
    """
    folder = training.open_run(args, module, data, may_change=resume.MAY_CHANGE_BUT_LENGTH)
    wandb_run.finish_last()  # that of the row before
    stems = {name: "best" if name == "source" else f"best_{name}" for name in SELECTIONS if select}
    if not digits.target_labelled:
        stems.pop("oracle", None)
    best = {name: folder / "checkpoints" / f"{stem}.ckpt" for name, stem in stems.items()}
    kept = [
        ModelCheckpoint(
            path.parent, path.stem, monitor=SELECTIONS[name], mode="max", enable_version_counter=False
        )
        for name, path in best.items()
        if name != "source"  # the trainer's own best.ckpt
    ]
    trainer = training.make_trainer(
        args,
        folder,
        monitor=SELECTIONS["source"],
        mode="max",
        callbacks=[*kept],
        losses=("train/class_loss", "train/domain_loss", "train/pseudo_label_loss"),
        shown=(SELECTIONS["information"],),
    )
    scores = {"seconds": training.fit(args, trainer, module, digits)}
    if not args.fast_dev_run and digits.target_labelled:
        for name, path in best.items():
            if not path.exists():  # trained with other seeds at once, without a validation after each epoch
                continue
            tested = trainer.test(module, digits, ckpt_path=path, weights_only=True, verbose=False)
            scores[f"target_accuracy_by_{name}"] = merged(tested)["target_accuracy"]
    last: dict[str, Any] = {}
    if not args.fast_dev_run:
        last = {"ckpt_path": folder / "checkpoints" / "last.ckpt", "weights_only": True}
    return scores | merged(trainer.test(module, digits, verbose=False, **last)), trainer


def merged(tested: Any) -> Scores:
    """Return the scores that a test found, whichever loader Lightning lists them under."""
    return {name.split("/")[1]: value for part in tested for name, value in part.items()}


def looked_at(
    module: DANNModule, digits: DomainPairDataModule, trainer: lightning.Trainer, args: Args
) -> Scores:
    """Return how far apart the domains' features are, and the score that can choose a row."""
    device = training.back_on_device(trainer, module)
    size = 64 if args.fast_dev_run else 2000
    features = []
    for domain, source in ((digits.source.test_data, True), (digits.target.test_data, False)):
        # Drawn at random: the first half of MNIST's test set is cleaner than the second.
        drawn = domain.part(embeddings.sample(len(domain), size))
        features.append(module.outputs(drawn.batches(), source=source)[0])
    _, probabilities = module.outputs(digits.target.train_data.to(device).batches())
    return {
        "a_distance": embeddings.proxy_a_distance(*features),
        # Of training images, and without labels: a recipe may be chosen by it.
        "target_train_information": float(information(probabilities)),
    }


def statistics_alone(module: DANNModule, digits: DomainPairDataModule) -> DANNModule:
    """Return a copy of a network trained on the source, with BatchNorm's statistics of the target.

    They are those of its training images; no label is looked at.
    """
    other = copy.deepcopy(module)
    target = digits.target.train_data.to(module.device)
    batches = (images.to(module.device) for images in target.batches() if len(images) > 1)
    reestimate_statistics(other.evaluated, batches)
    return other


def self_train(
    args: Args, adapted: DANNModule, digits: DomainPairDataModule, data: dict[str, Any]
) -> tuple[Scores, DANNModule, lightning.Trainer]:
    """Train on pseudo-labels in rounds, or on mixed batches; return scores, last module and trainer."""
    scores: Scores = {}
    module, seconds = adapted, 0.0
    target = digits.target.train_data
    for number in range(1, args.pseudo_label_rounds + 1):
        if args.pseudo_labels == "rounds":
            least = 0.0 if args.fast_dev_run else args.threshold
            balanced = not args.fast_dev_run
            probabilities = module.outputs(target.to(module.device).batches())[1]
            numbers, labels = confident(probabilities, least, balanced=balanced)
            if len(numbers) < args.batch_size:
                first = "lower it" if number == 1 else f"take --pseudo-label-rounds {number - 1}"
                raise ValueError(
                    f"{len(numbers)} pseudo-labels are left at --threshold {args.threshold} with as many of "
                    f"each class, fewer than a batch of {args.batch_size}; {first}, or adapt for longer "
                    "under another --name"
                )
            digits.pseudo_label(numbers, labels)
            scores[f"round_{number}_coverage"] = len(numbers) / len(target)
            if digits.target_labelled:
                right = (target.labels[numbers.to(target.labels.device)].cpu() == labels).float().mean()
                scores[f"round_{number}_label_accuracy"] = right.item()
        lightning.seed_everything((args.seed + 1000 * number) % 2**32, workers=True, verbose=False)
        form: dict[str, Any] = {"form": args.pseudo_labels, "threshold": args.threshold, "seed": args.seed}
        student = PseudoLabelModule(**form, **module_flags(args, digits))
        student.begin_with(module)
        name = f"{args.name}_round_{number}"
        # Not how many rounds there are, so that more can be added.
        changes: dict[str, Any] = {
            "name": name,
            "max_epochs": args.pseudo_label_epochs,
            "pseudo_label_rounds": 0,
        }
        again = dataclasses.replace(args, **changes)
        # What the round depends on besides its flags: it must not resume from a student of another teacher.
        taught = data | {"teacher": weights_hash(module.evaluated)}
        tested, trainer = train(again, student, digits, taught, select=True)
        training.back_on_device(trainer, student)
        seconds += tested.pop("seconds")
        if digits.target_labelled:
            scores |= {f"round_{number}_target_accuracy": tested["target_accuracy"]}
        scores |= tested
        module = student
    return scores | {"seconds": seconds}, module, trainer


def finish(
    args: Args, table: Trained, digits: DomainPairDataModule, data: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Draw, write results.json and print the table; return the content of results.json."""
    trainer = table.trainer
    assert trainer is not None
    seeds, metrics = list(table.seeds), table.metrics()
    labelled = digits.target_labelled
    notes = ["the target has no labels: what needs them is left out"]
    if labelled:
        notes = ["target_accuracy_by_oracle chooses the epoch by target labels: for comparison only"]
    if args.stack and len(seeds) > 1:
        notes.append("seeds were trained at once, without a validation after each epoch: the last one counts")
    notes += table.diverged
    if any(module.hparams["batch_norm"] for module in table.modules.values()):
        notes.append("each domain is scored, and looked at, under the BatchNorm statistics kept of it")
    if args.pseudo_label_rounds and labelled:
        notes.append("round_n_label_accuracy uses target labels to count only")
    if table.modules:  # not of an ablation of which the reference row diverged
        images = {"source": digits.source.test_data, "target": digits.target.test_data}
        history = folder / f"{args.row()}_seed_{seeds[0]}"
        size = 20 if args.fast_dev_run else 500
        draw(folder, trainer, history, table.modules, images, digits.classes, seeds[0], size)
    accuracies = {
        name.split("/")[0]: statistics.fmean(filter(math.isfinite, values))
        for name, values in metrics.items()
        if name.endswith("/target_accuracy") and any(map(math.isfinite, values))
    }
    if labelled:
        rows_drawn = plots.bars({"accuracy on the target's test images": accuracies})
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
    of_target = ("target_loss", "target_accuracy") if labelled else ("target_entropy", "target_information")
    columns = ("source_loss", "source_accuracy", *of_target, "a_distance")
    tables.show(results, {row: f"{row}/" for row in table.found}, columns)
    written = f"results.json, figures/ and a folder for each training in {folder}"
    print("a dry run, nothing kept" if args.fast_dev_run else written)
    return results
