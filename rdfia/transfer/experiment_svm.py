"""The experiment with SVMs: inner products of features, C by cross-validation, one test, a closer look."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from datamodules import open_dataset
from datamodules.files import say, weights_root
from datamodules.folder import ImageFolderDataModule
from datamodules.in_memory import InMemoryDataModule
from datamodules.tensors import ImageTensors, joined
from rdfia.common.backbones import Backbone, load_backbone
from rdfia.common.features import compute_features
from rdfia.common.memory import free_memory, give_back_memory
from rdfia.engine import devices, runs, training, wandb_run
from rdfia.transfer import experiment_svm_figures as figures
from rdfia.transfer.config import SVMArgs, layers_by_network
from rdfia.transfer.features import layer_gram, open_layers
from rdfia.transfer.gram import principal_components
from rdfia.transfer.linear_svm import Trial, balanced_accuracy, learning_curve, try_svm
from rdfia.transfer.svm_module import FeatureExtractorSVM

Metrics = dict[str, list[float]]


@dataclass(frozen=True)
class Pictures:
    """What is classified: all images in memory, those for training first."""

    photographs: ImageTensors
    labels: Tensor
    """(N,), those of training images shuffled for the control."""
    train: Tensor
    """Places of the training images."""
    test: Tensor
    """Places of the test images."""
    classes: tuple[str, ...]
    data: dict[str, Any]
    """Their description."""
    resized: Any = "squash"
    """How they became square."""
    source: ImageFolderDataModule | None = None
    """Where they are from, if they are files; digits are all different."""

    @property
    def smallest(self) -> int:
        """How many training images the smallest class has."""
        return int(self.labels[self.train].bincount(minlength=len(self.classes)).min())

    @property
    def places(self) -> np.ndarray:
        """Places of the images among all files of their source."""
        assert self.source is not None
        return np.concatenate([self.source.train_places, self.source.test_places])

    def unseen(self, train: Tensor, test: Tensor) -> Tensor:
        """Return of each test place whether no training image is a copy of it, (N,) bool."""
        if self.source is None:
            return torch.ones(len(test), dtype=torch.bool)
        hashes = self.source.hashes[self.places]
        return torch.from_numpy(~np.isin(hashes[test.numpy()], hashes[train.numpy()]))

    def split(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return the indices of another split, as the data module has it with ``split_seed=seed``."""
        assert self.source is not None
        order = np.argsort(self.places)  # as they are listed
        places = self.places[order]
        drawn = self.source.draw(self.source.files[places], self.source.hashes[places], seed)
        train, test = (torch.from_numpy(order[part]) for part in drawn)
        return train, test


class Extraction:
    """How features of the images are computed: networks, passes, what may be kept.

    Args:
        args: The flags.
        pictures: The images.
        device: Where the networks are.
    """

    def __init__(self, args: SVMArgs, pictures: Pictures, device: torch.device) -> None:
        self.args, self.pictures, self.device = args, pictures, device
        photographs = pictures.photographs
        memory = args.memory_gb * 1e9 - (0 if photographs.mapped else photographs.pixels.nbytes)
        if device.type != "cpu":
            # Bytes go there once, a quarter of it at most; features get what is left, but for a fifth.
            if photographs.pixels.nbytes < free_memory(device) / 4:
                photographs = photographs.to(device)
            memory = min(args.memory_gb * 1e9, 0.8 * free_memory(device))
        self.photographs = photographs
        self.budget: dict[str, Any] = {
            "memory": memory,
            "cache": args.cache_dir.expanduser() if args.cache and not args.fast_dev_run else None,
        }
        self.passes: dict[str, Any] = {
            "batch_size": args.batch_size,
            "dtype": torch.bfloat16 if args.precision == "bf16-mixed" else torch.float32,
            "grids": args.grids,
            "flip": args.flip,
        }

    def network(self, name: str) -> Backbone:
        """Return a network; one of random weights has the same each time."""
        torch.manual_seed(self.args.seed)
        network = load_backbone(name, **where(self.args))
        return network.to(memory_format=torch.channels_last).to(self.device)

    def images(self, indices: Tensor) -> Tensor:
        """Return images by their indices; convolutions are faster with the channels last."""
        return self.photographs[indices][0].to(self.device, memory_format=torch.channels_last)

    def layers(self, network: Backbone, names: list[str]) -> dict[str, Any]:
        """Return the features of layers of all images, in memory, cached or to be streamed."""
        count = len(self.pictures.labels)
        hashed = {"images_hash": self.pictures.data["sha256"]}
        return dict(open_layers(network, self.images, count, names, **hashed, **self.passes, **self.budget))


