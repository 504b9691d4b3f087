"""One training of domain adaptation, and what follows from it: scores, chosen epochs, self-training."""

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning

from datamodules.domain_pair import DomainPairDataModule
from datamodules.files import weights_root
from datamodules.stacked import StackedSeeds
from rdfia.adaptation import embeddings
from rdfia.adaptation.config import (
    LOW_IS_BEST,
    ROWS,
    SELECTIONS,
    STATISTICS_ALONE,
    WITHOUT_TARGET_LABELS,
    Args,
)
from rdfia.adaptation.dann import OFFICE, PAPER, DANNModule
from rdfia.adaptation.domain_statistics import reestimate_statistics
from rdfia.adaptation.methods import module_of
from rdfia.adaptation.module import AdaptationModule
from rdfia.adaptation.pseudo_labels import PseudoLabelModule, confident
from rdfia.adaptation.scores import information
from rdfia.adaptation.selection import ALL
from rdfia.adaptation.stacked import StackedDANN
from rdfia.common.weights import weights_hash
from rdfia.engine import resume, runs, stacking, tables, training, wandb_run
from rdfia.engine.args import keywords
from rdfia.engine.candidates import KeepsCandidates

Scores = dict[str, float]
LOSSES = ("train/class_loss", "train/domain_loss", "train/adaptation_loss", "train/pseudo_label_loss")


@dataclass
class Trained(tables.Table):
    """A table of DANN, with what its figures are of."""

    modules: dict[str, AdaptationModule] = field(default_factory=dict)
    """By row, those of the first seed."""
    notes: list[str] = field(default_factory=list)
    """What is to be said of single rows."""
    trainer: lightning.Trainer | None = None
    """The last one."""


def module_flags(args: Args, pair: DomainPairDataModule, kind: type[AdaptationModule]) -> dict[str, Any]:
    """Return the keywords of a module that follow from the flags and the data."""
    recipe = PAPER if args.network == "paper" else OFFICE if args.recipe == "office" else {}
    if args.precomputed:  # of views that were drawn before
        recipe = recipe | {"augment": ()}
    of_data: dict[str, Any] = {"classes": len(pair.classes), "class_names": pair.classes}
    of_data["resize"] = pair.target.resized  # for new images, which are of the target
    if args.pretrained:
        of_data["data_dir"] = weights_root(args.data_dir)
    taken = recipe | keywords(kind, args) | ROWS[args.row()] | of_data
    left_out = {"method"} if args.pretrained else {"method", "data_dir"}
    return {name: value for name, value in taken.items() if name not in left_out}


def make_module(args: Args, pair: DomainPairDataModule) -> AdaptationModule:
    """Return the module of a row, with random weights."""
    kind = module_of(args.method)
    return kind(**module_flags(args, pair, kind))


def stack_row(parts: list[Args], pair: DomainPairDataModule) -> None:
    """Train a row's seeds at once, as far as they are to be trained."""
    members = []
    for one in parts:
        lightning.seed_everything(one.seed, workers=True, verbose=False)
        members.append(make_module(one, pair))
    seeds, batches = [one.seed for one in parts], partial(StackedSeeds, pair)
    stacking.train_together(parts, seeds, members, StackedDANN, batches, pair.describe())


def train_row(
    args: Args,
    row: str,
    rounds: dict[str, Any],
    pair: DomainPairDataModule,
    data: dict[str, Any],
    table: Trained,
) -> None:
    """Train one row with one seed, and what follows from it; write its scores into the table.

    Args:
        args: The flags of this row.
        row: Its name.
        rounds: Flags of the self-training that follows; empty if none does.
        pair: Source and target.
        data: Their description.
        table: Takes the scores and the module.

    Raises:
        Diverged: A loss was not finite.
    """
    lightning.seed_everything(args.seed, workers=True, verbose=False)
    module = make_module(args, pair)
    scores, trainer = train(args, module, pair, data, select=row in ROWS)
    table.trainer = trainer
    table.add(row, args.seed, scores | looked_at(module, pair, trainer, args))
    if row in ROWS:
        table.modules.setdefault(row, module)
    if row == "source-only" and module.hparams["batch_norm"]:
        other = statistics_alone(module, pair)
        tested = merged(trainer.test(other, pair, verbose=False))
        table.add(STATISTICS_ALONE, args.seed, tested | looked_at(other, pair, trainer, args))
    if rounds.get("pseudo_label_rounds"):
        again = dataclasses.replace(args, **rounds)
        scores, student, table.trainer = self_train(again, module, pair, data)
        table.add("pseudo-labels", args.seed, scores | looked_at(student, pair, table.trainer, args))
        table.modules.setdefault("pseudo-labels", student)


