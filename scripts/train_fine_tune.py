"""Fine-tune a pretrained CNN on 15 Scene or MNIST: a new head, the CNN frozen or unfrozen in stages.

Example: python scripts/train_fine_tune.py --data-dir data --unfreeze-top-at 4 --unfreeze-all-at 8
"""

from dataclasses import dataclass
from typing import Any, Literal

from rdfia.engine.args import TrainerArgs
from rdfia.engine.cli import run_script


@dataclass(frozen=True)
class Args(TrainerArgs):
    """Fine-tune a pretrained CNN: a new head, the CNN frozen or unfrozen in stages."""

    name: str = "fine-tune"
    """Name of the run folder."""
    max_epochs: int = 20
    """Passes over the training data."""
    batch_size: int = 32
    """Images in a step, over all processes together."""
    dataset: Literal["scene15", "mnist"] = "scene15"
    """What is classified."""
    backbone: str = "squeezenet1_1"
    """Architecture, see rdfia.common.backbones."""
    layer: str = "fire9"
    """The head takes this layer's output."""
    weights: str = "imagenet"
    """`imagenet`, `random` or a weight file."""
    image_size: int = 224
    """Side of the images."""
    grids: tuple[int, ...] = (1,)
    """The head sees means over the cells of such grids."""
    hidden: tuple[int, ...] = ()
    """Hidden layers of the head, such as 4096 1000."""
    top: tuple[str, ...] = ()
    """Layers unfrozen first; by default the head's."""
    unfreeze_top_at: int | None = None
    """Epoch, from 0; never by default."""
    unfreeze_all_at: int | None = None
    """Epoch, from 0; never by default."""
    head_lr: float = 1e-3
    """Learning rate of the head."""
    top_lr: float = 3e-4
    """Of the layers unfrozen first."""
    trunk_lr: float = 1e-4
    """Of the rest."""
    weight_decay: float = 1e-2
    """Of all weights."""
    label_smoothing: float = 0.1
    """In the training loss."""
    freeze_batch_norm: bool = True
    """Keep the statistics of BatchNorm."""
    augment: bool = True
    """Train on random parts of images, mirrored or not."""
    patience: int | None = None
    """Stop after so many epochs without a better val/accuracy."""
    train_on_val: bool = False
    """Train on the validation images too; the last epoch counts."""
    watch_test: bool = False
    """Draw test curves too; they choose nothing."""

    def needs(self) -> tuple[str, ...]:
        """Return what is classified."""
        return (self.dataset,)


