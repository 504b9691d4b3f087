"""Train DANN from one set of digits to another, beside what it is compared with; score and draw both.

Examples:
    python scripts/train_dann.py --data-dir sample --max-epochs 20 --batch-size 64
    python scripts/train_dann.py --seeds 0 1 2 --compare source-only no-reversal target-trained
"""

import dataclasses
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dann_figures import draw, outputs

from rdfia.engine.args import TrainerArgs, check_part, part_of
from rdfia.engine.cli import run_script

if TYPE_CHECKING:
    import lightning

    from datamodules.domain_pair import Domain, DomainPairDataModule
    from rdfia.adaptation.dann import DANNModule

# What can be trained for comparison, and the flags in which it differs from what is asked for.
ROWS: dict[str, dict[str, Any]] = {
    "source-only": {"adapt": False, "reversal": True, "labelled": "source"},
    "no-reversal": {"adapt": True, "reversal": False, "labelled": "source"},
    "dann": {"adapt": True, "reversal": True, "labelled": "source"},
    "target-trained": {"adapt": False, "reversal": True, "labelled": "target"},
}
# One change each to the paper's recipe (--network paper).
ABLATION: dict[str, dict[str, Any]] = {
    "both, as published": {"scaling": "symmetric", "dropout": 0.0},
    "images in [-1, 1]": {"scaling": "symmetric"},
    "no dropout": {"dropout": 0.0},
    "BatchNorm": {"batch_norm": True},
    "BatchNorm, separate passes": {"batch_norm": True, "passes": "separate"},
    "Adam": {"optimizer": "adam", "lr": 1e-3, "momentum": 0.5},
    "Adam, BatchNorm": {"optimizer": "adam", "lr": 1e-3, "momentum": 0.5, "batch_norm": True},
    "Adam, BatchNorm, separate passes": {
        "optimizer": "adam",
        "lr": 1e-3,
        "momentum": 0.5,
        "batch_norm": True,
        "passes": "separate",
    },
    "rate 0.03": {"lr": 0.03},
    "no decay of the rate": {"decay": "none"},
    "momentum 0.5": {"momentum": 0.5},
    "lambda up to 0.1": {"strength": 0.1},
    "lambda 1 from the start": {"schedule": "constant"},
    "He initialization": {"initialization": "he"},
    "domain classifier 1,024 wide": {"domain_width": 1024},
    "weights averaged": {"average_decay": 0.999},
    "float32": {"precision": "float32"},
}
# Not trained: source-only, with BatchNorm's statistics of the target in place of the source's. What these
# alone give is no merit of the adversary, nor of pseudo-labels.
STATISTICS_ALONE = "source-only, AdaBN"
PSEUDO_LABELS = ("pseudo_label_rounds", "pseudo_labels", "pseudo_label_epochs", "threshold")
# How an epoch can be chosen. The oracle looks at target labels: it is for the table only.
SELECTIONS = {
    "source": "val/source_accuracy",
    "information": "val/target_information",
    "density": "val/target_density",
    "oracle": "val/target_accuracy",
}


