"""Train linear SVMs on features of a frozen CNN on 15 Scene: C by cross-validation, all layers in one pass.

Example: python scripts/train_svm.py --data-dir data --backbone squeezenet1_1 --layers fire5 fire9 --splits 10
"""

from dataclasses import dataclass
from typing import Any, Literal

from rdfia.command_line import TrainerArgs, run_script


@dataclass(frozen=True)
class Args(TrainerArgs):
    """Train linear SVMs on features of a frozen CNN on 15 Scene; C by cross-validation on train."""

    name: str = "svm"
    """Name of the run folder."""
    batch_size: int = 32
    """Images in a forward pass."""
    backbone: str = "vgg16"
    """Architecture, see rdfia.backbones."""
    weights: str = "imagenet"
    """`imagenet`, `random` or a weight file."""
    layers: tuple[str, ...] = ("pool5",)
    """Layers by common name; each gets an SVM of its own."""
    scaling: Literal["l2", "raw"] = "l2"
    """Features divided by their length, or as they are."""
    multi_class: Literal["ovo", "ovr"] = "ovo"
    """All pairs of classes, or one against the rest."""
    folds: int = 5
    """Of the cross-validation."""
    splits: int = 0
    """Seeded splits of 100 per class, besides the published one."""
    shuffle_labels: bool = False
    """Control: shuffle the training labels; accuracy must fall to chance."""


def main(args: Args) -> dict[str, Any]:
    """Extract, choose C, fit, test and draw; return the content of results.json."""
    # Imported here, so that --help does not wait for torch.
    import time

    import torch
    from sklearn.metrics import confusion_matrix

    from datamodules.files import data_root
    from datamodules.scene15 import CLASSES, TRAIN_PER_CLASS, Scene15DataModule, audit, split_by_seed
    from rdfia import plots, runs, training, wandb_run
    from rdfia.backbones import load_backbone
    from rdfia.feature_extractor_svm import extract_features
    from rdfia.linear_svm import fit_svm, gram_matrix, scale_gram, try_svm

    if training.process_count(args) > 1:
        raise ValueError("train_svm.py runs on one device; use --devices 1")
    scenes = Scene15DataModule(
        args.data_dir,
        batch_size=args.batch_size,
        image_size=64 if args.fast_dev_run else 224,
        train_on_val=True,
        shuffle=False,
    )
    scenes.prepare_data()
    backbone = load_backbone(args.backbone, weights=args.weights, data_dir=data_root(args.data_dir))
    for layer in args.layers:
        backbone.find_layer(layer)
    scenes.setup()
    folder = training.open_run(args, backbone, data := scenes.describe())
    trainer = training.make_trainer(args, folder, monitor="val/accuracy", mode="max", callbacks=[])
    device = trainer.strategy.root_device
    # Convolutions are faster with the channels last; bf16 halves the time again.
    backbone = backbone.to(device, memory_format=torch.channels_last)

    started = time.perf_counter()
    loaders = (scenes.train_dataloader(), scenes.test_dataloader())
    batches = ((images.to(device), labels) for loader in loaders for images, labels in loader)
    with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16-mixed"):
        features, labels = extract_features(backbone, batches, args.layers)
    metrics = {"extraction_seconds": [time.perf_counter() - started]}
    print(f"features of {len(labels):,} images: {metrics['extraction_seconds'][0]:.0f} s", flush=True)

    train, test = torch.arange(len(labels)).split([len(scenes.train_data), len(scenes.test_data)])
    if args.shuffle_labels:
        generator = torch.Generator().manual_seed(args.seed)
        labels[train] = labels[train][torch.randperm(len(train), generator=generator)]
    kept = set(audit(scenes.train_files, scenes.test_files, drop=True)[0])
    unseen = torch.tensor([item in kept for item in scenes.test_files])
    choice = {"folds": args.folds, "seed": args.seed, "multi_class": args.multi_class}
    rows = list(enumerate(labels.tolist()))
    for layer in args.layers:
        gram = scale_gram(gram_matrix([features[layer]]), args.scaling)
        started = time.perf_counter()
        trial = try_svm(gram, labels, train, test, **choice)
        right = (trial.predictions == labels[test]).double()
        splits = []
        for seed in range(args.splits):
            parts = split_by_seed(rows, TRAIN_PER_CLASS, seed)
            drawn = (torch.tensor([row for row, _ in part]) for part in parts)
            splits.append(try_svm(gram, labels, *drawn, **choice).accuracy)
        found = {
            "features": [float(features[layer].shape[1])],
            "c": [trial.c],
            "cross_validation_accuracy": [trial.cross_validation.mean(1).max().item()],
            "accuracy": [trial.accuracy],
            "accuracy_without_duplicates": [right[unseen].mean().item()],
            "svm_seconds": [time.perf_counter() - started],
            **({"accuracy_over_splits": splits} if splits else {}),
        }
        metrics |= {f"{layer}/{name}": value for name, value in found.items()}
        # Drawn only: C was chosen before any test image was looked at.
        inside, across = gram[train][:, train], gram[test][:, train]
        machines = [fit_svm(inside, labels[train], c, args.multi_class) for c in trial.grid]
        tested = [(svm.predict(across) == labels[test]).double().mean().item() for svm in machines]
        lines = {
            "cross-validation on train": trial.cross_validation.mean(1).tolist(),
            "test (a plot only)": tested,
        }
        curve = {"accuracy": {name: (trial.grid, values) for name, values in lines.items()}}
        title = f"{args.backbone} {layer}: {trial.accuracy:.4f}"
        runs.save_figure(
            folder, f"c_{layer}", plots.curves(curve, x_label="C", log_x=True, title=title), trainer
        )
        counts = confusion_matrix(labels[test], trial.predictions, labels=range(len(CLASSES)))
        confusion = plots.confusion_matrix(torch.from_numpy(counts), CLASSES, title=title)
        runs.save_figure(folder, f"confusion_{layer}", confusion, trainer)
        print(f"{layer:12}accuracy {trial.accuracy:.4f}, C {trial.c:.3g} by cross-validation", flush=True)
    results = runs.write_results(
        folder,
        trainer,
        technique="svm",
        seeds=[args.seed],
        data=data,
        metrics=metrics,
        selection=f"C by {args.folds}-fold cross-validation on the training images",
        wall_seconds=metrics["extraction_seconds"][0],
        notes=["accuracy_without_duplicates leaves out test images that train holds, byte for byte"],
    )
    wandb_run.finish(trainer)
    print("a dry run, nothing kept" if args.fast_dev_run else f"results.json, figures/ in {folder}")
    return results


if __name__ == "__main__":
    run_script(main, Args)