def run(args: SVMArgs) -> dict[str, Any]:
    """Extract, choose C, fit, test and draw; return the content of results.json."""
    wanted = layers_by_network(args)
    args = devices.settle(args)
    scenes = data_module(args)
    scenes.prepare_data()
    for network, names in wanted.items():
        backbone = load_backbone(network, **where(args))
        for name in names:
            backbone.find_layer(name)  # a wrong name is said now
    scenes.setup()
    pictures = read(args, scenes)
    check_size(args, pictures)
    if results := training.finished(args, backbone, pictures.data):
        return results  # its times are not those of cached features
    folder = training.open_run(args, backbone, pictures.data)
    trainer = training.make_trainer(args, folder, monitor="val/accuracy", mode="max", callbacks=[])
    extraction = Extraction(args, pictures, trainer.strategy.root_device)
    began = time.perf_counter()
    with training.all_processes(trainer):
        grams, metrics = inner_products(extraction, wanted, began)
    if not trainer.is_global_zero:
        return {}
    trials, tried = try_all(args, pictures, grams, folder, trainer)
    metrics |= tried
    # The row that cross-validation likes best.
    best = max(trials, key=lambda item: metrics[f"{item}/cross_validation_accuracy"])
    metrics["best_cross_validation_accuracy"] = metrics[f"{best}/cross_validation_accuracy"]
    sizes = [size for size in (5, 10, 20, 40, 70) if args.folds <= size < pictures.smallest]
    components = [count for count in args.components if 0 < count < len(pictures.train)]
    metrics |= look_closer(args, pictures, best, grams[best], sizes, components)
    figures.draw_comparison(folder, trainer, trials, metrics)
    figures.draw_best(folder, trainer, best, metrics, sizes, components)
    figures.draw_worst_confusions(
        folder,
        trainer,
        pictures.classes,
        grams[best],
        pictures.photographs,
        pictures.labels,
        pictures.train,
        pictures.test,
        trials[best],
    )
    notes = ["accuracy_without_duplicates leaves out test images that train holds, byte for byte"]
    notes.append(f"C is chosen by {args.folds} folds of features scaled, and reduced, on all training images")
    notes += save_best(extraction, wanted, best, trials[best].c, folder, trainer)
    results = runs.write_results(
        folder,
        trainer,
        technique="svm",
        seeds=[args.seed],
        data=pictures.data,
        metrics=metrics,
        selection=f"C by {args.folds}-fold cross-validation on the training images",
        wall_seconds=time.perf_counter() - began,
        notes=notes,
    )
    wandb_run.finish_last()
    written = f"results.json, figures/, checkpoints/ in {folder}"
    print("a dry run, nothing kept" if args.fast_dev_run else written)
    return results


def where(args: SVMArgs) -> dict[str, Any]:
    """Return where `load_backbone` finds the weights."""
    return {"weights": args.weights, "data_dir": weights_root(args.data_dir), "channels": args.channels}


def data_module(args: SVMArgs) -> InMemoryDataModule:
    """Return the data module of what is classified."""
    size = 64 if args.fast_dev_run else args.image_size
    return open_dataset(
        args.dataset,
        args.data_dir,
        image_size=size,
        channels=args.channels,
        train_on_val=True,
        **args.reading() | {"memory_gb": args.memory_gb / 2},
    )


def read(args: SVMArgs, scenes: InMemoryDataModule) -> Pictures:
    """Return all images of a data module that is set up."""
    photographs = joined(scenes.train_data, scenes.test_data)
    if photographs.channels > args.channels:
        raise ValueError(f"--channels 1 is for grey images, and {args.dataset} is in colour; leave it out")
    photographs.channels = args.channels
    labels = photographs.labels.clone()
    train, test = torch.split(torch.arange(len(labels)), [len(scenes.train_data), len(scenes.test_data)])
    if args.shuffle_labels:
        generator = torch.Generator().manual_seed(args.seed)
        labels[train] = labels[train][torch.randperm(len(train), generator=generator)]
    return Pictures(
        photographs,
        labels,
        train,
        test,
        classes=scenes.classes,
        data=scenes.describe(),
        resized=scenes.resized,
        source=scenes if isinstance(scenes, ImageFolderDataModule) else None,
    )


