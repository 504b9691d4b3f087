"""Train linear SVMs on features of frozen CNNs: any layers, C by cross-validation; 15 Scene, or MNIST.

Example: python scripts/train_svm.py --data-dir data --features vgg16/conv5_3 vgg16/pool5 --splits 10
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rdfia.engine.args import TrainerArgs
from rdfia.engine.cli import run_script


@dataclass(frozen=True)
class Args(TrainerArgs):
    """Train linear SVMs on features of frozen CNNs; C by cross-validation on train."""

    name: str = "svm"
    """Name of the run folder."""
    batch_size: int = 32
    """Images in a forward pass."""
    dataset: Literal["scene15", "mnist"] = "scene15"
    """What is classified."""
    features: tuple[str, ...] = ("vgg16/pool5",)
    """Network/layer, see rdfia.common.backbones; each gets an SVM."""
    together: bool = False
    """One more SVM on all features side by side."""
    weights: str = "imagenet"
    """`imagenet`, `random` or a file for the one network."""
    image_size: int = 224
    """Side of the images."""
    channels: Literal[3, 1] = 3
    """Repeat grey images to 3, or add up the first filters' colours."""
    grids: tuple[int, ...] = ()
    """Average maps over such grids; else whole maps."""
    flip: bool = False
    """Average the features of image and mirror image."""
    scaling: Literal["l2", "power", "standard", "raw"] = "l2"
    """Of features, see FeatureExtractorSVM."""
    multi_class: Literal["ovo", "ovr"] = "ovo"
    """All pairs of classes, or one against the rest."""
    folds: int = 5
    """Of the cross-validation."""
    splits: int = 0
    """Seeded splits of 100 per class, besides the published one."""
    components: tuple[int, ...] = (16, 64, 256, 1024)
    """Numbers of principal components to try on the best."""
    shuffle_labels: bool = False
    """Control: shuffle the training labels; accuracy must fall to chance."""
    memory_gb: float = 6.0
    """For features; those of wider layers are streamed."""
    cache: bool = True
    """Keep computed features for the next run."""
    cache_dir: Path = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rdfia" / "features"
    """Where they are kept."""

    def needs(self) -> tuple[str, ...]:
        """Return what is classified."""
        return (self.dataset,)


def layers_by_network(args: Args) -> dict[str, list[str]]:
    """Return which layers of which networks ``--features`` names."""
    if not args.features:
        raise ValueError("--features is empty; it takes network/layer, such as vgg16/pool5")
    if args.image_size < 32:
        raise ValueError(f"--image-size is at least 32, got {args.image_size}")
    wanted: dict[str, list[str]] = {}
    for item in args.features:
        network, slash, layer = item.partition("/")
        if not slash:
            raise ValueError(f"--features takes network/layer, such as vgg16/pool5, got {item!r}")
        wanted.setdefault(network, []).append(layer)
    if args.weights not in ("imagenet", "random") and len(wanted) > 1:
        raise ValueError(f"--weights {args.weights} is one file, and --features names {len(wanted)} networks")
    if any(cells < 1 for cells in args.grids):
        raise ValueError(f"--grids have at least 1 cell on each side, got {' '.join(map(str, args.grids))}")
    if args.splits and args.dataset == "mnist":
        raise ValueError("--splits draws 100 images a class of 15 Scene; leave it out")
    if args.splits and (args.scaling == "standard" or args.shuffle_labels):
        flag = "--shuffle-labels" if args.shuffle_labels else "--scaling standard"
        raise ValueError(f"{flag} is about the published training images; leave --splits out")
    if args.compile or args.profile:
        raise ValueError("--compile and --profile are for trainings; leave them out")
    if args.precision == "16-mixed":
        raise ValueError("features are computed in --precision float32 or bf16-mixed, not 16-mixed")
    return wanted