def main(args: Args) -> dict[str, Any]:
    """Train, test and draw; return the content of results.json."""
    # Imported here, so that --help does not wait for torch.
    import lightning

    from datamodules.files import data_root
    from datamodules.mnist import MNISTDataModule
    from datamodules.scene15 import CLASSES, Scene15DataModule
    from rdfia.common import plots
    from rdfia.engine import callbacks, devices, runs, training, wandb_run
    from rdfia.transfer.fine_tune import FineTuneModule

    if args.compile:
        raise ValueError("--compile is for GANs and DANN; leave it out")
    if args.image_size < 32:
        raise ValueError(f"--image-size is at least 32, got {args.image_size}")
    if args.patience is not None and args.patience < 1:
        raise ValueError(f"--patience is at least 1, got {args.patience}")
    if args.train_on_val and args.patience:
        raise ValueError("--patience needs images that are not trained on; leave --train-on-val out")
    args = devices.settle(args)
    reading: dict[str, Any] = {
        "batch_size": args.batch_size,
        "seed": args.seed,
        "image_size": 64 if args.fast_dev_run else args.image_size,
        "train_on_val": args.train_on_val,
    }
    if args.dataset == "mnist":
        if args.watch_test:
            raise ValueError("--watch-test is for 15 Scene; leave it out")
        images, classes = MNISTDataModule(args.data_dir, channels=3, **reading), tuple("0123456789")
    else:
        images = Scene15DataModule(args.data_dir, watch_test=args.watch_test, **reading)
        classes = CLASSES
    images.prepare_data()
    lightning.seed_everything(args.seed, workers=True, verbose=False)
    flags = ("backbone", "layer", "weights", "grids", "hidden", "top", "unfreeze_top_at", "unfreeze_all_at")
    flags += ("head_lr", "top_lr", "trunk_lr", "weight_decay", "label_smoothing", "freeze_batch_norm")
    flags += ("augment", "seed")
    fixed: dict[str, Any] = {"data_dir": data_root(args.data_dir), "classes": len(classes)}
    fixed["image_size"] = reading["image_size"]
    module = FineTuneModule(**{name: getattr(args, name) for name in flags}, **fixed)
    images.setup()
    images.train_dataloader()  # says now if a batch is too large
    folder = training.open_run(
        args, module, data := images.describe(), may_change=training.MAY_CHANGE_BUT_LENGTH
    )
    stop = [callbacks.StopEarly("val/accuracy", mode="max", patience=args.patience)] if args.patience else []
    trainer = training.make_trainer(
        args,
        folder,
        monitor="val/accuracy",
        mode="max",
        callbacks=[*stop],
        losses=("train/batch_loss",),
        unused_weights=True,
    )
    seconds = training.fit(args, trainer, module, images)
    checkpoint = folder / "checkpoints" / ("last.ckpt" if args.train_on_val else "best.ckpt")
    chosen: dict[str, Any] = {} if args.fast_dev_run else {"ckpt_path": checkpoint, "weights_only": True}
    metrics, notes = {}, []
    if args.dataset == "scene15":
        distinct = Scene15DataModule(args.data_dir, duplicates="drop_from_test", **reading)
        scores = trainer.test(module, distinct, verbose=False, **chosen)[0]
        metrics["accuracy_without_duplicates"] = [scores["test/accuracy"]]
        notes = ["accuracy_without_duplicates leaves out test images that train holds, byte for byte"]
    scores = trainer.test(module, images, verbose=False, **chosen)[0]
    metrics |= {"accuracy": [scores["test/accuracy"]], "loss": [scores["test/loss"]]}
    if not trainer.is_global_zero:
        return {}
    history = runs.read_metrics(folder)
    epochs = len(history.get("val/accuracy", ([], []))[1])
    if epochs and not args.train_on_val:
        metrics["val_accuracy"] = [max(history["val/accuracy"][1])]
    metrics["epochs"] = [float(epochs)]
    val = "trained on, as they are" if args.train_on_val else "held out"
    named = {"train": "train, as augmented", "val": val, "watched": "test (a plot only)"}
    panels = {
        what: {text: history[f"{name}/{what}"] for name, text in named.items() if f"{name}/{what}" in history}
        for what in ("loss", "accuracy")
    }
    title = f"{args.backbone} {args.layer}: test accuracy {scores['test/accuracy']:.4f}"
    runs.save_figure(folder, "curves", plots.curves(panels, x_label="batch", title=title), trainer)
    assert module.counts is not None
    runs.save_figure(
        folder, "confusion", plots.confusion_matrix(module.counts, classes, title=title), trainer
    )
    shares = (module.counts.diagonal() / module.counts.sum(1).clamp(min=1)).tolist()
    bars = plots.bars({"accuracy": dict(zip(classes, shares, strict=True))}, title=title)
    runs.save_figure(folder, "classes", bars, trainer)
    results = runs.write_results(
        folder,
        trainer,
        technique="fine-tune",
        seeds=[args.seed],
        data=data,
        metrics=metrics,
        selection="last epoch" if args.train_on_val else "best accuracy on held-out training images",
        wall_seconds=seconds,
        notes=notes,
    )
    wandb_run.finish_last()
    print(f"test accuracy {scores['test/accuracy']:.4f}")
    written = f"results.json, figures/, checkpoints/ in {folder}"
    print("a dry run, nothing kept" if args.fast_dev_run else written)
    return results


if __name__ == "__main__":
    run_script(main, Args)