def check_size(args: SVMArgs, pictures: Pictures) -> None:
    """Check that there are images enough for the folds, and not too many for the memory.

    Raises:
        ValueError: There are not, or too many.
    """
    if pictures.smallest < 2:
        raise ValueError("the smallest class has 1 training image; cross-validation needs 2 of each class")
    if not 2 <= args.folds <= pictures.smallest:
        most = f"{pictures.smallest}, the training images of the smallest class"
        raise ValueError(f"--folds is 2 to {most}; got {args.folds}")
    count = len(pictures.labels)
    needed = 16e-9 * count**2  # in float64, and the part of the training images once more
    if needed > args.memory_gb:
        raise ValueError(
            f"{count:,} images have inner products of {needed:.1f} GB; take fewer with --per-class, where "
            "the data has a choice of it, or --data-dir sample, or a larger --memory-gb"
        )


def inner_products(
    extraction: Extraction, wanted: dict[str, list[str]], began: float
) -> tuple[dict[str, Tensor], Metrics]:
    """Return the inner products (N, N) of the features of all images, layer by layer, and what they cost.

    Args:
        extraction: Computes features.
        wanted: Layers by network.
        began: When the experiment did, for what is said.
    """
    args, pictures, metrics = extraction.args, extraction.pictures, Metrics()
    count, grams = len(pictures.labels), dict[str, Tensor]()
    for network, names in wanted.items():
        backbone = extraction.network(network)
        layers = extraction.layers(backbone, names)
        started = time.perf_counter()
        some = torch.arange(min(64, count))  # timed by itself: features may come from the cache
        compute_features(backbone, extraction.images, some, names, **extraction.passes)
        metrics[f"{network}/milliseconds_an_image"] = [1000 * (time.perf_counter() - started) / len(some)]
        for name in sorted(layers, key=lambda name: not layers[name].in_memory):
            layer = layers.pop(name)  # makes room for the next, the wide ones last
            started = time.perf_counter()
            gram = layer_gram(layer, count, args.scaling, pictures.train, **extraction.budget)
            metrics[f"{network}/{name}/features"] = [float(layer.width)]
            metrics[f"{network}/{name}/gram_seconds"] = [time.perf_counter() - started]
            grams[f"{network}/{name}"] = gram
            width = layer.width
            del layer
            give_back_memory()
            seconds = time.perf_counter() - began
            say(f"{network}/{name}: {width:,} features an image, after {seconds:.0f} s")
    if args.together:
        # Inner products of vectors set side by side add up.
        grams["together"] = torch.stack(list(grams.values())).sum(0)
    return grams, metrics


def try_all(
    args: SVMArgs,
    pictures: Pictures,
    grams: dict[str, Tensor],
    folder: Path,
    trainer: lightning.Trainer,
) -> tuple[dict[str, Trial], Metrics]:
    """Fit an SVM for each, C by cross-validation on the training images; test, and draw what came of it."""
    labels, train, test = pictures.labels, pictures.train, pictures.test
    splits = [pictures.split(seed) for seed in range(args.splits)]
    distinct = [pictures.unseen(*indices) for indices in [(train, test), *splits]]
    trials: dict[str, Trial] = {}
    metrics: Metrics = {}
    for item, gram in grams.items():
        started = time.perf_counter()
        trial = trials[item] = try_svm(gram, labels, train, test, **choice(args))
        metrics[f"{item}/svm_seconds"] = [time.perf_counter() - started]
        metrics[f"{item}/c"] = [trial.c]
        by_c = trial.cross_validation.mean(1).tolist()
        metrics[f"{item}/cross_validation_accuracy"] = [max(by_c)]
        for c, value in zip(trial.grid, by_c, strict=True):
            metrics[f"{item}/cross_validation_accuracy_at_c_{c:.3g}"] = [value]
        metrics[f"{item}/accuracy"] = [trial.accuracy]
        metrics[f"{item}/balanced_accuracy"] = [balanced_accuracy(trial.predictions, labels[test])]
        right = (trial.predictions == labels[test]).double()
        metrics[f"{item}/accuracy_without_duplicates"] = [right[distinct[0]].mean().item()]
        print(f"{item:36} accuracy {trial.accuracy:.4f}, C {trial.c:.3g} by cross-validation", flush=True)
        for (part, rest), new in zip(splits, distinct[1:], strict=True):
            drawn = try_svm(gram, labels, part, rest, **choice(args))
            right = (drawn.predictions == labels[rest]).double()
            for name, mean in {"": right.mean(), "_without_duplicates": right[new].mean()}.items():
                metrics.setdefault(f"{item}/accuracy_over_splits{name}", []).append(mean.item())
            by_class = balanced_accuracy(drawn.predictions, labels[rest])
            metrics.setdefault(f"{item}/balanced_accuracy_over_splits", []).append(by_class)
        if splits:
            over = runs.summarized({"": metrics[f"{item}/accuracy_over_splits"]})[""]
            print(f"{'':36} accuracy {runs.spread(over)} over {len(splits)} other splits", flush=True)
        seen = (gram, pictures.photographs, labels, train, test, trial)
        figures.draw_trial(folder, trainer, item, pictures.classes, svm_options(args), *seen)
    return trials, metrics