def main(args: Args) -> dict[str, Any]:
    """Extract, choose C, fit, test and draw; return the content of results.json."""
    layers_by_network(args)  # says what is wrong before torch is imported
    # Imported here, so that --help does not wait for torch.
    import time

    import svm_figures
    import torch

    from datamodules.files import data_root, say
    from datamodules.mnist import MNISTDataModule
    from datamodules.scene15 import CLASSES, TRAIN_PER_CLASS, Scene15DataModule, audit, split_by_seed
    from datamodules.tensors import ImageTensors
    from rdfia.common.backbones import load_backbone
    from rdfia.common.memory import give_back_memory
    from rdfia.engine import devices, runs, training, wandb_run
    from rdfia.transfer.features import compute_features, layer_gram, open_layers
    from rdfia.transfer.linear_svm import learning_curve, principal_components, try_svm
    from rdfia.transfer.svm_module import FeatureExtractorSVM

    args = devices.settle(args)
    wanted = layers_by_network(args)
    size = 64 if args.fast_dev_run else args.image_size
    scenes, classes = Scene15DataModule(args.data_dir, image_size=size, train_on_val=True), CLASSES
    if args.dataset == "mnist":
        scenes = MNISTDataModule(args.data_dir, image_size=size, train_on_val=True)
        classes = tuple("0123456789")
    scenes.prepare_data()
    where: dict[str, Any] = {
        "weights": args.weights,
        "data_dir": data_root(args.data_dir),
        "channels": args.channels,
    }
    for network, names in wanted.items():
        backbone = load_backbone(network, **where)
        for name in names:
            backbone.find_layer(name)  # a wrong name is said now
    scenes.setup()
    smallest = int(scenes.train_data.labels.bincount().min())
    if not 2 <= args.folds <= smallest:
        raise ValueError(f"--folds {args.folds}: the smallest class has {smallest} training images")
    count = len(scenes.train_data) + len(scenes.test_data)
    needed = 16e-9 * count**2  # in float64, and the part of the training images once more
    if needed > args.memory_gb:
        raise ValueError(
            f"{count:,} images have inner products of {needed:.1f} GB; take fewer, such as "
            "--data-dir sample, or a larger --memory-gb"
        )
    data = scenes.describe()
    if results := training.finished(args, backbone, data):  # its times are not those of cached features
        return results
    folder = training.open_run(args, backbone, data)
    trainer = training.make_trainer(args, folder, monitor="val/accuracy", mode="max", callbacks=[])

    pixels = torch.cat([scenes.train_data.images, scenes.test_data.images])
    labels = torch.cat([scenes.train_data.labels, scenes.test_data.labels])
    photographs = ImageTensors(pixels, labels.clone(), channels=args.channels)
    train, test = torch.arange(len(labels)).split([len(scenes.train_data), len(scenes.test_data)])
    if args.shuffle_labels:
        generator = torch.Generator().manual_seed(args.seed)
        labels[train] = labels[train][torch.randperm(len(train), generator=generator)]

    def backbone_of(network: str) -> Any:
        torch.manual_seed(args.seed)  # for random weights
        return load_backbone(network, **where).to(
            trainer.strategy.root_device, memory_format=torch.channels_last
        )

    def images(places: torch.Tensor) -> torch.Tensor:
        # Convolutions are faster with the channels last.
        return photographs[places][0].to(trainer.strategy.root_device, memory_format=torch.channels_last)

    # 1. Inner products of the features of all images, layer by layer.
    budget = {
        "memory": args.memory_gb * 1e9,
        "cache": args.cache_dir.expanduser() if args.cache and not args.fast_dev_run else None,
    }
    pass_options: dict[str, Any] = {
        "batch_size": args.batch_size,
        "dtype": torch.bfloat16 if args.precision == "bf16-mixed" else torch.float32,
        "grids": args.grids,
        "flip": args.flip,
    }
    options: dict[str, Any] = {"images_hash": data["sha256"], **pass_options, **budget}
    began = time.perf_counter()
    metrics: dict[str, list[float]] = {}
    grams: dict[str, torch.Tensor] = {}
    with training.all_processes(trainer):
        for network, names in wanted.items():
            backbone = backbone_of(network)
            layers = open_layers(backbone, images, len(labels), names, **options)
            started = time.perf_counter()
            some = torch.arange(min(64, len(labels)))  # timed by itself: features may come from the cache
            compute_features(backbone, images, some, names, **pass_options)
            metrics[f"{network}/milliseconds_an_image"] = [1000 * (time.perf_counter() - started) / len(some)]
            for name in sorted(layers, key=lambda name: not layers[name].in_memory):
                layer = layers.pop(name)  # makes room for the next, the wide ones last
                started = time.perf_counter()
                gram = layer_gram(layer, len(labels), args.scaling, train, **budget)
                metrics[f"{network}/{name}/features"] = [float(layer.width)]
                metrics[f"{network}/{name}/gram_seconds"] = [time.perf_counter() - started]
                grams[f"{network}/{name}"] = gram
                del layer
                give_back_memory()
                width = int(metrics[f"{network}/{name}/features"][0])
                seconds = time.perf_counter() - began
                say(f"{network}/{name}: {width:,} features an image, after {seconds:.0f} s")
    if not trainer.is_global_zero:
        return {}
    if args.together:
        # Inner products of vectors set side by side add up.
        grams["together"] = torch.stack(list(grams.values())).sum(0)

    # 2. An SVM for each, C by cross-validation on the training images.
    choice: dict[str, Any] = {"folds": args.folds, "seed": args.seed, "multi_class": args.multi_class}
    # Digits are all different.
    files = scenes.train_files + scenes.test_files if args.dataset == "scene15" else []

    def unseen(train: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
        """Tell which test images no training image is a copy of."""
        if not files:
            return torch.ones(len(test), dtype=torch.bool)
        inside, outside = ([files[place] for place in part.tolist()] for part in (train, test))
        kept = set(audit(inside, outside, drop=True)[0])
        return torch.tensor([item in kept for item in outside])

    splits = []
    for seed in range(args.splits):
        # in the order of Scene15DataModule(split_seed=seed)
        rows = sorted(enumerate(labels.tolist()), key=lambda row: (row[1], files[row[0]][0].name))
        split = split_by_seed(rows, TRAIN_PER_CLASS, seed)
        splits.append([torch.tensor([place for place, _ in part]) for part in split])
    distinct = [unseen(*places) for places in [(train, test), *splits]]
    trials = {}
    for item, gram in grams.items():
        started = time.perf_counter()
        trial = trials[item] = try_svm(gram, labels, train, test, **choice)
        metrics[f"{item}/svm_seconds"] = [time.perf_counter() - started]
        metrics[f"{item}/c"] = [trial.c]
        by_c = trial.cross_validation.mean(1).tolist()
        metrics[f"{item}/cross_validation_accuracy"] = [max(by_c)]
        for c, value in zip(trial.grid, by_c, strict=True):
            metrics[f"{item}/cross_validation_accuracy_at_c_{c:.3g}"] = [value]
        metrics[f"{item}/accuracy"] = [trial.accuracy]
        right = (trial.predictions == labels[test]).double()
        metrics[f"{item}/accuracy_without_duplicates"] = [right[distinct[0]].mean().item()]
        print(f"{item:36} accuracy {trial.accuracy:.4f}, C {trial.c:.3g} by cross-validation", flush=True)
        for (part, rest), new in zip(splits, distinct[1:], strict=True):
            drawn = try_svm(gram, labels, part, rest, **choice)
            right = (drawn.predictions == labels[rest]).double()
            for name, mean in {"": right.mean(), "_without_duplicates": right[new].mean()}.items():
                metrics.setdefault(f"{item}/accuracy_over_splits{name}", []).append(mean.item())
        svm_figures.draw_trial(
            folder, trainer, item, classes, args.multi_class, gram, labels, train, test, trial
        )

    # 3. The row that cross-validation likes best, looked at more closely.
    best = max(trials, key=lambda item: metrics[f"{item}/cross_validation_accuracy"])
    gram, trial = grams[best], trials[best]
    metrics["best_cross_validation_accuracy"] = metrics[f"{best}/cross_validation_accuracy"]
    sizes = [size for size in (5, 10, 20, 40, 70) if args.folds <= size < smallest]
    for size, accuracies in learning_curve(gram, labels, train, test, sizes, **choice).items():
        metrics[f"{best}/accuracy_from_{size}_per_class"] = accuracies
    components = [count for count in args.components if 0 < count < len(train)]
    for count in components:
        started = time.perf_counter()
        reduced = principal_components(gram, train, count)
        accuracy = try_svm(reduced @ reduced.T, labels, train, test, **choice).accuracy
        metrics[f"{best}/accuracy_from_{count}_components"] = [accuracy]
        metrics[f"{best}/seconds_with_{count}_components"] = [time.perf_counter() - started]
    svm_figures.draw_comparison(folder, trainer, list(trials), metrics)
    svm_figures.draw_best(folder, trainer, best, metrics, sizes, components)
    svm_figures.draw_worst_confusions(folder, trainer, classes, gram, photographs, labels, train, test, trial)
    notes = ["accuracy_without_duplicates leaves out test images that train holds, byte for byte"]
    notes.append(f"C is chosen by {args.folds} folds of features scaled, and reduced, on all training images")
    network, _, name = best.partition("/")
    if len(wanted) == 1 or name:
        network = next(iter(wanted)) if best == "together" else network
        names = wanted[network] if best == "together" else [name]
        torch.manual_seed(args.seed)
        module = FeatureExtractorSVM(
            backbone=network,
            layers=names,
            **where,
            grids=args.grids,
            flip=args.flip,
            scaling=args.scaling,
            c=trials[best].c,
            multi_class=args.multi_class,
        )
        layers = open_layers(backbone_of(network), images, len(labels), names, **options)
        if 4 * len(train) * sum(layer.width for layer in layers.values()) < budget["memory"]:
            scaled = [module.scaled(layer.features(train).float().cpu()) for layer in layers.values()]
            module.fit_features(torch.cat(scaled, 1), labels[train])
            training.save_module(trainer, module, folder)
            del layers
        else:
            notes.append(f"no checkpoint: the training features of {best} take more than --memory-gb")
    else:
        notes.append("no checkpoint: the best row joins several networks")
    results = runs.write_results(
        folder,
        trainer,
        technique="svm",
        seeds=[args.seed],
        data=data,
        metrics=metrics,
        selection=f"C by {args.folds}-fold cross-validation on the training images",
        wall_seconds=time.perf_counter() - began,
        notes=notes,
    )
    wandb_run.finish_last()
    print(
        "a dry run, nothing kept"
        if args.fast_dev_run
        else f"results.json, figures/, checkpoints/ in {folder}"
    )
    return results


if __name__ == "__main__":
    run_script(main, Args)