@dataclass(frozen=True)
class Args(TrainerArgs):
    """Train DANN from one set of digits to another, beside what it is compared with."""

    name: str = "dann"
    """Of the run folder; the same goes on."""
    max_epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 128
    """Images of each domain in a step, over all processes together."""
    seeds: tuple[int, ...] = ()
    """Train with each, not with --seed."""
    part: tuple[int, int] | None = None
    """One, from 0, of so many parts of a table."""
    pair: str = "mnist:mnist-m"
    """Source and target, of mnist, mnist-m, usps."""
    compare: tuple[Literal["source-only", "no-reversal", "dann", "target-trained"], ...] = ("source-only",)
    """Trained besides, with the same settings."""
    ablation: bool = False
    """Train with one change at a time besides; with --network paper."""
    adapt: bool = True
    """Train against the domain classifier."""
    reversal: bool = True
    """Reverse its gradient."""
    labelled: Literal["source", "target"] = "source"
    """Whose labels are trained on; `target` with --no-adapt."""
    schedule: Literal["ganin", "constant", "linear", "off"] = "ganin"
    """Of lambda."""
    strength: float = 1.0
    """Lambda's largest value."""
    network: Literal["modern", "paper"] = "modern"
    """`paper` also sets what follows to the paper's recipe."""
    scaling: Literal["none", "symmetric", "standardized"] | None = None
    """Of the images."""
    batch_norm: bool | None = None
    """After each layer."""
    dropout: float | None = None
    """Of maps and hidden units."""
    domain_width: int | None = None
    """Hidden units of the domain classifier."""
    initialization: Literal["pytorch", "he"] | None = None
    """Of the weights."""
    passes: Literal["separate", "concatenated"] | None = None
    """Source and target one after the other, or in one batch."""
    optimizer: Literal["adam", "sgd"] | None = None
    """Adam or SGD."""
    lr: float | None = None
    """Learning rate at the start."""
    momentum: float | None = None
    """SGD's, or Adam's first decay."""
    decay: Literal["none", "ganin", "cosine"] | None = None
    """Of the learning rate."""
    average_decay: float | None = None
    """Of the average of the weights; 0 for none."""
    pseudo_label_rounds: int = 0
    """Rounds of self-training afterwards."""
    pseudo_labels: Literal["rounds", "mixed"] = "rounds"
    """Labels frozen for a round, or made in each batch."""
    pseudo_label_epochs: int = 3
    """Epochs of a round."""
    threshold: float = 0.9
    """Least probability of a pseudo-label."""

    def needs(self) -> tuple[str, ...]:
        """Return both sets of the pair."""
        return tuple(self.pair.split(":"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pseudo_label_rounds < 0 or self.pseudo_label_epochs < 1:
            raise ValueError("--pseudo-label-rounds is at least 0 and --pseudo-label-epochs at least 1")
        if self.ablation and self.network != "paper":
            raise ValueError("--ablation changes the paper's recipe; add --network paper")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold lies between 0 and 1, got {self.threshold}")
        if self.domain_width is not None and self.domain_width < 1:
            raise ValueError(f"--domain-width is at least 1, got {self.domain_width}")
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"--seeds are at least 0, got {min(self.seeds)}")
        check_part(self.part, self.overwrite)
        if self.pseudo_label_rounds and self.labelled == "target":
            raise ValueError("--pseudo-label-rounds after training on the target's labels proves nothing")
        if self.labelled == "target" and self.adapt:
            raise ValueError("--labelled target is the upper bound, with nothing to adapt; add --no-adapt")

    def row(self) -> str:
        """Return which row of the table is asked for."""
        if not self.adapt:
            return "target-trained" if self.labelled == "target" else "source-only"
        return "dann" if self.reversal else "no-reversal"


# Flags that say what is trained besides, which no single row hangs on, as rows have them.
NOT_OF_ROWS: dict[str, Any] = {"compare": ()} | {
    name: getattr(Args, name) for name in ("seeds", "ablation", "part", *PSEUDO_LABELS)
}


def digit_pair(args: Args) -> "DomainPairDataModule":
    """Return the data module of a pair of digit sets by name."""
    from datamodules.domain_pair import DomainPairDataModule
    from datamodules.mnist import MNISTDataModule
    from datamodules.mnist_m import MNISTMDataModule
    from datamodules.usps import USPSDataModule

    reading: dict[str, Any] = {"batch_size": args.batch_size, "image_size": 28}
    sets: dict[str, Domain] = {
        "mnist": MNISTDataModule(args.data_dir, channels=3, **reading),
        "mnist-m": MNISTMDataModule(args.data_dir, **reading),
        "usps": USPSDataModule(args.data_dir, channels=3, **reading),
    }
    names = args.pair.split(":")
    if len(names) != 2 or names[0] == names[1] or not set(names) <= set(sets):
        raise ValueError(
            f"--pair is two of {', '.join(sets)} with a colon between, such as mnist:usps, got {args.pair}"
        )
    return DomainPairDataModule(sets[names[0]], sets[names[1]], batch_size=args.batch_size)


def module_flags(args: Args) -> dict[str, Any]:
    """Return the keywords of `DANNModule` that follow from the flags."""
    from rdfia.adaptation.dann import PAPER

    names = ("scaling", "batch_norm", "dropout", "domain_width", "initialization", "passes", "optimizer")
    names += ("lr", "momentum", "decay", "average_decay")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    recipe = PAPER if args.network == "paper" else {}
    return recipe | given | {"schedule": args.schedule, "strength": args.strength, **ROWS[args.row()]}


def train(
    args: Args,
    module: "DANNModule",
    digits: "DomainPairDataModule",
    data: dict[str, Any],
    *,
    select: bool,
) -> tuple[dict[str, float], "lightning.Trainer"]:
    """Train one row with one seed, in a folder of its own; leave the last epoch's weights in ``module``.

    Returns:
        Test scores of the last epoch, if ``select`` also target_accuracy of the epochs that each of
        `SELECTIONS` chooses; the trainer.
    """
    from lightning.pytorch.callbacks import ModelCheckpoint

    from rdfia.engine import training, wandb_run

    folder = training.open_run(args, module, data, may_change=training.MAY_CHANGE_BUT_LENGTH)
    wandb_run.finish_last()  # that of the row before
    stems = {name: "best" if name == "source" else f"best_{name}" for name in SELECTIONS if select}
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
    if not args.fast_dev_run:
        for name, path in best.items():
            tested = trainer.test(module, digits, ckpt_path=path, weights_only=True, verbose=False)
            scores[f"target_accuracy_by_{name}"] = merged(tested)["target_accuracy"]
    last: dict[str, Any] = {}
    if not args.fast_dev_run:
        last = {"ckpt_path": folder / "checkpoints" / "last.ckpt", "weights_only": True}
    return scores | merged(trainer.test(module, digits, verbose=False, **last)), trainer


def statistics_alone(module: "DANNModule", digits: "DomainPairDataModule") -> "DANNModule":
    """Return a copy of a network trained on the source, with BatchNorm's statistics of the target.

    They are those of its training images; no label is looked at.
    """
    import copy

    import torch

    from rdfia.adaptation.network import reestimate_statistics

    target, other = digits.target.train_data, copy.deepcopy(module)
    batches = torch.split(torch.arange(len(target)), 1000)
    reestimate_statistics(
        other.evaluated, (target[numbers][0].to(module.device) for numbers in batches if len(numbers) > 1)
    )
    return other


def merged(tested: Any) -> dict[str, float]:
    """Return the scores that a test found, whichever loader Lightning lists them under."""
    return {name.split("/")[1]: value for part in tested for name, value in part.items()}


def self_train(
    args: Args, adapted: "DANNModule", digits: "DomainPairDataModule", data: dict[str, Any]
) -> tuple[dict[str, float], "DANNModule", "lightning.Trainer"]:
    """Train on pseudo-labels in rounds, or on mixed batches; return scores, last module and trainer."""
    import lightning

    from rdfia.adaptation.pseudo_labels import PseudoLabelModule, confident
    from rdfia.transfer.features import weights_hash

    scores, module, seconds = {}, adapted, 0.0
    target = digits.target.train_data
    for number in range(1, args.pseudo_label_rounds + 1):
        if args.pseudo_labels == "rounds":
            least = 0.0 if args.fast_dev_run else args.threshold
            balanced = not args.fast_dev_run
            numbers, labels = confident(outputs(module, target)[1], least, balanced=balanced)
            if len(numbers) < args.batch_size:
                first = "lower it" if number == 1 else f"take --pseudo-label-rounds {number - 1}"
                raise ValueError(
                    f"{len(numbers)} pseudo-labels are left at --threshold {args.threshold} with as many of "
                    f"each class, fewer than a batch of {args.batch_size}; {first}, or adapt for longer "
                    "under another --name"
                )
            digits.pseudo_label(numbers, labels)
            scores[f"round_{number}_coverage"] = len(numbers) / len(target)
            right = (target.labels[numbers.to(target.labels.device)].cpu() == labels).float().mean()
            scores[f"round_{number}_label_accuracy"] = right.item()
        lightning.seed_everything((args.seed + 1000 * number) % 2**32, workers=True, verbose=False)
        student = PseudoLabelModule(
            form=args.pseudo_labels, threshold=args.threshold, seed=args.seed, **module_flags(args)
        )
        student.begin_with(module)
        name = f"{args.name}_round_{number}"
        # Not how many rounds there are, so that more can be added.
        changes = {"name": name, "max_epochs": args.pseudo_label_epochs, "pseudo_label_rounds": 0}
        again = dataclasses.replace(args, **changes)
        # What the round hangs on besides its flags: it must not go on from a student of another teacher.
        taught = data | {"teacher": weights_hash(module.evaluated)}
        tested, trainer = train(again, student, digits, taught, select=True)
        seconds += tested.pop("seconds")
        scores |= {f"round_{number}_target_accuracy": tested["target_accuracy"]}
        scores |= tested
        module = student
    return scores | {"seconds": seconds}, module, trainer


def main(args: Args) -> dict[str, Any]:
    """Train all rows with all seeds, test, draw; return the content of results.json."""
    # Imported here, so that --help does not wait for torch.
    import lightning

    from rdfia.adaptation import embeddings
    from rdfia.adaptation.dann import DANNModule
    from rdfia.adaptation.scores import information
    from rdfia.common import plots
    from rdfia.engine import devices, errors, runs, training, wandb_run

    args = devices.settle(args)
    asked = args.row()
    rows = {row: ROWS[row] for row in args.compare if row != asked}
    if args.ablation:
        rows |= {
            row: changes for row, changes in ABLATION.items() if changes != {"precision": args.precision}
        }
    rows[asked] = ROWS[asked]  # last, for the pseudo-labels
    seeds = list(args.seeds or (args.seed,))
    digits = digit_pair(args)
    digits.prepare_data()
    digits.setup()
    digits.train_dataloader()  # says now if a batch is too large
    data = digits.describe()
    # Rows and rounds are added, and look after themselves.
    free = training.MAY_CHANGE_BUT_LENGTH | NOT_OF_ROWS.keys()
    folder = training.open_run(args, DANNModule(**module_flags(args)), data, may_change=free)
    images = {"source": digits.source.test_data, "target": digits.target.test_data}
    # Drawn at random: the first half of MNIST's test set is cleaner than the second.
    size = 64 if args.fast_dev_run else 2000
    drawn = {name: domain.part(embeddings.sample(len(domain), size)) for name, domain in images.items()}

    def looked_at(module: DANNModule) -> dict[str, float]:
        """Return how far apart the domains' features are, and the score that can choose a row."""
        module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU after a test
        features = [outputs(module, some, source=name == "source")[0] for name, some in drawn.items()]
        told = outputs(module, digits.target.train_data)[1]
        return {
            "a_distance": embeddings.proxy_a_distance(*features),
            # Of training images, and without labels: a recipe may be chosen by it.
            "target_train_information": float(information(told)),
        }

    found: dict[str, dict[int, dict[str, float]]] = {}  # scores by row and seed
    notes = ["target_accuracy_by_oracle chooses the epoch by target labels: for comparison only"]
    modules: dict[str, DANNModule] = {}  # of the first seed, for the figures
    mine = part_of([(seed, row) for seed in seeds for row in rows], args.part)
    taught = {flag: getattr(args, flag) for flag in PSEUDO_LABELS}
    for seed in seeds:
        digits.seed, digits.pseudo_labelled = seed, None
        for row, changes in rows.items():
            if (seed, row) not in mine:
                continue
            own = {"name": runs.row_name(row, seed), "output_dir": folder, "seed": seed, "overwrite": False}
            part = dataclasses.replace(args, **own, **NOT_OF_ROWS, **changes)
            lightning.seed_everything(seed, workers=True, verbose=False)
            module, named = DANNModule(**module_flags(part)), row
            try:
                scores, trainer = train(part, module, digits, data, select=row in ROWS)
                found.setdefault(row, {})[seed] = scores | looked_at(module)
                if row in ROWS:
                    modules.setdefault(row, module)
                if row == "source-only" and module.hparams["batch_norm"]:
                    other = statistics_alone(module, digits)
                    tested = merged(trainer.test(other, digits, verbose=False))
                    found.setdefault(STATISTICS_ALONE, {})[seed] = tested | looked_at(other)
                if row == asked and args.pseudo_label_rounds:
                    named = "pseudo-labels"
                    teacher = dataclasses.replace(part, **taught)
                    scores, student, trainer = self_train(teacher, module, digits, data)
                    found.setdefault(named, {})[seed] = scores | looked_at(student)
                    modules.setdefault(named, student)
            except errors.Diverged as error:  # a row of the table that says so
                if not (found or len(mine) > 1):
                    raise
                print(error)
                notes.append(f"{named}, seed {seed}: diverged")
                found.setdefault(named, {})[seed] = {"target_accuracy": math.nan}
    if args.part is not None:
        return {}
    trained = [scores for one in found.values() for scores in one.values() if "seconds" in scores]
    if not trained:
        raise errors.Diverged(f"all rows diverged, see the folders in {folder}")
    if not trainer.is_global_zero:
        return {}

    metrics = {
        f"{row}/{name}": [by_seed.get(seed, {}).get(name, math.nan) for seed in seeds]
        for row, by_seed in found.items()
        for name in dict.fromkeys(name for scores in by_seed.values() for name in scores)
    }
    if any(module.hparams["batch_norm"] for module in modules.values()):
        notes.append("each domain is scored, and looked at, under the BatchNorm statistics kept of it")
    if args.pseudo_label_rounds:
        notes.append("round_n_label_accuracy uses target labels to count only")
    size = 20 if args.fast_dev_run else 500
    if modules:  # not of an ablation of which the reference row diverged
        draw(folder, trainer, folder / f"{asked}_seed_{seeds[0]}", modules, images, seeds[0], size)
    accuracies = {
        name.split("/")[0]: statistics.fmean(filter(math.isfinite, values))
        for name, values in metrics.items()
        if name.endswith("/target_accuracy") and any(map(math.isfinite, values))
    }
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
        wall_seconds=sum(scores["seconds"] for scores in trained),
        notes=notes,
    )
    wandb_run.finish_last()
    columns = ("source_loss", "source_accuracy", "target_loss", "target_accuracy", "a_distance")
    print(f"{'':33}" + "".join(f"{column.replace('_', ' '):>18}" for column in columns))
    for row in found:
        shown = [results["metrics"].get(f"{row}/{column}") for column in columns]
        print(f"{row:33}" + "".join(f"{'' if value is None else runs.spread(value):>18}" for value in shown))
    written = f"results.json, figures/ and a folder for each training in {folder}"
    print("a dry run, nothing kept" if args.fast_dev_run else written)
    return results


if __name__ == "__main__":
    run_script(main, Args)