def choice(args: SVMArgs) -> dict[str, Any]:
    """Return how C is chosen."""
    return {"folds": args.folds, "seed": args.seed, **svm_options(args)}


def svm_options(args: SVMArgs) -> dict[str, Any]:
    """Return how an SVM is fitted, as `fit_svm` takes it."""
    return {"multi_class": args.multi_class, "balanced": args.balanced}


def look_closer(
    args: SVMArgs, pictures: Pictures, best: str, gram: Tensor, sizes: list[int], components: list[int]
) -> Metrics:
    """Return what fewer training images a class, and fewer numbers an image, do to the best row."""
    labels, train, test, metrics = pictures.labels, pictures.train, pictures.test, Metrics()
    for size, accuracies in learning_curve(gram, labels, train, test, sizes, **choice(args)).items():
        metrics[f"{best}/accuracy_from_{size}_per_class"] = accuracies
    for count in components:
        started = time.perf_counter()
        reduced = principal_components(gram, train, count)
        accuracy = try_svm(reduced @ reduced.T, labels, train, test, **choice(args)).accuracy
        metrics[f"{best}/accuracy_from_{count}_components"] = [accuracy]
        metrics[f"{best}/seconds_with_{count}_components"] = [time.perf_counter() - started]
    return metrics


def save_best(
    extraction: Extraction,
    wanted: dict[str, list[str]],
    best: str,
    c: float,
    folder: Path,
    trainer: lightning.Trainer,
) -> list[str]:
    """Write the best row as a `FeatureExtractorSVM`; return why not, as notes, where it is not one."""
    args, pictures = extraction.args, extraction.pictures
    network, _, name = best.partition("/")
    if len(wanted) > 1 and not name:
        return ["no checkpoint: the best row joins several networks"]
    network = network if name else next(iter(wanted))
    names = [name] if name else wanted[network]
    torch.manual_seed(args.seed)
    module = FeatureExtractorSVM(
        backbone=network,
        layers=names,
        **where(args),
        grids=args.grids,
        flip=args.flip,
        scaling=args.scaling,
        c=c,
        **svm_options(args),
        class_names=pictures.classes,
        image_size=64 if args.fast_dev_run else args.image_size,
        resize=pictures.resized,
    )
    layers = extraction.layers(extraction.network(network), names)
    train = pictures.train
    if 4 * len(train) * sum(layer.width for layer in layers.values()) >= extraction.budget["memory"]:
        return [f"no checkpoint: the training features of {best} take more than --memory-gb"]
    count = len(pictures.classes)
    decisions = count if args.multi_class == "ovr" else count * (count - 1) // 2
    if 8 * decisions * sum(layer.width for layer in layers.values()) >= extraction.budget["memory"]:
        mend = "--multi-class ovr has fewer" if args.multi_class == "ovo" else "name a narrower layer"
        return [f"no checkpoint: {decisions:,} decisions on {best} take more than --memory-gb; {mend}"]
    scaled = [module.scaled(layer.features(train).float().cpu()) for layer in layers.values()]
    module.fit_features(torch.cat(scaled, 1), pictures.labels[train])
    training.save_module(trainer, module, folder)
    return []