def train(
    args: Args, module: AdaptationModule, pair: DomainPairDataModule, data: dict[str, Any], *, select: bool
) -> tuple[Scores, lightning.Trainer]:
    """Train one row with one seed, in a folder of its own; leave the last epoch's weights in ``module``.

    Returns:
        Test scores of the last epoch; of validation the scores that an epoch can be chosen by, as
        ``val_<score>``; if ``select``, the target_accuracy of the epochs that each of them chooses, and all
        of them together by their mean rank; the trainer.
    """
    folder = training.open_run(args, module, data, may_change=resume.MAY_CHANGE_BUT_LENGTH)
    wandb_run.finish_last()  # that of the row before
    checkpoints = folder / "checkpoints"
    unlabelled = {name: SELECTIONS[name] for name in WITHOUT_TARGET_LABELS}
    candidates = [KeepsCandidates(checkpoints, unlabelled, low=LOW_IS_BEST)]
    if pair.target_labelled:  # for comparison only: it must not have a say in what the others keep
        candidates.append(KeepsCandidates(checkpoints, {"oracle": SELECTIONS["oracle"]}, prefix="oracle"))
    trainer = training.make_trainer(
        args,
        folder,
        monitor=SELECTIONS["source"],
        mode="max",
        callbacks=[*candidates] if select else [],
        losses=LOSSES,
        shown=(SELECTIONS["information"],),
    )
    scores = {"seconds": training.fit(args, trainer, module, pair)}
    last: dict[str, Any] = {}
    if not args.fast_dev_run:
        last = {"ckpt_path": folder / "checkpoints" / "last.ckpt", "weights_only": True}
        scores |= scores_of_last_epoch(folder)
        if select and pair.target_labelled:
            scores |= chosen_epochs(candidates, trainer, module, pair)
    return scores | merged(trainer.test(module, pair, verbose=False, **last)), trainer


def scores_of_last_epoch(folder: Path) -> Scores:
    """Return the scores of the last validation that need no target labels, as ``val_<score>``."""
    history = runs.read_metrics(folder)
    found = {name: history.get(SELECTIONS[name]) for name in WITHOUT_TARGET_LABELS}
    return {f"val_{name}": line[1][-1] for name, line in found.items() if line is not None}


def chosen_epochs(
    candidates: Sequence[KeepsCandidates],
    trainer: lightning.Trainer,
    module: AdaptationModule,
    pair: DomainPairDataModule,
) -> Scores:
    """Return the target_accuracy of the epochs that each score chooses, as ``target_accuracy_by_<score>``."""
    fair, oracle = candidates
    ways = {name: (name,) for name in WITHOUT_TARGET_LABELS} | {ALL: WITHOUT_TARGET_LABELS}
    paths = {way: fair.best(*names) for way, names in ways.items()} | {"oracle": oracle.best("oracle")}
    tested: dict[Path, float] = {}
    for path in dict.fromkeys(path for path in paths.values() if path is not None):
        found = trainer.test(module, pair, ckpt_path=path, weights_only=True, verbose=False)
        tested[path] = merged(found)["target_accuracy"]
    return {f"target_accuracy_by_{way}": tested[path] for way, path in paths.items() if path is not None}


def merged(tested: Any) -> Scores:
    """Return the scores that a test found, whichever loader Lightning lists them under."""
    return {name.split("/")[1]: value for part in tested for name, value in part.items()}


def looked_at(
    module: AdaptationModule, pair: DomainPairDataModule, trainer: lightning.Trainer, args: Args
) -> Scores:
    """Return how far apart the domains' features are, and the score that can choose a row."""
    device = training.back_on_device(trainer, module)
    size = 64 if args.fast_dev_run else 2000
    features = []
    # Where all are trained on there are few others: of the source, those held out.
    ours = pair.source.train_data if args.transductive else pair.source.test_data
    for domain, source in ((ours, True), (pair.target.test_data, False)):
        # Drawn at random: the first half of MNIST's test set is cleaner than the second.
        drawn = domain.part(embeddings.sample(len(domain), size))
        features.append(module.outputs(drawn.batches(), source=source)[0])
    _, probabilities = module.outputs(pair.target.train_data.to(device).batches())
    finite = all(one.isfinite().all() for one in features)
    return {
        "a_distance": embeddings.proxy_a_distance(*features),
        "a_distance_by_chance": embeddings.chance_distance(*features) if finite else math.nan,
        # Of training images, and without labels: a recipe may be chosen by it.
        "target_train_information": float(information(probabilities)),
    }


def statistics_alone(module: AdaptationModule, pair: DomainPairDataModule) -> AdaptationModule:
    """Return a copy of a network trained on the source, with BatchNorm's statistics of the target.

    They are those of its training images; no label is looked at.
    """
    other = copy.deepcopy(module)
    target = pair.target.train_data.to(module.device)
    batches = (images.to(module.device) for images in target.batches() if len(images) > 1)
    reestimate_statistics(other.evaluated, batches)
    return other


def self_train(
    args: Args, adapted: AdaptationModule, pair: DomainPairDataModule, data: dict[str, Any]
) -> tuple[Scores, AdaptationModule, lightning.Trainer]:
    """Train on pseudo-labels in rounds, or on mixed batches; return scores, last module and trainer."""
    scores: Scores = {}
    module, seconds = adapted, 0.0
    target = pair.target.train_data
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
            pair.pseudo_label(numbers, labels)
            scores[f"round_{number}_coverage"] = len(numbers) / len(target)
            if pair.target_labelled:
                right = (target.labels[numbers.to(target.labels.device)].cpu() == labels).float().mean()
                scores[f"round_{number}_label_accuracy"] = right.item()
        lightning.seed_everything((args.seed + 1000 * number) % 2**32, workers=True, verbose=False)
        form: dict[str, Any] = {"form": args.pseudo_labels, "threshold": args.threshold, "seed": args.seed}
        student = PseudoLabelModule(**(module_flags(args, pair, DANNModule) | form))
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
        tested, trainer = train(again, student, pair, taught, select=True)
        training.back_on_device(trainer, student)
        seconds += tested.pop("seconds")
        if pair.target_labelled:
            scores |= {f"round_{number}_target_accuracy": tested["target_accuracy"]}
        scores |= tested
        module = student
    return scores | {"seconds": seconds}, module, trainer
