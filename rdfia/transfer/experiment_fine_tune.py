"""The experiment in fine-tuning: train a new head and the network below it, test once, draw."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch

from datamodules import open_dataset
from datamodules.files import weights_root
from datamodules.folder import ImageFolderDataModule
from datamodules.tensors import eval_loader
from rdfia.common import plots
from rdfia.common.figure_style import axis_label
from rdfia.engine import callbacks, devices, resume, runs, training, wandb_run
from rdfia.engine.args import keywords
from rdfia.transfer.config import FineTuneArgs
from rdfia.transfer.fine_tune import FineTuneModule

ACCURACY = axis_label("accuracy", share=True, better="more")


def run(args: FineTuneArgs) -> dict[str, Any]:
    """Train, test and draw; return the content of results.json."""
    args = devices.settle(args)
    reading: dict[str, Any] = {
        "batch_size": args.batch_size,
        "seed": args.seed,
        "image_size": 64 if args.fast_dev_run else args.image_size,
        "train_on_val": args.train_on_val,
    }
    watching = {"watch_test": True} if args.watch_test else {}
    images = open_dataset(args.dataset, args.data_dir, channels=3, **reading, **args.reading(), **watching)
    images.prepare_data()
    lightning.seed_everything(args.seed, workers=True, verbose=False)
    fixed: dict[str, Any] = {"data_dir": weights_root(args.data_dir), "classes": len(images.classes)}
    fixed |= {"image_size": reading["image_size"], "class_names": images.classes}
    images.setup()
    if args.balanced:
        counts = images.train_data.labels.bincount(minlength=len(images.classes)).clamp(min=1)
        fixed["class_weights"] = (counts.sum() / (len(counts) * counts)).tolist()
    fixed["resize"] = images.resized
    module = FineTuneModule(**keywords(FineTuneModule, args) | fixed)
    images.train_dataloader()  # says now if a batch is too large
    monitor = "val/balanced_accuracy" if args.balanced else "val/accuracy"
    data = images.describe()
    folder = training.open_run(args, module, data, may_change=resume.MAY_CHANGE_BUT_LENGTH)
    stop = [callbacks.StopEarly(monitor, mode="max", patience=args.patience)] if args.patience else []
    trainer = training.make_trainer(
        args,
        folder,
        monitor=monitor,
        mode="max",
        callbacks=[*stop],
        losses=("train/batch_loss",),
    )
    seconds = training.fit(args, trainer, module, images)
    checkpoint = folder / "checkpoints" / ("last.ckpt" if args.train_on_val else "best.ckpt")
    chosen: dict[str, Any] = {} if args.fast_dev_run else {"ckpt_path": checkpoint, "weights_only": True}
    metrics: dict[str, list[float]] = {}
    notes: list[str] = []
    if isinstance(images, ImageFolderDataModule) and images.unseen.any():
        unseen = images.test_data.part(torch.from_numpy(images.unseen.nonzero()[0]))
        scores = trainer.test(module, eval_loader(unseen, images), verbose=False, **chosen)[0]
        metrics["accuracy_without_duplicates"] = [scores["test/accuracy"]]
        notes = ["accuracy_without_duplicates leaves out test images that train holds, byte for byte"]
    scores = trainer.test(module, images, verbose=False, **chosen)[0]
    metrics |= {"accuracy": [scores["test/accuracy"]], "loss": [scores["test/loss"]]}
    metrics["balanced_accuracy"] = [scores["test/balanced_accuracy"]]
    if not trainer.is_global_zero:
        return {}
    history = runs.read_metrics(folder)
    epochs = len(history.get("val/accuracy", ([], []))[1])
    if epochs and not args.train_on_val:
        metrics[monitor.replace("/", "_")] = [max(history[monitor][1])]
    metrics["epochs"] = [float(epochs)]
    draw(args, module, images.classes, history, scores["test/accuracy"], folder, trainer)
    results = runs.write_results(
        folder,
        trainer,
        technique="fine-tune",
        seeds=[args.seed],
        data=data,
        metrics=metrics,
        selection="last epoch"
        if args.train_on_val
        else f"best {monitor.removeprefix('val/').replace('_', ' ')} on held-out training images",
        wall_seconds=seconds,
        notes=notes,
    )
    wandb_run.finish_last()
    print(f"test accuracy {scores['test/accuracy']:.4f}")
    written = f"results.json, figures/, checkpoints/ in {folder}"
    print("a dry run, nothing kept" if args.fast_dev_run else written)
    return results


def draw(
    args: FineTuneArgs,
    module: FineTuneModule,
    classes: tuple[str, ...],
    history: Mapping[str, plots.Line],
    accuracy: float,
    folder: Path,
    trainer: lightning.Trainer,
) -> None:
    """Draw the curves of a training, and the confusions and the accuracy of each class in its test."""
    val = "trained on, as they are" if args.train_on_val else "held out"
    named = {"train": "train, as augmented", "val": val, "watched": "test (a plot only)"}
    panels = {
        what: {text: history[f"{name}/{what}"] for name, text in named.items() if f"{name}/{what}" in history}
        for what in (axis_label("loss", better="less"), ACCURACY)
    }
    title = f"{args.backbone} {args.layer}: test accuracy {accuracy:.4f}"
    assert module.counts is not None
    shares = (module.counts.diagonal() / module.counts.sum(1).clamp(min=1)).tolist()
    figures = {
        "curves": plots.curves(panels, x_label="batch", title=title),
        "confusion": plots.confusion_matrix(module.counts, classes, title=title),
        "classes": plots.bars({ACCURACY: dict(zip(classes, shares, strict=True))}, title=title),
    }
    for name, figure in figures.items():
        runs.save_figure(folder, name, figure, trainer)
